//! The kept inputs: one text file a target, one input a line, hexadecimal.
//!
//! Owns: that form, so that the corpus is a few files that can be compared line by line. Must never: lose an input.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where the files are.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// The file of a target.
#[must_use]
pub fn file(target: &str) -> PathBuf {
    folder().join(format!("{target}.hex"))
}

/// The inputs of a target.
///
/// # Errors
/// The file cannot be read, or a line is not hexadecimal.
pub fn read(target: &str) -> Result<Vec<Vec<u8>>, String> {
    let path = file(target);
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let line = |(n, line): (usize, &str)| parse(line).ok_or_else(|| format!("{}:{}: not hex", path.display(), n + 1));
    text.lines().enumerate().map(line).collect()
}

/// The file of these inputs, the shortest first.
#[must_use]
pub fn print(mut inputs: Vec<Vec<u8>>) -> String {
    inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    inputs.dedup();
    let mut text = String::new();
    for input in inputs {
        for byte in input {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text
}

fn parse(line: &str) -> Option<Vec<u8>> {
    let digits = line.as_bytes();
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let byte = |pair: &[u8]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_back_sorted_and_once() {
        let text = print(vec![vec![0xff, 0], vec![1], vec![], vec![1]]);
        assert_eq!(text, "\n01\nff00\n");
        let found: Option<Vec<Vec<u8>>> = text.lines().map(parse).collect();
        assert_eq!(found, Some(vec![vec![], vec![1], vec![0xff, 0]]));
        assert_eq!((parse("0"), parse("0g")), (None, None));
    }
}
