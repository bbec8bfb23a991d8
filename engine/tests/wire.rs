//! The wire encoding of consensus messages: every kind comes back, nothing else is accepted, and the bytes of version 1
//! stay what they are.
//!
//! The fixture holds one message a line, `name hex`. It was written once, by the first version; a line of it never
//! changes, a new kind adds one. `SYNOD_WRITE_FIXTURES=1` appends the lines that are missing.

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use synod_engine::codec::message::{decode, encode, size_hint};
use synod_paxos::message::{Held, Message};
use synod_paxos::types::{
    Ballot, Entry, EntryId, Epoch, Member, MemberRole, Membership, NodeId, Payload, ReadId, Run, Slot,
};

fn ballot(epoch: u64, round: u64, node: u64) -> Ballot {
    Ballot { epoch: Epoch(epoch), round, node: NodeId(node) }
}

fn id(slot: u64, origin: Ballot) -> EntryId {
    EntryId { slot: Slot(slot), origin }
}

/// A no-op, a command and a stop-sign in slots 300, 301, 302.
fn entries() -> Vec<Entry> {
    let origin = ballot(1, 2, 3);
    let members = [(1, MemberRole::Voter), (2, MemberRole::Voter), (9, MemberRole::Learner)];
    let membership = Membership {
        epoch: Epoch(2),
        members: members.map(|(node, role)| Member { node: NodeId(node), role }).to_vec(),
        first_leader: NodeId(1),
    };
    vec![
        Entry::new(id(300, origin), 1_000_000, 900_000, Payload::Noop),
        Entry::new(id(301, origin), 1_000_001, 900_000, Payload::Command(Bytes::from_static(b"a command"))),
        Entry::new(id(302, ballot(1, 7, 2)), 1_000_002, 900_001, Payload::Config(membership)),
    ]
}

fn runs() -> Vec<Run> {
    vec![Run { first: Slot(5), origin: ballot(1, 1, 1) }, Run { first: Slot(200), origin: ballot(1, 2, 3) }]
}

fn samples() -> Vec<(&'static str, Message)> {
    let b = ballot(1, 200, 3);
    let c = ballot(1, 199, 2);
    let prev = id(299, ballot(1, 2, 3));
    let commit = Slot(298);
    let epoch = Epoch(2);
    vec![
        ("pre_vote", Message::PreVote { ballot: b, held: None }),
        ("pre_vote_granted", Message::PreVoteGranted { ballot: b }),
        ("pre_vote_refused", Message::PreVoteRefused { ballot: b, promised: c, leader: Some(ballot(1, 5, 1)) }),
        ("pre_vote_refused_leaderless", Message::PreVoteRefused { ballot: b, promised: c, leader: None }),
        ("confirm", Message::Confirm { ballot: b }),
        ("released", Message::Released { ballot: b }),
        ("prepare", Message::Prepare { ballot: b, commit }),
        ("promise", Message::Promise { ballot: b, accepted: c, commit, last: prev, runs: runs() }),
        (
            "promise_empty",
            Message::Promise { ballot: b, accepted: c, commit: Slot(0), last: EntryId::ZERO, runs: vec![] },
        ),
        ("nack", Message::Nack { ballot: b, promised: c }),
        ("fetch", Message::Fetch { ballot: b, accepted: c, from: Slot(7), upto: Slot(u64::MAX) }),
        ("fetched", Message::Fetched { ballot: b, prev, entries: entries() }),
        ("sync", Message::Sync { ballot: b, prev, entries: entries(), end: id(302, c), commit }),
        ("accept", Message::Accept { ballot: b, prev, entries: entries(), commit, all_have: Slot(100) }),
        ("accept_empty", Message::Accept { ballot: b, prev, entries: vec![], commit, all_have: Slot(0) }),
        ("accepted", Message::Accepted { ballot: b, upto: Slot(302), commit }),
        ("behind", Message::Behind { ballot: b, epoch, accepted: c, commit, last: prev, runs: runs() }),
        ("learn", Message::Learn { epoch, promised: c, prev, entries: entries(), commit }),
        ("learned", Message::Learned { epoch, commit }),
        ("read_probe", Message::ReadProbe { ballot: b, probe: 1 << 40 }),
        ("read_ack", Message::ReadAck { ballot: b, probe: u64::MAX, support: 0 }),
        ("read_ack_support", Message::ReadAck { ballot: b, probe: 3, support: 500_000 }),
        ("read_request", Message::ReadRequest { ballot: b, read: ReadId(u64::MAX) }),
        ("read_granted", Message::ReadGranted { ballot: b, read: ReadId(1 << 50), slot: commit }),
        ("timeout_now", Message::TimeoutNow { ballot: b }),
        ("pre_vote_held", Message::PreVote { ballot: b, held: Some(Held { accepted: c, last: prev, commit }) }),
        ("transfer_refused", Message::TransferRefused { ballot: b }),
    ]
}

