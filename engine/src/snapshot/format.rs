//! The bytes of a snapshot file, versions 1 and 2.
//!
//! Owns: how header, chunks, index and footer are laid out. Must never: do IO, or return a block whose checksum does not
//! match.
//!
//! ```text
//! prefix   "SYNODSNP" | version u8
//! blocks   kind u8 | length u32 | body | CRC-32 of kind, length and body
//!   'H'    once, first: cluster u128 | shard | genesis | position | its timestamp | membership | epoch start | promised
//!          version 2: | bounds, the row as the state store has it
//!   'C'    any number: (key | value)…, sorted; keys without the node-local space they stood in
//!   'I'    once, last: count | (offset | length | rows | first key)… of the chunks
//! footer   rows u64 | offset of 'I' u64 | XXH3-128 of everything before u128 | "SNAP" | CRC-32 of the footer's other bytes
//! ```
//!
//! Version 2 is of a shard whose bounds are not those that a table's creation gave it. Of any other shard version 1 is written: all
//! binaries read that.
//!
//! Fixed integers are little-endian, the others varints; genesis, keys and values have their length before them. A shard's
//! sessions are rows of its state and stand among the others.

use crate::codec::bounds::BoundsRow;
use crate::codec::entry::{get_ballot, get_entry_id, get_membership, put_ballot, put_entry_id, put_membership};
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer};
use synod_cluster::ids::{ClientId, ShardId, Slot};
use synod_paxos::types::Basis;

/// The version of a shard that never changed its bounds.
pub const VERSION: u8 = 1;
/// The version of one that has a row of its bounds.
pub const NAMES_BOUNDS: u8 = 2;
/// What a snapshot file begins with.
pub const MAGIC: &[u8; 8] = b"SYNODSNP";
/// Length of magic and version.
pub const PREFIX_BYTES: usize = 9;
/// Rows are gathered into chunks of about this size, bytes.
pub const CHUNK_BYTES: usize = 1 << 20;
/// No block's body is longer, bytes: a chunk ends with the row that passes [`CHUNK_BYTES`], a row is at most a value of
/// 16 MiB and its key.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Bytes of the index after which chunks become twice as long, so that the index of a large shard of long keys fits into its
/// block too.
const INDEX_STEP_BYTES: usize = 4 << 20;
/// But no longer than this: a chunk ends with the row that passes it, and that must fit as well.
const CHUNK_BYTES_MAX: usize = 32 << 20;

/// How long the next chunk should be, bytes, where chunks usually have `usual` bytes and the index has `index_bytes` so far.
#[must_use]
pub fn chunk_bytes(usual: usize, index_bytes: usize) -> usize {
    match index_bytes / INDEX_STEP_BYTES {
        0 => usual,
        steps => usual.max((CHUNK_BYTES << steps.min(8)).min(CHUNK_BYTES_MAX)),
    }
}

/// What a chunk takes in the index, bytes at most.
#[must_use]
pub fn place_bytes(first: &[u8]) -> usize {
    4 * 10 + first.len()
}

/// What a block has around its body, bytes.
pub const BLOCK_EXTRA_BYTES: usize = 9;
/// Length of the footer.
pub const FOOTER_BYTES: usize = 40;
/// Length of the part of the footer that the whole file's digest covers.
pub const FOOTER_DIGESTED_BYTES: usize = 16;

const FOOTER_MAGIC: u32 = u32::from_le_bytes(*b"SNAP");

/// What a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the snapshot is of.
    Header = b'H' as isize,
    /// Rows.
    Chunk = b'C' as isize,
    /// Where the chunks are.
    Index = b'I' as isize,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Self::Header, Self::Chunk, Self::Index].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster: ClientId,
    /// The shard.
    pub shard: ShardId,
    /// What its group was created with.
    pub genesis: Bytes,
    /// The position in its log, and what the receiving core needs to know of the log up to there.
    pub basis: Basis,
    /// The timestamp of the entry at that position, µs.
    pub ts: u64,
    /// Its bounds and children, where a split changed them or made it.
    pub bounds: Option<BoundsRow>,
}

impl Header {
    /// The version of the file.
    #[must_use]
    pub fn version(&self) -> u8 {
        if self.bounds.is_some() { NAMES_BOUNDS } else { VERSION }
    }

    /// The body of the header's block.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(128 + self.genesis.len());
        out.u128(self.cluster.0);
        out.var(self.shard.0);
        out.bytes(&self.genesis);
        put_entry_id(&mut out, self.basis.id);
        out.var(self.ts);
        put_membership(&mut out, &self.basis.membership);
        out.var(self.basis.epoch_start.0);
        put_ballot(&mut out, self.basis.promised);
        if let Some(bounds) = &self.bounds {
            out.bytes(&bounds.encode());
        }
        out.into_bytes()
    }

    /// Reads the body back.
    ///
    /// # Errors
    /// It is not one.
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(body);
        let (cluster, shard) = (ClientId(input.u128()?), ShardId(input.var()?));
        let genesis = input.bytes()?;
        let beyond = input.error("a position that no log comes to");
        let (id, ts) = (get_entry_id(&mut input)?, input.var()?);
        synod_cluster::buf::counter(id.slot.0, beyond)?;
        let (membership, epoch_start) = (get_membership(&mut input)?, Slot(input.var()?));
        let promised = get_ballot(&mut input)?;
        let bounds = if input.remaining() > 0 { Some(BoundsRow::decode(input.bytes()?)?) } else { None };
        input.finish()?;
        let basis = Basis { id, membership, epoch_start, promised };
        Ok(Self { cluster, shard, genesis, basis, ts, bounds })
    }
}

