//! Pieces of a range of keys, for compactions that are asked for.
//!
//! Owns: where a piece ends, and what its compaction takes in. Must never: touch a file.

/// A sorted file.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) level: i32,
    pub(super) bytes: u64,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

/// The keys from the first to the second.
pub(super) type Piece = (Vec<u8>, Vec<u8>);

/// What a compaction takes in.
#[derive(Debug)]
pub(super) struct Taken {
    /// Of all its files.
    pub(super) bytes: u64,
    pub(super) first: Vec<u8>,
    pub(super) last: Vec<u8>,
}

/// The next piece behind a key, of about so many bytes of files where files are not larger, and what its compaction takes in.
pub(super) fn next_piece(files: &[File], behind: Option<&[u8]>, bytes: u64) -> Option<(Piece, Taken)> {
    let mut rest: Vec<&File> = files.iter().filter(|file| behind.is_none_or(|key| *file.last > *key)).collect();
    rest.sort_unstable_by(|a, b| a.last.cmp(&b.last));
    let start = rest.iter().map(|file| &file.first).min()?;
    let start = behind.map_or(&start[..], |key| key.max(start));
    let mut piece = None;
    for file in rest {
        let taken = taken_in(files, start, &file.last);
        if piece.is_some() && taken.bytes > bytes {
            break;
        }
        piece = Some(((start.to_vec(), file.last.clone()), taken));
    }
    piece
}

/// What a compaction of these keys takes in: whole files of level 0, with the files below that they overlap, and further down
/// the files that hold these keys.
fn taken_in(files: &[File], first: &[u8], last: &[u8]) -> Taken {
    let (mut from, mut to) = (first, last);
    let mut grown = true;
    while grown {
        grown = false;
        for file in files.iter().filter(|file| file.level == 0 && *file.first <= *to && *file.last >= *from) {
            grown |= *file.first < *from || *file.last > *to;
            (from, to) = (from.min(&file.first), to.max(&file.last));
        }
    }
    let base = files.iter().map(|file| file.level).filter(|level| *level > 0).min();
    let overlaps = |file: &&File| {
        let (from, to) = if file.level == 0 || Some(file.level) == base { (from, to) } else { (first, last) };
        *file.first <= *to && *file.last >= *from
    };
    let mut taken = Taken { bytes: 0, first: first.to_vec(), last: last.to_vec() };
    for file in files.iter().filter(overlaps) {
        taken.bytes += file.bytes;
        taken.first = taken.first.min(file.first.clone());
        taken.last = taken.last.max(file.last.clone());
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a piece.
    const PIECE_BYTES: u64 = 128 << 20;

    fn file(level: i32, mib: u64, first: &str, last: &str) -> File {
        File { level, bytes: mib << 20, first: first.into(), last: last.into() }
    }

    #[test]
    fn pieces_cover_every_file_and_stay_small_where_files_are() {
        let files = [
            file(0, 4, "c", "d"),
            file(5, 60, "a", "b"),
            file(5, 60, "c", "d"),
            file(6, 60, "a", "c"),
            file(6, 60, "e", "f"),
            file(6, 200, "g", "h"),
        ];
        let (mut behind, mut pieces) = (None, Vec::new());
        while let Some(((first, last), taken)) = next_piece(&files, behind.as_deref(), PIECE_BYTES) {
            let text = |key: &Vec<u8>| String::from_utf8(key.clone()).unwrap();
            pieces.push((text(&first), text(&last), taken.bytes >> 20));
            behind = Some(last);
        }
        let expected = [("a", "b", 120), ("b", "c", 184), ("c", "d", 124), ("e", "f", 60), ("g", "h", 200)];
        let expected: Vec<_> = expected.map(|(a, b, mib)| (a.to_owned(), b.to_owned(), mib)).into();
        assert_eq!(pieces, expected);
    }

    #[test]
    fn level_zero_counts_whole_with_what_lies_under_it() {
        let files = [
            file(0, 1, "b", "m"),
            file(0, 1, "k", "y"),
            file(3, 10, "a", "c"),
            file(3, 10, "x", "z"),
            file(4, 10, "x", "z"),
        ];
        let taken = taken_in(&files, b"b", b"c");
        assert_eq!(taken.bytes >> 20, 22, "both of level 0, both under them, nothing further down");
        assert_eq!((&taken.first[..], &taken.last[..]), (&b"a"[..], &b"z"[..]), "whole files");
        assert_eq!(taken_in(&files, b"x", b"y").bytes >> 20, 32);
    }
}