fn seed() -> u64 {
    let seed = match std::env::var("SYNOD_SEED") {
        Ok(seed) => seed.parse().expect("SYNOD_SEED is a number"),
        Err(_) => rand::rng().random(),
    };
    println!("replay: SYNOD_SEED={seed} cargo test --release --workspace --test wire");
    seed
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[test]
fn every_kind_comes_back() {
    for (name, message) in samples() {
        let bytes = encode(&message);
        assert!(bytes.len() <= size_hint(&message), "{name}: {} bytes, hint {}", bytes.len(), size_hint(&message));
        assert_eq!(decode(bytes), Ok(message), "{name}");
    }
}

/// Memory that tells when it is given back.
struct Frame(Bytes, Arc<AtomicBool>);

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_command_does_not_keep_the_frame_in_memory() {
    for (name, message) in samples() {
        let gone = Arc::new(AtomicBool::new(false));
        let decoded = decode(Bytes::from_owner(Frame(encode(&message), Arc::clone(&gone)))).unwrap();
        assert!(gone.load(Ordering::Relaxed), "{name}");
        assert_eq!(decoded, message);
    }
}

#[test]
fn every_truncation_is_refused() {
    for (name, message) in samples() {
        let bytes = encode(&message);
        for len in 0..bytes.len() {
            assert!(decode(bytes.slice(..len)).is_err(), "{name} cut to {len} bytes");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(decode(longer.into()).is_err(), "{name} with a byte more");
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for (name, message) in samples() {
        let bytes = encode(&message);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(bad.into()).is_err(), "{name}, bit {bit}");
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    for round in 0..200_000 {
        let mut bytes = vec![0u8; rng.random_range(0..200)];
        rng.fill_bytes(&mut bytes);
        if round % 2 == 0 && bytes.len() >= 2 {
            bytes[0] = 1;
            bytes[1] = rng.random_range(0..24);
        }
        let _ = decode(bytes.into());
    }
    // Damage that keeps most of a message: several bytes of a good one replaced.
    let good: Vec<Bytes> = samples().iter().map(|(_, message)| encode(message)).collect();
    for _ in 0..200_000 {
        let mut bytes = good[rng.random_range(0..good.len())].to_vec();
        for _ in 0..rng.random_range(1..5) {
            let at = rng.random_range(0..bytes.len());
            bytes[at] = rng.random();
        }
        let _ = decode(bytes.into());
    }
}

#[test]
fn entries_and_runs_out_of_order_are_refused() {
    let (b, prev) = (ballot(1, 200, 3), id(299, ballot(1, 2, 3)));
    let mut gap = entries();
    gap.remove(1);
    let mut doubled = entries();
    doubled.insert(1, doubled[0].clone());
    let beyond = vec![Entry::new(id(0, b), 1, 0, Payload::Noop)];
    for (what, prev, entries) in [
        ("gap", prev, gap),
        ("doubled", prev, doubled),
        ("not after prev", id(298, b), entries()),
        ("past the last slot", id(u64::MAX, b), beyond),
    ] {
        let bytes = encode(&Message::Fetched { ballot: b, prev, entries });
        assert_eq!(decode(bytes).unwrap_err().what, "entry out of order", "{what}");
    }
    let mut falling = runs();
    falling.reverse();
    let bytes = encode(&Message::Promise { ballot: b, accepted: b, commit: Slot(0), last: prev, runs: falling });
    assert_eq!(decode(bytes).unwrap_err().what, "run out of order");
}

#[test]
fn a_wrong_entry_checksum_is_refused() {
    let b = ballot(1, 200, 3);
    let mut entries = entries();
    entries[1].crc ^= 1;
    let wrong = entries[1].crc.to_le_bytes();
    let bytes = encode(&Message::Learn { epoch: Epoch(1), promised: b, prev: id(299, b), entries, commit: Slot(1) });
    let at = bytes.windows(4).position(|w| w == wrong).unwrap();
    let refused = decode(bytes).unwrap_err();
    assert_eq!((refused.what, refused.at), ("entry checksum mismatch", at));
}

#[test]
fn an_acknowledgement_without_support_has_one_form() {
    // `ReadAck { ballot: (200, 3, 1), probe: 199, support: 0 }` in the kind that carries support; found by the fuzzer.
    let bytes: &[u8] = &[0x01, 0x14, 0xc8, 0x01, 0x03, 0x01, 0xc7, 0x01, 0x00, 0x44, 0x91, 0xca, 0x4f];
    let refused = decode(Bytes::from_static(bytes)).unwrap_err();
    assert_eq!((refused.what, refused.at), ("support of 0 in the kind with support", 8));
}

#[test]
fn version_1_is_frozen() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wire-v1.txt");
    let mut text = std::fs::read_to_string(&path).unwrap_or_default();
    let known: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, bytes)| (name.to_owned(), bytes.to_owned()))
        .collect();
    let write = std::env::var_os("SYNOD_WRITE_FIXTURES").is_some();
    for (name, message) in samples() {
        let bytes = hex(&encode(&message));
        match known.get(name) {
            Some(frozen) => {
                assert_eq!(&bytes, frozen, "{name} is encoded in another way than version 1 is");
                let raw: Vec<u8> =
                    (0..frozen.len() / 2).map(|i| u8::from_str_radix(&frozen[2 * i..2 * i + 2], 16).unwrap()).collect();
                assert_eq!(decode(raw.into()), Ok(message), "{name} of the fixture");
            }
            None if write => writeln!(text, "{name} {bytes}").unwrap(),
            None => panic!("{} has no line {name}; SYNOD_WRITE_FIXTURES=1 writes it", path.display()),
        }
    }
    if write {
        std::fs::write(&path, text).unwrap();
    }
}
