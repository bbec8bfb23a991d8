//! The keys of a terminal.
//!
//! Owns: which bytes are which key. Must never: know what a key does, read anything or wait.

/// The byte that begins a sequence, or is the key Esc where nothing follows it.
const ESCAPE: u8 = 0x1b;
/// Bytes of a sequence, at most; a longer one is no key.
const SEQUENCE_MAX: usize = 16;

/// A key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Esc.
    Escape,
    /// Backspace, or Delete.
    Backspace,
    /// Tab.
    Tab,
    /// Shift and Tab.
    BackTab,
    /// Arrow up.
    Up,
    /// Arrow down.
    Down,
    /// Page up.
    PageUp,
    /// Page down.
    PageDown,
    /// Home.
    Home,
    /// End.
    End,
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-L.
    Redraw,
}

/// Makes keys of bytes, which come in pieces that end anywhere.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

/// What the bytes at the beginning are.
enum Found {
    /// A key, or nothing that is known, of this many bytes.
    Whole(Option<Key>, usize),
    /// The beginning of something.
    Part,
}

impl Decoder {
    /// The keys that are whole after these bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.pending.extend_from_slice(bytes);
        let (mut keys, mut at) = (Vec::new(), 0);
        while at < self.pending.len() {
            match first(&self.pending[at..]) {
                Found::Whole(key, length) => {
                    keys.extend(key);
                    at += length;
                }
                Found::Part => break,
            }
        }
        self.pending.drain(..at);
        keys
    }

    /// Whether more bytes may make another key of the last ones.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// No more bytes came for a while: a lone escape is the key Esc, anything else no key.
    pub fn give_up(&mut self) -> Option<Key> {
        let lone = self.pending == [ESCAPE];
        self.pending.clear();
        lone.then_some(Key::Escape)
    }
}

/// What `bytes`, of which there is one at least, begin with.
fn first(bytes: &[u8]) -> Found {
    let key = match bytes[0] {
        ESCAPE => return sequence(bytes),
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x08 | 0x7f => Key::Backspace,
        0x03 => Key::Interrupt,
        0x0c => Key::Redraw,
        0x00..=0x1f => return Found::Whole(None, 1),
        _ => return character(bytes),
    };
    Found::Whole(Some(key), 1)
}

fn character(bytes: &[u8]) -> Found {
    let length = match bytes[0] {
        0x00..=0x7f => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        // No character begins so.
        _ => return Found::Whole(None, 1),
    };
    let Some(bytes) = bytes.get(..length) else { return Found::Part };
    match std::str::from_utf8(bytes) {
        Ok(text) => Found::Whole(text.chars().next().map(Key::Char), length),
        Err(_) => Found::Whole(None, 1),
    }
}

/// Sequences as xterm, VT220 and rxvt send them (`man 5 terminfo`: kcuu1, knp, khome and so on).
fn sequence(bytes: &[u8]) -> Found {
    let Some(kind) = bytes.get(1) else { return Found::Part };
    match kind {
        b'[' => {}
        b'O' => {
            let Some(last) = bytes.get(2) else { return Found::Part };
            return Found::Whole(named(b"", *last), 3);
        }
        // The escape was the key Esc, and another key follows.
        _ => return Found::Whole(Some(Key::Escape), 1),
    }
    let parameters = &bytes[2..];
    match parameters.iter().position(|byte| (0x40..=0x7e).contains(byte)) {
        Some(end) => Found::Whole(named(&parameters[..end], parameters[end]), 2 + end + 1),
        None if bytes.len() < SEQUENCE_MAX => Found::Part,
        None => Found::Whole(None, bytes.len()),
    }
}

/// The key of a sequence with these parameters and this last byte. What follows a semicolon are Shift, Alt and Ctrl.
fn named(parameters: &[u8], last: u8) -> Option<Key> {
    let number = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
    Some(match (number, last) {
        (_, b'A') => Key::Up,
        (_, b'B') => Key::Down,
        (_, b'H') | (b"1" | b"7", b'~') => Key::Home,
        (_, b'F') | (b"4" | b"8", b'~') => Key::End,
        (_, b'Z') => Key::BackTab,
        (_, b'M') => Key::Enter,
        (b"3", b'~') => Key::Backspace,
        (b"5", b'~') => Key::PageUp,
        (b"6", b'~') => Key::PageDown,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        Decoder::default().feed(bytes)
    }

    #[test]
    fn bytes_become_keys() {
        assert_eq!(keys(b"q/\r\t"), [Key::Char('q'), Key::Char('/'), Key::Enter, Key::Tab]);
        assert_eq!(keys("ü東\u{7f}".as_bytes()), [Key::Char('ü'), Key::Char('東'), Key::Backspace]);
        assert_eq!(keys(b"\x1b[A\x1bOB\x1b[5~\x1b[6~"), [Key::Up, Key::Down, Key::PageUp, Key::PageDown]);
        assert_eq!(keys(b"\x1b[H\x1bOF\x1b[1~\x1b[4~"), [Key::Home, Key::End, Key::Home, Key::End]);
        assert_eq!(keys(b"\x1b[1;5A\x1b[Z\x03\x0c"), [Key::Up, Key::BackTab, Key::Interrupt, Key::Redraw]);
    }

    #[test]
    fn a_key_may_come_in_pieces() {
        let mut decoder = Decoder::default();
        for byte in [b"\x1b", b"[", b"5"] {
            assert_eq!((decoder.feed(byte), decoder.waits()), (vec![], true));
        }
        assert_eq!((decoder.feed(b"~\xe6"), decoder.waits()), (vec![Key::PageUp], true));
        assert_eq!((decoder.feed(b"\x9d\xb1"), decoder.waits()), (vec![Key::Char('東')], false));
    }

    #[test]
    fn an_escape_that_nothing_follows_is_a_key() {
        let mut decoder = Decoder::default();
        assert!(decoder.feed(b"\x1b").is_empty());
        assert_eq!((decoder.give_up(), decoder.waits()), (Some(Key::Escape), false));
        assert!(decoder.feed(b"\x1b[").is_empty());
        assert_eq!((decoder.give_up(), decoder.waits()), (None, false));
        assert_eq!(decoder.feed(b"\x1bx"), [Key::Escape, Key::Char('x')]);
    }

    #[test]
    fn what_is_no_key_is_passed_over() {
        assert_eq!(keys(b"\x1b[2~\x01\xff\xc3(a"), [Key::Char('('), Key::Char('a')]);
        let mut decoder = Decoder::default();
        let mut long = b"\x1b[".to_vec();
        long.extend([b'1'; 40]);
        assert_eq!((decoder.feed(&long), decoder.waits()), (vec![], false));
        assert_eq!(decoder.feed(b"a"), [Key::Char('a')]);
    }
}