/// Where a chunk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkPlace {
    /// Its block's first byte in the file.
    pub offset: u64,
    /// Length of its block.
    pub bytes: u64,
    /// Its rows.
    pub rows: u64,
    /// Its first key.
    pub first: Bytes,
}

/// The body of the index.
#[must_use]
pub fn encode_index(chunks: &[ChunkPlace]) -> Bytes {
    let mut out = Writer::with_capacity(16 + chunks.iter().map(|c| 30 + c.first.len()).sum::<usize>());
    out.var(chunks.len() as u64);
    for chunk in chunks {
        out.var(chunk.offset);
        out.var(chunk.bytes);
        out.var(chunk.rows);
        out.bytes(&chunk.first);
    }
    out.into_bytes()
}

/// Reads the body of the index back.
///
/// # Errors
/// It is not one.
pub fn decode_index(body: Bytes) -> Result<Vec<ChunkPlace>, DecodeError> {
    let mut input = Reader::new(body);
    let count = input.count(4)?;
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        let (offset, bytes, rows) = (input.var()?, input.var()?, input.var()?);
        chunks.push(ChunkPlace { offset, bytes, rows, first: input.bytes()? });
    }
    input.finish()?;
    Ok(chunks)
}

/// The end of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Rows of all chunks.
    pub rows: u64,
    /// Where the index begins.
    pub index: u64,
    /// XXH3-128 of everything before it.
    pub digest: u128,
}

impl Footer {
    /// The part that the digest covers.
    #[must_use]
    pub fn digested(&self) -> [u8; FOOTER_DIGESTED_BYTES] {
        let mut out = [0; FOOTER_DIGESTED_BYTES];
        out[..8].copy_from_slice(&self.rows.to_le_bytes());
        out[8..].copy_from_slice(&self.index.to_le_bytes());
        out
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(FOOTER_BYTES);
        out.raw(&self.digested());
        out.u128(self.digest);
        out.u32(FOOTER_MAGIC);
        out.into_checked()
    }

    /// Reads the bytes back.
    ///
    /// # Errors
    /// They are not a footer: the file was cut, or is none.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::checked(bytes)?;
        let (rows, index, digest) = (input.u64()?, input.u64()?, input.u128()?);
        let foreign = input.error("not the end of a snapshot");
        if input.u32()? != FOOTER_MAGIC {
            return Err(foreign);
        }
        input.finish()?;
        Ok(Self { rows, index, digest })
    }
}

/// Magic and version.
#[must_use]
pub fn prefix(version: u8) -> [u8; PREFIX_BYTES] {
    let mut out = [version; PREFIX_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out
}

/// Checks magic and version; the version.
///
/// # Errors
/// What is wrong, and at which byte.
pub fn check_prefix(bytes: &[u8]) -> Result<u8, DecodeError> {
    if !bytes.starts_with(MAGIC) {
        return Err(DecodeError { what: "not a snapshot", at: 0 });
    }
    match bytes.get(8) {
        Some(&version @ (VERSION | NAMES_BOUNDS)) => Ok(version),
        Some(&version) if version > NAMES_BOUNDS => {
            Err(DecodeError { what: "written by a newer version (format 2 is the newest known here)", at: 8 })
        }
        Some(_) => Err(DecodeError { what: "of a format version that never was", at: 8 }),
        None => Err(DecodeError { what: "cut before its version", at: 8 }),
    }
}

/// A block around `body`.
///
/// # Panics
/// The body is longer than [`BODY_BYTES_MAX`]: its writer must not let it grow so far.
#[must_use]
pub fn block(kind: Kind, body: &[u8]) -> Vec<u8> {
    assert!(body.len() <= BODY_BYTES_MAX, "a block of {} bytes, {BODY_BYTES_MAX} allowed", body.len());
    let length = u32::try_from(body.len()).expect("the bound above fits");
    let mut out = Vec::with_capacity(body.len() + BLOCK_EXTRA_BYTES);
    out.u8(kind as u8);
    out.u32(length);
    out.raw(body);
    let crc = crc32fast::hash(&out);
    out.u32(crc);
    out
}

/// The length of the block that begins with these (at least five) bytes, the whole block counted.
///
/// # Errors
/// No block begins so.
pub fn block_bytes(head: &[u8]) -> Result<usize, DecodeError> {
    let mut input = Reader::new(Bytes::copy_from_slice(head.get(..5).unwrap_or(head)));
    if Kind::of(input.u8()?).is_none() {
        return Err(DecodeError { what: "unknown kind of block", at: 0 });
    }
    match input.u32()? as usize {
        length if length <= BODY_BYTES_MAX => Ok(length + BLOCK_EXTRA_BYTES),
        _ => Err(DecodeError { what: "block longer than any may be", at: 1 }),
    }
}

/// Opens a whole block: its kind and body.
///
/// # Errors
/// The checksum does not match, or the bytes are not one block.
pub fn open_block(block: Bytes) -> Result<(Kind, Bytes), DecodeError> {
    let bytes = block_bytes(&block)?;
    if bytes != block.len() {
        return Err(DecodeError { what: "block shorter or longer than it says", at: block.len() });
    }
    let mut input =
        if planted!(DamagedChunkAccepted) { Reader::new(block.slice(..bytes - 4)) } else { Reader::checked(block)? };
    let unknown = input.error("unknown kind of block");
    let kind = Kind::of(input.u8()?).ok_or(unknown)?;
    input.u32()?;
    Ok((kind, input.rest()))
}

/// The rows of a chunk's body, in order.
///
/// # Errors
/// The body is damaged.
pub fn rows(body: Bytes) -> Result<Vec<(Bytes, Bytes)>, DecodeError> {
    let mut input = Reader::new(body);
    let mut rows = Vec::new();
    while input.remaining() > 0 {
        rows.push((input.bytes()?, input.bytes()?));
    }
    Ok(rows)
}
