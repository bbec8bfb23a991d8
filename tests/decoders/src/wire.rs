//! What comes over a connection.
//!
//! Owns: consensus messages, with checksums put right so that inputs reach what they guard; frames as the server takes them.
//! Must never: open a socket.

use crate::checks::{canonical, flipped};
use crate::meter;
use crate::rows::with_checksum;
use bytes::Bytes;
use prost::Message as _;
use synod_cluster::buf::{Put, Reader};
use synod_cluster::position::KEY_BYTES_MAX;
use synod_cluster::system::SystemState;
use synod_engine::codec::message as codec;
use synod_engine::command::{self, Op};
use synod_engine::host::{Body, Read};
use synod_proto::{peer, v1};
use synod_server::config::Limits;
use synod_server::node::peer::wire::Frames;
use synod_server::node::{api::convert, map};

/// Checks of one message before its input is given up: each puts one checksum right.
const REPAIRS_MAX: usize = 3;

/// A consensus message: as it stands, and with its checksums put right.
pub fn message(data: &[u8]) -> bool {
    let repaired = repaired(data);
    let mut decoded = false;
    for input in [data, &repaired] {
        if let Err(refused) = codec::decode(Bytes::copy_from_slice(input)) {
            assert!(refused.at <= input.len(), "{refused}, of {}", input.len());
        }
        let Some(found) = canonical(input, codec::decode, codec::encode) else { continue };
        decoded = true;
        // The hint is for numbers of ordinary size; none is longer than ten bytes.
        assert!(input.len() <= 3 * codec::size_hint(&found), "far longer than its hint: {found:?}");
        flipped(input, |damaged| codec::decode(damaged).ok());
    }
    decoded
}

fn repaired(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    for _ in 0..REPAIRS_MAX {
        let at = match codec::decode(Bytes::copy_from_slice(&bytes)) {
            Err(e) if e.what == "message checksum mismatch" => e.at,
            // Cut where its checksum belongs.
            Err(e) if e.what == "end of bytes, four expected" => e.at,
            _ => break,
        };
        bytes.resize(bytes.len().max(at + 4), 0);
        let crc = crc32fast::hash(&bytes[..at]);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }
    with_entries(&bytes).unwrap_or(bytes)
}

/// The message with the checksum of each of its entries put right.
fn with_entries(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut sum = crc32fast::Hasher::new();
    let head = bytes.iter().enumerate().find_map(|(at, byte)| {
        let found = sum.clone().finalize();
        sum.update(&[*byte]);
        let stands = bytes.get(at..at + 4)?;
        (at > 2 && *stands == found.to_le_bytes()).then_some(at + 4)
    })?;
    let mut out = bytes[..head].to_vec();
    let mut rest = Reader::new(Bytes::copy_from_slice(&bytes[head..]));
    while rest.remaining() > 0 {
        let entry = rest.bytes().ok()?;
        out.bytes(&with_checksum(&entry).unwrap_or_else(|| entry.to_vec()));
    }
    Some(out)
}

/// Frames of peers and of clients, and a map, as the server takes them.
pub fn frames(data: &[u8]) -> bool {
    let peer = meter::bounded(data.len(), || peer_frame(data));
    let client = meter::bounded(data.len(), || client_frame(data));
    let map = meter::bounded(data.len(), || shard_map(data));
    peer | client | map
}

/// A link's bytes: in whatever pieces they come, the same frames are read, and the same refusal behind them.
pub fn link(data: &[u8]) -> bool {
    const MOST: usize = 1 << 20;
    let Some((&piece, bytes)) = data.split_first() else { return false };
    let read = |piece: usize| {
        meter::bounded(data.len(), || {
            let (mut frames, mut read) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                frames.extend(piece);
                loop {
                    match frames.take::<peer::PeerFrame>(MOST) {
                        Ok(Some(frame)) => read.push(frame),
                        Ok(None) => break,
                        Err(refused) => return (read, Some(refused.to_string())),
                    }
                }
            }
            (read, None)
        })
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(whole, read(usize::from(piece).max(1)));
    !whole.0.is_empty()
}

fn peer_frame(data: &[u8]) -> bool {
    let Ok(frame) = peer::PeerFrame::decode(Bytes::copy_from_slice(data)) else { return false };
    let mut decoded = false;
    for envelope in frame.envelopes {
        decoded |= codec::decode(envelope.message).is_ok();
    }
    decoded
}

fn client_frame(data: &[u8]) -> bool {
    let Ok(frame) = v1::ClientFrame::decode(Bytes::copy_from_slice(data)) else { return false };
    let limits = Limits::default();
    let mut decoded = false;
    for body in frame.requests.into_iter().filter_map(|request| request.body) {
        let Ok(taken) = convert::body(body, &limits) else { continue };
        decoded = true;
        check_taken(&taken, &limits);
    }
    decoded
}

/// A request that passes the checks is within its limits, and a write in the log equals the write that was checked.
fn check_taken(body: &Body, limits: &Limits) {
    let key_fits = |key: &Bytes| assert!((1..=KEY_BYTES_MAX).contains(&key.len()), "a key of {} bytes", key.len());
    match body {
        Body::Write(request) => {
            let Op::Write { ops, .. } = &request.op else { panic!("a client's write became {request:?}") };
            ops.iter().for_each(|op| key_fits(&op.key));
            let encoded = command::encode_requests(std::iter::once(request), request.size());
            assert!(encoded.len() <= request.size() + 16, "{} bytes, {} estimated", encoded.len(), request.size());
            assert!(request.size() as u64 <= limits.batch_bytes_max.as_u64());
            assert_eq!(command::decode_requests(encoded).as_deref(), Ok(&[request.clone()][..]));
        }
        Body::Read { read: Read::Get { key, .. } | Read::Range { key, .. }, .. } => key_fits(key),
        Body::Read { .. } => {}
    }
}

/// A map that is taken is kept in a file, and read back from it at the next start.
fn shard_map(data: &[u8]) -> bool {
    let Ok(wire) = v1::ShardMap::decode(Bytes::copy_from_slice(data)) else { return false };
    let founded = SystemState::found(7, &["a:1".to_owned()]);
    let delta = v1::ShardMap { since: founded.revision, ..wire.clone() };
    if let Ok(state) = map::with_wire_delta(&founded, delta) {
        assert_eq!(SystemState::decode(state.encode()), Ok(state));
    }
    let Ok(state) = map::from_wire(wire) else { return false };
    // Revision 0 is that of no map.
    if state.revision > 0 {
        assert_eq!(SystemState::decode(state.encode()), Ok(state));
    }
    true
}
