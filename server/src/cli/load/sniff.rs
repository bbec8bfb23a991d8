//! Files that cannot be read as records as they are: compressed ones, other encodings, other line ends.
//!
//! Owns the signs of such a file, and the remedy that its refusal names. Must never look at more than a file's first bytes or
//! its first record, nor refuse what may be data.

use std::io::{self, Cursor, Read};

/// What is read from.
pub type Input = Box<dyn Read + Send>;

/// Enough for every sign below.
const HEAD_BYTES: usize = 10;

/// The byte-order mark of UTF-8: no part of what a file says.
pub const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Signs of compressed files, their names, and what unpacks them.
const COMPRESSED: [(&[u8], &str, &str); 6] = [
    (b"\x1f\x8b", "gzip", "zcat"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstdcat"),
    (b"\xfd7zXZ\x00", "xz", "xzcat"),
    (b"BZh", "bzip2", "bzcat"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4cat"),
    (b"PK\x03\x04", "zip", "unzip -p"),
];

/// Looks at the first bytes: the input, without a byte-order mark of UTF-8 unless that is kept, or why it cannot be read as
/// records. `any_bytes`: records need not be text.
pub fn look(mut input: Input, any_bytes: bool, keep_mark: bool) -> io::Result<Result<Input, String>> {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    while head.len() < HEAD_BYTES && !head.contains(&b'\n') {
        let mut buffer = [0; HEAD_BYTES];
        match input.read(&mut buffer[..HEAD_BYTES - head.len()]) {
            Ok(0) => break,
            Ok(count) => head.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(why) = compressed(&head).or_else(|| other_encoding(&head).filter(|_| !any_bytes)) {
        return Ok(Err(why));
    }
    if !keep_mark && head.starts_with(UTF8_MARK) {
        head.drain(..UTF8_MARK.len());
    }
    Ok(Ok(Box::new(Cursor::new(head).chain(input))))
}

fn compressed(head: &[u8]) -> Option<String> {
    // Text may begin with the letters of bzip2's sign; what follows them there is the number pi.
    let is_pi = |sign: &[u8]| sign != b"BZh" || head.get(4..10) == Some(b"1AY&SY");
    let (_, name, tool) = COMPRESSED.iter().find(|(sign, ..)| head.starts_with(sign) && is_pi(sign))?;
    Some(format!("the file is compressed ({name}); unpack it on the way: {tool} FILE | synod load TABLE - …"))
}

fn other_encoding(head: &[u8]) -> Option<String> {
    let is_utf16 = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
    is_utf16.then(|| {
        "the file is UTF-16; convert it on the way: iconv -f UTF-16 -t UTF-8 FILE | synod load TABLE - …".to_owned()
    })
}

/// The refusal of a file whose lines end in `\r` alone: all of it would be one record.
pub fn only_carriage_returns() -> String {
    "lines end in CR only; a record ends in LF. Convert it on the way: tr '\\r' '\\n' <FILE | synod load TABLE - …"
        .to_owned()
}

/// The refusal of a header line with a `\r` in it that is neither quoted nor a part of its end: nobody can tell where rows end.
pub fn mixed_line_ends() -> String {
    "line 1 has a CR that is not part of its end; a row ends in LF or in CR LF. Remove stray CRs on the \
     way: tr -d '\\r' <FILE | synod load TABLE - …; if some lines end in CR alone, turn those into LF"
        .to_owned()
}

/// How many `\r` there are that no `\n` follows.
pub fn lone_returns(bytes: &[u8]) -> usize {
    let next = bytes.iter().skip(1).map(Some).chain([None]);
    bytes.iter().zip(next).filter(|(byte, next)| **byte == b'\r' && *next != Some(&b'\n')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(bytes: &[u8], any_bytes: bool, keep_mark: bool) -> Result<Vec<u8>, String> {
        let mut rest = Vec::new();
        look(Box::new(Cursor::new(bytes.to_vec())), any_bytes, keep_mark).unwrap().map(|mut input| {
            input.read_to_end(&mut rest).unwrap();
            rest
        })
    }

    #[test]
    fn compressed_files_are_named_with_the_tool_that_unpacks_them() {
        for (bytes, name, tool) in [
            (&b"\x1f\x8b\x08\0"[..], "gzip", "zcat"),
            (b"\x28\xb5\x2f\xfd\x24", "zstd", "zstdcat"),
            (b"BZh91AY&SY", "bzip2", "bzcat"),
            (b"PK\x03\x04", "zip", "unzip"),
        ] {
            let why = looked(bytes, true, false).unwrap_err();
            assert!(why.contains(name) && why.contains(tool), "{why}");
        }
        for text in [&b"BZhello world"[..], b"PK\n", b"", b"\xff\xfe\xfd", b"k1"] {
            assert_eq!(looked(text, true, false).unwrap(), text);
        }
        assert!(looked(b"\xff\xfei\0d\0", false, true).unwrap_err().contains("UTF-16"));
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_record() {
        let marked = b"\xef\xbb\xbf{\"id\":1}\n";
        assert_eq!(looked(marked, false, false).unwrap(), &marked[3..]);
        assert_eq!(looked(marked, false, true).unwrap(), marked);
        assert_eq!(looked(UTF8_MARK, true, false).unwrap(), b"");
    }

    #[test]
    fn lone_returns_are_told_from_line_ends() {
        assert_eq!((lone_returns(b"a\rb\r\nc\r"), lone_returns(b"\r\r\n"), lone_returns(b"")), (2, 1, 0));
    }
}
