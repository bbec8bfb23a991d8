//! Text that is safe to print: nothing in it moves a cursor, turns the writing round or hides.
//!
//! Owns which characters are escaped, how data and messages show them, and how long a piece of either may be. Must never
//! change what a program reads: a JSON string keeps its value, only its spelling differs.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::ser::Formatter;

/// Characters of a piece of data inside a message: a key, a name, an argument.
const PIECE_MAX: usize = 256;
/// Bytes of a file's name inside a message.
const PATH_MAX: usize = 1_024;

/// Ranges of characters that take no room, change the direction of what follows, or end a line without being `\n`. Marks
/// that combine with a letter are not among them.
const UNSEEN: [(char, char); 19] = [
    ('\u{ad}', '\u{ad}'),       // soft hyphen
    ('\u{34f}', '\u{34f}'),     // grapheme joiner
    ('\u{61c}', '\u{61c}'),     // Arabic letter mark
    ('\u{115f}', '\u{1160}'),   // Hangul fillers
    ('\u{17b4}', '\u{17b5}'),   // Khmer inherent vowels
    ('\u{180b}', '\u{180f}'),   // Mongolian separators
    ('\u{200b}', '\u{200f}'),   // zero-width characters, marks of direction
    ('\u{2028}', '\u{202e}'),   // ends of lines and paragraphs, embeddings, overrides
    ('\u{2060}', '\u{206f}'),   // word joiner, invisible operators, isolates
    ('\u{3164}', '\u{3164}'),   // Hangul filler
    ('\u{fe00}', '\u{fe0f}'),   // variation selectors
    ('\u{feff}', '\u{feff}'),   // byte-order mark
    ('\u{ffa0}', '\u{ffa0}'),   // Hangul filler, half width
    ('\u{fff0}', '\u{fffb}'),   // interlinear annotation
    ('\u{1bca0}', '\u{1bca3}'), // shorthand format controls
    ('\u{1d173}', '\u{1d17a}'), // musical format controls
    ('\u{e0000}', '\u{e007f}'), // tags
    ('\u{e0080}', '\u{e00ff}'), // not assigned, shown as nothing
    ('\u{e0100}', '\u{e0fff}'), // variation selectors, and what is shown as nothing after them
];

/// Whether a terminal would do something else with it than show it.
fn is_unseen(char: char) -> bool {
    char.is_control() || char > '\u{a0}' && UNSEEN.iter().any(|(from, to)| (*from..=*to).contains(&char))
}

fn push(text: &mut String, char: char) {
    match char {
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\t' => text.push_str("\\t"),
        char if is_unseen(char) => text.extend(char.escape_unicode()),
        char => text.push(char),
    }
}

/// Data as printable text, one text for each value: a backslash is doubled, what is not UTF-8 is `\xNN`, control
/// characters and those that are not seen are escaped, everything else is as it is.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => text.push_str("\\\\"),
                char => push(&mut text, char),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Data for the inside of a message: as [`escape`], and no longer than is read at a glance.
pub fn piece(bytes: &[u8]) -> String {
    // What is cut off need not be escaped first.
    let shown = &bytes[..bytes.len().min(4 * (PIECE_MAX + 1))];
    let text = escape(shown);
    match text.char_indices().nth(PIECE_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], bytes.len()),
        None if shown.len() < bytes.len() => format!("{text}… ({} bytes)", bytes.len()),
        None => text,
    }
}

/// A file's name for the inside of a message.
pub fn path(name: &str) -> String {
    bounded(escape(name.as_bytes()), PATH_MAX)
}

/// A message or a line of text whose data is escaped already: what must not reach a terminal is escaped, tabs and backslashes
/// stay.
pub fn harmless(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        if char == '\t' { out.push(char) } else { push(&mut out, char) }
    }
    out
}

/// The text, with its middle left out where it has more than `most` bytes: causes stand at the beginning, consequences at
/// the end.
pub fn bounded(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let note = format!(" … ({} bytes in all) … ", text.len());
    let room = most.saturating_sub(note.len());
    let head = text.floor_char_boundary(room - room / 4);
    let tail = text.ceil_char_boundary(text.len() - room / 4);
    format!("{}{note}{}", &text[..head], &text[tail..])
}

/// One line of JSON in which no character is invisible.
pub fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let mut line = Vec::with_capacity(256);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut line, Visible))?;
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// Compact JSON with the characters that are not seen written as `\uNNNN`.
struct Visible;

impl Formatter for Visible {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, char)) = rest.char_indices().find(|(_, char)| is_unseen(*char)) {
            writer.write_all(&rest.as_bytes()[..at])?;
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + char.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

/// Bytes to base64 text.
pub fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_broken_utf8_are_escaped() {
        assert_eq!(escape("grün".as_bytes()), "grün");
        assert_eq!(escape(b"a\tb\r\n"), "a\\tb\\r\\n");
        assert_eq!(escape(b"\x1b[31m\xff\xc3"), "\\u{1b}[31m\\xff\\xc3");
        assert_eq!(escape("\u{9b}0m\u{7f}".as_bytes()), "\\u{9b}0m\\u{7f}");
    }

    #[test]
    fn two_characters_and_a_newline_look_different() {
        assert_eq!((escape(b"\\n"), escape(b"\n")), ("\\\\n".into(), "\\n".into()));
        assert_ne!(escape(b"\\xff"), escape(b"\xff"));
    }

    #[test]
    fn what_is_not_seen_is_escaped_and_marks_on_letters_stay() {
        for hidden in ["\u{202e}", "\u{2066}", "\u{200b}", "\u{200d}", "\u{feff}", "\u{2028}", "\u{e0041}", "\u{fe0f}"]
        {
            let shown = escape(format!("a{hidden}b").as_bytes());
            assert!(shown.is_ascii() && shown.starts_with("a\\u{") && shown.ends_with("}b"), "{shown}");
            assert_eq!(harmless(&format!("a{hidden}b")), shown);
        }
        let seen = "e\u{301} ไทย हिन्दी 東京 😀 \u{a0}";
        assert_eq!((escape(seen.as_bytes()), harmless(seen)), (seen.to_owned(), seen.to_owned()));
    }

    #[test]
    fn messages_keep_their_backslashes_and_columns() {
        assert_eq!(harmless("a\\n\tb\u{1b}c"), "a\\n\tb\\u{1b}c");
        assert_eq!(harmless(&harmless("\u{7}x\n")), "\\u{7}x\\n");
    }

    #[test]
    fn pieces_and_messages_are_bounded() {
        assert_eq!(piece(b"short"), "short");
        let long = piece(&[b'x'; 5_000]);
        assert!(long.chars().count() < 300 && long.ends_with("… (5000 bytes)"), "{long}");
        let wide = piece(&[0; 300]);
        assert!(wide.chars().count() < 300 && wide.ends_with("… (300 bytes)"), "{wide}");
        let cut = bounded(format!("{}ü{}", "a".repeat(5_000), "z".repeat(5_000)), 1_000);
        assert!(
            cut.len() <= 1_000 && cut.starts_with('a') && cut.ends_with('z') && cut.contains("10002 bytes"),
            "{cut}"
        );
        assert_eq!(bounded(cut.clone(), 1_000), cut);
    }

    #[test]
    fn json_keeps_its_value_and_shows_every_character() {
        let text = "a\u{1b}\u{9b}\u{202e}\u{e0041}\"\\ü\u{200b}";
        let line = json(&text).unwrap();
        assert_eq!(line, "\"a\\u001b\\u009b\\u202e\\udb40\\udc41\\\"\\\\ü\\u200b\"");
        assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
    }
}
