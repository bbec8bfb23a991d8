//! The properties that all formats share.
//!
//! Owns: canonical form, checksums, bounds on memory. Must never: know a format.

use crate::meter;
use bytes::Bytes;
use std::fmt::Debug;

/// Decodes; what was decoded must encode to the same bytes again: a value has one form, and nothing of the input is lost.
pub fn canonical<T, E>(data: &[u8], decode: impl Fn(Bytes) -> Result<T, E>, encode: impl Fn(&T) -> Bytes) -> Option<T> {
    let input = Bytes::copy_from_slice(data);
    let value = meter::bounded(data.len(), || decode(input)).ok()?;
    let again = encode(&value);
    assert!(again == data, "decoded from {data:02x?}, encoded as {:02x?}", &again[..]);
    Some(value)
}

/// A format that ends in a CRC-32: the input as it stands, and with a right checksum behind it. Whatever is accepted is
/// refused with any one bit flipped.
pub fn sealed<T: PartialEq + Debug, E>(
    data: &[u8],
    decode: impl Fn(Bytes) -> Result<T, E>,
    encode: impl Fn(&T) -> Bytes,
) -> bool {
    let with_crc = seal(data);
    let mut decoded = false;
    for row in [data, &with_crc] {
        if canonical(row, &decode, &encode).is_some() {
            decoded = true;
            flipped(row, |damaged| decode(damaged).ok());
        }
    }
    decoded
}

/// The bytes and their CRC-32, little-endian.
pub fn seal(data: &[u8]) -> Vec<u8> {
    [data, &crc32fast::hash(data).to_le_bytes()].concat()
}

/// Two bits are flipped, each by itself: one of the last four bytes and one anywhere, chosen by the input. Both must be
/// refused.
pub fn flipped<T: Debug>(good: &[u8], decode: impl Fn(Bytes) -> Option<T>) {
    let bits = good.len() * 8;
    let chosen = crc32fast::hash(good) as usize;
    for bit in [bits - 1 - chosen % bits.min(32), (chosen >> 5) % bits] {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Some(value) = decode(bad.into()) {
            panic!("bit {bit} of {good:02x?} flipped, and taken as {value:?}");
        }
    }
}

/// Parts of an input, each with its length before it: two bytes, little-endian, cut to what is there.
pub fn sections(data: &[u8]) -> Vec<&[u8]> {
    let (mut rest, mut sections) = (data, Vec::new());
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let (section, after) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
        sections.push(section);
        rest = after;
    }
    sections
}

/// An input of these sections.
#[cfg(test)]
pub fn of_sections(sections: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for section in sections {
        let length = u16::try_from(section.len()).expect("a section of a test is short");
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(section);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_back() {
        let parts: [&[u8]; 3] = [b"abc", b"", b"d"];
        assert_eq!(sections(&of_sections(&parts)), parts);
        assert_eq!(sections(&[9, 0, 1, 2]), [&[1, 2][..]]);
        assert!(sections(&[1]).is_empty());
    }

    #[test]
    fn a_second_form_and_an_unnoticed_bit_are_found_out() {
        let lenient = |data: Bytes| data.first().map(|b| b & 0x7f).ok_or(());
        let strict = |data: Bytes| <[u8; 1]>::try_from(&data[..]).map(|[b]| b);
        let encode = |value: &u8| Bytes::copy_from_slice(&[*value]);
        assert_eq!(canonical(&[3], strict, encode), Some(3));
        assert!(std::panic::catch_unwind(|| canonical(&[0x83], lenient, encode)).is_err());
        assert!(std::panic::catch_unwind(|| sealed(&[3], strict, encode)).is_err());
    }
}
