//! Printable places to go on from: a scan's cursor and a tail's token.
//!
//! Owns: their content, their versioned encoding, and the arithmetic on position ranges a tail needs. Must never: hold
//! anything of one replica; both stay good on any replica and across changes of the shard map.
//!
//! Encoding: hex of `version, kind, table (4 bytes), body, check (4 bytes)`; byte strings are a length (varint) and their
//! bytes, numbers are varints in their shortest form, so that a place has one text; the check is the low half of XXH3-64 over what precedes it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

const VERSION: u8 = 1;
const KIND_CURSOR: u8 = 1;
const KIND_TOKEN: u8 = 2;

/// The position of a scan: print it, parse it, and give it to a scan of the same table, keys and direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) table_id: u32,
    pub(crate) reverse: bool,
    /// Forward: the first position wanted. Reverse: the first position no longer wanted, empty for no bound.
    pub(crate) pos: Bytes,
}

/// What a tail has given: for each range of positions, everything at or below a timestamp. Print it, parse it, and start
/// a tail of the same table and keys with it: it goes on without losing or repeating a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub(crate) table_id: u32,
    pub(crate) segments: Vec<Segment>,
}

/// Everything at positions `[from, to)` (empty `to`: no bound) at or below `after_us` was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: Bytes,
    pub(crate) to: Bytes,
    pub(crate) after_us: u64,
    /// In a segment of one key: records of that key up to this offset and timestamp were given as well. Needed where a
    /// stream stops between two records of one timestamp.
    pub(crate) given: Option<Given>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) offset: u64,
    pub(crate) ts_us: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut w = Writer::new(KIND_CURSOR, self.table_id);
        w.number(u64::from(self.reverse));
        w.bytes(&self.pos);
        f.write_str(&w.finish())
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cursor> {
        let (table_id, mut r) = Reader::open("cursor", KIND_CURSOR, text)?;
        let cursor = Cursor { table_id, reverse: r.flag()?, pos: r.bytes()? };
        r.end()?;
        Ok(cursor)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut w = Writer::new(KIND_TOKEN, self.table_id);
        w.number(self.segments.len() as u64);
        for s in &self.segments {
            w.bytes(&s.from);
            w.bytes(&s.to);
            w.number(s.after_us);
            w.number(u64::from(s.given.is_some()));
            if let Some(given) = s.given {
                w.number(given.offset);
                w.number(given.ts_us);
            }
        }
        f.write_str(&w.finish())
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Token> {
        let (table_id, mut r) = Reader::open("token", KIND_TOKEN, text)?;
        let count = r.number()?;
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..count {
            let (from, to, after_us) = (r.bytes()?, r.bytes()?, r.number()?);
            let given = if r.flag()? { Some(Given { offset: r.number()?, ts_us: r.number()? }) } else { None };
            let follows = segments.last().is_none_or(|last| !last.to.is_empty() && last.to <= from);
            if !follows || (!to.is_empty() && to <= from) {
                return Err(r.bad("its ranges are not in order"));
            }
            segments.push(Segment { from, to, after_us, given });
        }
        r.end()?;
        Ok(Token { table_id, segments })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8, table_id: u32) -> Writer {
        let mut out = vec![VERSION, kind];
        out.extend_from_slice(&table_id.to_be_bytes());
        Writer(out)
    }

    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n as u8 & 0x7f) | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, b: &[u8]) {
        self.number(b.len() as u64);
        self.0.extend_from_slice(b);
    }

    fn finish(mut self) -> String {
        let check = xxh3_64(&self.0) as u32;
        self.0.extend_from_slice(&check.to_be_bytes());
        let digit = |n: u8| char::from(b"0123456789abcdef"[usize::from(n)]);
        self.0.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
    }
}

struct Reader {
    what: &'static str,
    data: Bytes,
    at: usize,
}

