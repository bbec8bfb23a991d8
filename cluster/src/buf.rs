//! A writer and a checked reader of bytes.
//!
//! Owns: fixed integers of both byte orders, varints, length-prefixed bytes. Must never: panic on any input, read past
//! the end, or allocate by a length that the input itself does not cover.

use bytes::{Buf, Bytes, BytesMut};

/// What is wrong with bytes that were to be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct DecodeError {
    /// What was expected or found.
    pub what: &'static str,
    /// Position in the input, bytes from its start.
    pub at: usize,
}

/// Epochs, revisions, ids to be given next and positions of snapshots never come so far; one that claims to is refused, so
/// that counting on from what was read never overflows.
pub const COUNTER_MAX: u64 = 1 << 62;

/// Passes a counter that is in bounds; `refused` is the error for one that is not.
///
/// # Errors
/// `refused`.
pub fn counter(value: u64, refused: DecodeError) -> Result<u64, DecodeError> {
    if value <= COUNTER_MAX { Ok(value) } else { Err(refused) }
}

/// Appends values to a buffer.
pub trait Put {
    /// Appends bytes as they are, without a length.
    fn raw(&mut self, bytes: &[u8]);

    /// Appends one byte.
    fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    /// Appends 0 or 1.
    fn flag(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// Appends four bytes, little-endian.
    fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends eight bytes, little-endian.
    fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends sixteen bytes, little-endian.
    fn u128(&mut self, value: u128) {
        self.raw(&value.to_le_bytes());
    }

    /// Appends four bytes, big-endian: for keys, whose bytes order as their values do.
    fn u32_be(&mut self, value: u32) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends eight bytes, big-endian.
    fn u64_be(&mut self, value: u64) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends sixteen bytes, big-endian.
    fn u128_be(&mut self, value: u128) {
        self.raw(&value.to_be_bytes());
    }

    /// Appends a LEB128 varint, 1 to 10 bytes.
    fn var(&mut self, mut value: u64) {
        let mut out = [0u8; 10];
        let mut len = 0;
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            out[len] = if value == 0 { low } else { low | 0x80 };
            len += 1;
            if value == 0 {
                break;
            }
        }
        self.raw(&out[..len]);
    }

    /// Appends a varint length and the bytes.
    fn bytes(&mut self, bytes: &[u8]) {
        self.var(bytes.len() as u64);
        self.raw(bytes);
    }
}