impl Reader {
    fn open(what: &'static str, kind: u8, text: &str) -> Result<(u32, Reader)> {
        let bad = |why: &str| Error::invalid(what, format!("{why}; pass it as it was printed"));
        let text = text.trim().as_bytes();
        if !text.len().is_multiple_of(2) {
            return Err(bad("it has an odd number of hex digits"));
        }
        let mut raw = Vec::with_capacity(text.len() / 2);
        for pair in text.chunks_exact(2) {
            let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(bad("it is not hex")) };
            raw.push(high << 4 | low);
        }
        let Some((body, check)) = raw.split_last_chunk::<4>() else { return Err(bad("it is too short")) };
        if body.len() < 6 {
            return Err(bad("it is too short"));
        }
        if xxh3_64(body) as u32 != u32::from_be_bytes(*check) {
            return Err(bad("it is damaged (its check does not match)"));
        }
        if body[0] != VERSION {
            return Err(bad(&format!("it is of version {}, this client knows version {VERSION}", body[0])));
        }
        if body[1] != kind {
            return Err(bad("it is of another kind"));
        }
        let table_id = u32::from_be_bytes([body[2], body[3], body[4], body[5]]);
        Ok((table_id, Reader { what, data: Bytes::copy_from_slice(body), at: 6 }))
    }

    fn bad(&self, why: &str) -> Error {
        Error::invalid(self.what, why)
    }

    fn number(&mut self) -> Result<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.data.get(self.at).ok_or_else(|| self.bad("it ends early"))?;
            self.at += 1;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                break;
            }
            n |= low << shift;
            if byte < 0x80 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { Ok(n) } else { Err(self.bad("a number in it is not in its shortest form")) };
            }
        }
        Err(self.bad("a number in it is too long"))
    }

    fn flag(&mut self) -> Result<bool> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.bad("a flag in it is neither 0 nor 1")),
        }
    }

    fn bytes(&mut self) -> Result<Bytes> {
        let len = usize::try_from(self.number()?).map_err(|_| self.bad("a length in it is too long"))?;
        if len > self.data.len() - self.at {
            return Err(self.bad("it ends early"));
        }
        let out = self.data.slice(self.at..self.at + len);
        self.at += len;
        Ok(out)
    }

    fn end(&self) -> Result<()> {
        if self.at == self.data.len() { Ok(()) } else { Err(self.bad("it is too long")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let segment = |from: &'static str, to: &'static str, after_us, given| Segment {
            from: Bytes::from_static(from.as_bytes()),
            to: Bytes::from_static(to.as_bytes()),
            after_us,
            given,
        };
        let given = Some(Given { offset: 7, ts_us: 1_700_000_000_000_001 });
        let segments = vec![
            segment("", "m", 5, None),
            segment("m", "m\0", 1_700_000_000_000_000, given),
            segment("m\0", "", 0, None),
        ];
        Token { table_id: 9, segments }
    }

    #[test]
    fn round_trips() {
        assert_eq!(token().to_string().parse::<Token>().unwrap(), token());
        let cursor = Cursor { table_id: 1, reverse: true, pos: Bytes::from_static(b"\xff\x00") };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
    }

    #[test]
    fn the_first_version_stays_readable() {
        let cursor = Cursor { table_id: 7, reverse: false, pos: Bytes::from_static(b"key") };
        let printed = cursor.to_string();
        assert!(printed.starts_with("01010000000700036b6579"), "{printed}");
        assert_eq!(printed.len(), 2 * (6 + 1 + 4 + 4));
    }

    #[test]
    fn damage_is_named() {
        let text = token().to_string();
        for (bad, why) in [
            (text[..text.len() - 1].to_string(), "odd"),
            (format!("zz{}", &text[2..]), "not hex"),
            (text.replacen("6d", "6e", 1), "damaged"),
            (text[..text.len() - 2].to_string(), "damaged"),
            ("0102".to_string(), "short"),
            (String::new(), "short"),
            (Cursor { table_id: 1, reverse: false, pos: Bytes::new() }.to_string(), "another kind"),
        ] {
            let error = bad.parse::<Token>().unwrap_err().to_string();
            assert!(error.contains(why) && error.starts_with("invalid token"), "{bad}: {error}");
        }
    }

    #[test]
    fn ranges_out_of_order_are_refused() {
        let mut token = token();
        token.segments.swap(0, 1);
        assert!(token.to_string().parse::<Token>().unwrap_err().to_string().contains("order"));
    }
}