impl Put for Vec<u8> {
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Put for BytesMut {
    fn raw(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A growing buffer that is frozen at the end.
#[derive(Clone, Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Put for Writer {
    fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

impl Writer {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `bytes` bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// What was written, without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.0)
    }

    /// What was written, followed by its CRC-32 (IEEE), little-endian. The counterpart is [`Reader::checked`].
    #[must_use]
    pub fn into_checked(mut self) -> Bytes {
        let crc = crc32fast::hash(&self.0);
        self.u32(crc);
        self.into_bytes()
    }
}

/// Reads values from a buffer; byte slices it returns share the buffer's memory.
#[derive(Clone, Debug)]
pub struct Reader {
    data: Bytes,
    at: usize,
}

impl Reader {
    /// Reads `data` from its start.
    #[must_use]
    pub fn new(data: Bytes) -> Self {
        Self { data, at: 0 }
    }

    /// Checks the trailing CRC-32 that [`Writer::into_checked`] wrote, and reads what stands before it.
    pub fn checked(mut data: Bytes) -> Result<Self, DecodeError> {
        let Some(body) = data.len().checked_sub(4) else {
            return Err(DecodeError { what: "too short for a checksum", at: data.len() });
        };
        let mut tail = data.split_off(body);
        if crc32fast::hash(&data) == tail.get_u32_le() {
            Ok(Self::new(data))
        } else {
            Err(DecodeError { what: "checksum mismatch", at: body })
        }
    }

    /// Checks the trailing CRC-32 as [`Reader::checked`] does, and reads the first `len` bytes at most: no more are copied.
    pub fn checked_start(row: &[u8], len: usize) -> Result<Self, DecodeError> {
        let Some((body, crc)) = row.split_last_chunk::<4>() else {
            return Err(DecodeError { what: "too short for a checksum", at: row.len() });
        };
        if crc32fast::hash(body) == u32::from_le_bytes(*crc) {
            Ok(Self::new(Bytes::copy_from_slice(&body[..len.min(body.len())])))
        } else {
            Err(DecodeError { what: "checksum mismatch", at: body.len() })
        }
    }

    /// An error at the current position.
    #[must_use]
    pub fn error(&self, what: &'static str) -> DecodeError {
        DecodeError { what, at: self.at }
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.data.len()
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// The next `len` bytes, shared.
    pub fn take(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        if len > self.data.len() {
            return Err(self.error("fewer bytes than announced"));
        }
        self.at += len;
        Ok(self.data.split_to(len))
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let Some(found) = self.data.first_chunk::<N>().copied() else {
            return Err(self.error(what));
        };
        self.data.advance(N);
        self.at += N;
        Ok(found)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>("end of bytes, a byte expected").map(|[b]| b)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool, DecodeError> {
        let at = self.error("neither 0 nor 1");
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(at),
        }
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array("end of bytes, four expected").map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array("end of bytes, eight expected").map(u64::from_le_bytes)
    }

    /// Sixteen bytes, little-endian.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        self.array("end of bytes, sixteen expected").map(u128::from_le_bytes)
    }

    /// Four bytes, big-endian.
    pub fn u32_be(&mut self) -> Result<u32, DecodeError> {
        self.array("end of bytes, four expected").map(u32::from_be_bytes)
    }

    /// Eight bytes, big-endian.
    pub fn u64_be(&mut self) -> Result<u64, DecodeError> {
        self.array("end of bytes, eight expected").map(u64::from_be_bytes)
    }

    /// Sixteen bytes, big-endian.
    pub fn u128_be(&mut self) -> Result<u128, DecodeError> {
        self.array("end of bytes, sixteen expected").map(u128::from_be_bytes)
    }

    /// A LEB128 varint in its shortest form; any other form of the same value is refused.
    pub fn var(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for (n, &byte) in self.data.iter().take(10).enumerate() {
            let low = u64::from(byte & 0x7f);
            if n == 9 && low > 1 {
                return Err(self.error("varint above 64 bits"));
            }
            value |= low << (7 * n);
            if byte & 0x80 == 0 {
                if byte == 0 && n > 0 {
                    return Err(self.error("varint not in its shortest form"));
                }
                self.data.advance(n + 1);
                self.at += n + 1;
                return Ok(value);
            }
        }
        Err(self.error(if self.data.len() < 10 { "end of bytes in a varint" } else { "varint above 64 bits" }))
    }

    /// A varint that counts the items of a list, each at least `item_bytes` (≥ 1) long in the input: so the count may be
    /// used to allocate.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, DecodeError> {
        let at = self.error("list longer than the bytes that hold it");
        let count = self.var()?;
        match usize::try_from(count) {
            Ok(n) if n <= self.data.len() / item_bytes.max(1) => Ok(n),
            _ => Err(at),
        }
    }

    /// A varint length and that many bytes, shared with the input.
    pub fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let len = self.count(1)?;
        self.take(len)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> Bytes {
        self.at += self.data.len();
        self.data.split_to(self.data.len())
    }

    /// Refuses trailing bytes.
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.data.is_empty() { Ok(()) } else { Err(self.error("bytes after the end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let mut w = Writer::new();
        w.u8(7);
        w.flag(true);
        w.u32(1 << 31);
        w.u64(1 << 63);
        w.u128(1 << 127);
        w.u32_be(5);
        w.u64_be(6);
        w.u128_be(7);
        for shift in 0..64 {
            w.var((1 << shift) - 1);
            w.var(1 << shift);
        }
        w.var(u64::MAX);
        w.bytes(b"");
        w.bytes(b"abc");
        w.raw(b"tail");
        let mut r = Reader::new(w.into_bytes());
        assert_eq!(r.u8(), Ok(7));
        assert_eq!(r.flag(), Ok(true));
        assert_eq!(r.u32(), Ok(1 << 31));
        assert_eq!(r.u64(), Ok(1 << 63));
        assert_eq!(r.u128(), Ok(1 << 127));
        assert_eq!(r.u32_be(), Ok(5));
        assert_eq!(r.u64_be(), Ok(6));
        assert_eq!(r.u128_be(), Ok(7));
        for shift in 0..64 {
            assert_eq!(r.var(), Ok((1 << shift) - 1));
            assert_eq!(r.var(), Ok(1 << shift));
        }
        assert_eq!(r.var(), Ok(u64::MAX));
        assert_eq!(r.bytes().unwrap(), "");
        assert_eq!(r.bytes().unwrap(), "abc");
        assert_eq!(r.rest(), "tail");
        assert_eq!(r.remaining(), 0);
        r.finish().unwrap();
    }

    #[test]
    fn bad_input_is_refused() {
        let read = |b: &'static [u8]| Reader::new(Bytes::from_static(b));
        assert!(read(&[]).u8().is_err());
        assert!(read(&[2]).flag().is_err());
        assert!(read(&[1, 2, 3]).u32().is_err());
        assert!(read(&[0x80]).var().is_err());
        assert!(read(&[0x80, 0x00]).var().is_err());
        assert!(read(&[0xff; 10]).var().is_err());
        assert!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]).var().is_err());
        assert!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).bytes().is_err());
        assert!(read(&[4, 1, 2, 3]).bytes().is_err());
        assert!(read(&[3, 1, 1, 1]).count(2).is_err());
        assert!(read(&[1]).finish().is_err());
        assert!(Reader::checked(Bytes::from_static(&[1, 2, 3])).is_err());
    }

    #[test]
    fn checksum_guards_the_body() {
        let mut w = Writer::new();
        w.bytes(b"body");
        let good = w.into_checked();
        assert_eq!(Reader::checked(good.clone()).unwrap().bytes().unwrap(), "body");
        for bit in 0..good.len() * 8 {
            let mut bad = good.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Reader::checked(bad.into()).is_err(), "bit {bit}");
        }
    }
}
