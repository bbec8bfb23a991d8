//! The encoding of a consensus message between nodes.
//!
//! Owns: version 1 of a message. Must never: panic or over-allocate on any input, keep the frame it read in memory, or return a
//! message whose checksums do not match or whose entries do not follow one another.
//!
//! A message is `version u8 | kind u8 | head | [count] | crc u32 | [entry…]`. The head is the kind's own fields in the order
//! of [`Message`], entries aside, integers as varints; a kind that has entries ends it with their count. The checksum,
//! little-endian, covers everything before it; each entry follows with its length before it, in the encoding of [`entry`],
//! which carries a checksum of its own. So no bit of a message is unguarded and no command is summed twice.

use super::entry::{self, get_ballot, get_entry_id, put_ballot, put_entry_id};
use bytes::Bytes;
use synod_cluster::buf::{DecodeError, Put, Reader, Writer};
use synod_cluster::ids::{Ballot, ClusterVersion, Entry, EntryId, Run, Slot};
use synod_paxos::message::{Held, Message};
use synod_paxos::types::{Epoch, Payload, ReadId};

/// The version this module writes.
pub const VERSION: u8 = 1;

/// Shortest encoding of an entry with its length, bytes: what bounds an allocation by their count.
const ENTRY_BYTES_MIN: usize = 13;

/// Shortest encoding of a run, bytes.
const RUN_BYTES_MIN: usize = 4;

/// Which message follows. Numbers are never given to another kind.
mod kind {
    pub const PRE_VOTE: u8 = 1;
    pub const PRE_VOTE_GRANTED: u8 = 2;
    pub const PRE_VOTE_REFUSED: u8 = 3;
    pub const CONFIRM: u8 = 4;
    pub const RELEASED: u8 = 5;
    pub const PREPARE: u8 = 6;
    pub const PROMISE: u8 = 7;
    pub const NACK: u8 = 8;
    pub const FETCH: u8 = 9;
    pub const FETCHED: u8 = 10;
    pub const SYNC: u8 = 11;
    pub const ACCEPT: u8 = 12;
    pub const ACCEPTED: u8 = 13;
    pub const BEHIND: u8 = 14;
    pub const LEARN: u8 = 15;
    pub const LEARNED: u8 = 16;
    pub const READ_PROBE: u8 = 17;
    pub const READ_ACK: u8 = 18;
    pub const TIMEOUT_NOW: u8 = 19;
    /// A [`READ_ACK`] with support.
    pub const READ_ACK_SUPPORT: u8 = 20;
    pub const READ_REQUEST: u8 = 21;
    pub const READ_GRANTED: u8 = 22;
    /// The last kind of the first cluster version; greater kinds belong to later versions.
    pub const LAST_OF_FIRST: u8 = READ_GRANTED;
    /// A [`PRE_VOTE`] with the candidate's log; from cluster version 2 on.
    pub const PRE_VOTE_HELD: u8 = 23;
    /// From cluster version 2 on.
    pub const TRANSFER_REFUSED: u8 = 24;
    /// The last kind of the second cluster version; the third adds none.
    pub const LAST_OF_SECOND: u8 = TRANSFER_REFUSED;
}

/// The encoding of `message` in a buffer of its own.
#[must_use]
pub fn encode(message: &Message) -> Bytes {
    let mut out = Writer::with_capacity(size_hint(message));
    encode_into(message, &mut out);
    out.into_bytes()
}

/// About how many bytes [`encode_into`] appends: never far below.
#[must_use]
pub fn size_hint(message: &Message) -> usize {
    let (entries, runs) = match message {
        Message::Fetched { entries, .. }
        | Message::Sync { entries, .. }
        | Message::Accept { entries, .. }
        | Message::Learn { entries, .. } => (entries.as_slice(), 0),
        Message::Promise { runs, .. } | Message::Behind { runs, .. } => ([].as_slice(), runs.len()),
        _ => ([].as_slice(), 0),
    };
    96 + 16 * runs + entries.iter().map(Entry::size).sum::<usize>()
}

/// Appends the encoding of `message`.
pub fn encode_into(message: &Message, out: &mut impl Put) {
    let mut head = Summed { out, sum: crc32fast::Hasher::new() };
    head.u8(VERSION);
    let entries = put_head(message, &mut head);
    if let Some(entries) = entries {
        head.var(entries.len() as u64);
    }
    let Summed { out, sum } = head;
    out.u32(sum.finalize());
    for entry in entries.unwrap_or_default() {
        let mut length = Length(0);
        entry::encode(entry, &mut length);
        out.var(length.0);
        entry::encode(entry, out);
    }
}

/// Appends kind and fields; returns the entries, for a kind that has any.
fn put_head<'m>(message: &'m Message, out: &mut impl Put) -> Option<&'m [Entry]> {
    let mut begin = |kind: u8, ballot: Ballot| {
        out.u8(kind);
        put_ballot(out, ballot);
    };
    match message {
        Message::PreVote { ballot, held: None } => begin(kind::PRE_VOTE, *ballot),
        Message::PreVote { ballot, held: Some(held) } => {
            begin(kind::PRE_VOTE_HELD, *ballot);
            put_ballot(out, held.accepted);
            put_entry_id(out, held.last);
            out.var(held.commit.0);
        }
        Message::PreVoteGranted { ballot } => begin(kind::PRE_VOTE_GRANTED, *ballot),
        Message::PreVoteRefused { ballot, promised, leader } => {
            begin(kind::PRE_VOTE_REFUSED, *ballot);
            put_ballot(out, *promised);
            out.flag(leader.is_some());
            if let Some(leader) = leader {
                put_ballot(out, *leader);
            }
        }
        Message::Confirm { ballot } => begin(kind::CONFIRM, *ballot),
        Message::Released { ballot } => begin(kind::RELEASED, *ballot),
        Message::Prepare { ballot, commit } => {
            begin(kind::PREPARE, *ballot);
            out.var(commit.0);
        }
        Message::Promise { ballot, accepted, commit, last, runs } => {
            begin(kind::PROMISE, *ballot);
            put_ballot(out, *accepted);
            out.var(commit.0);
            put_entry_id(out, *last);
            put_runs(out, runs);
        }
        Message::Nack { ballot, promised } => {
            begin(kind::NACK, *ballot);
            put_ballot(out, *promised);
        }
        Message::Fetch { ballot, accepted, from, upto } => {
            begin(kind::FETCH, *ballot);
            put_ballot(out, *accepted);
            out.var(from.0);
            out.var(upto.0);
        }
        Message::Fetched { ballot, prev, entries } => {
            begin(kind::FETCHED, *ballot);
            put_entry_id(out, *prev);
            return Some(entries);
        }
        Message::Sync { ballot, prev, entries, end, commit } => {
            begin(kind::SYNC, *ballot);
            put_entry_id(out, *prev);
            put_entry_id(out, *end);
            out.var(commit.0);
            return Some(entries);
        }
        Message::Accept { ballot, prev, entries, commit, all_have } => {
            begin(kind::ACCEPT, *ballot);
            put_entry_id(out, *prev);
            out.var(commit.0);
            out.var(all_have.0);
            return Some(entries);
        }
        Message::Accepted { ballot, upto, commit } => {
            begin(kind::ACCEPTED, *ballot);
            out.var(upto.0);
            out.var(commit.0);
        }
        Message::Behind { ballot, epoch, accepted, commit, last, runs } => {
            begin(kind::BEHIND, *ballot);
            out.var(epoch.0);
            put_ballot(out, *accepted);
            out.var(commit.0);
            put_entry_id(out, *last);
            put_runs(out, runs);
        }
        Message::Learn { epoch, promised, prev, entries, commit } => {
            out.u8(kind::LEARN);
            out.var(epoch.0);
            put_ballot(out, *promised);
            put_entry_id(out, *prev);
            out.var(commit.0);
            return Some(entries);
        }
        Message::Learned { epoch, commit } => {
            out.u8(kind::LEARNED);
            out.var(epoch.0);
            out.var(commit.0);
        }
        Message::ReadProbe { ballot, probe } => {
            begin(kind::READ_PROBE, *ballot);
            out.var(*probe);
        }
        Message::ReadAck { ballot, probe, support: 0 } => {
            begin(kind::READ_ACK, *ballot);
            out.var(*probe);
        }
        Message::ReadAck { ballot, probe, support } => {
            begin(kind::READ_ACK_SUPPORT, *ballot);
            out.var(*probe);
            out.var(*support);
        }
        Message::ReadRequest { ballot, read } => {
            begin(kind::READ_REQUEST, *ballot);
            out.var(read.0);
        }
        Message::ReadGranted { ballot, read, slot } => {
            begin(kind::READ_GRANTED, *ballot);
            out.var(read.0);
            out.var(slot.0);
        }
        Message::TimeoutNow { ballot } => begin(kind::TIMEOUT_NOW, *ballot),
        Message::TransferRefused { ballot } => begin(kind::TRANSFER_REFUSED, *ballot),
    }
    None
}

/// The cluster version that a node must speak to understand an encoded message.
#[must_use]
pub fn needs(data: &[u8]) -> ClusterVersion {
    match data {
        [VERSION, kind, ..] if *kind <= kind::LAST_OF_FIRST => ClusterVersion::FIRST,
        [VERSION, kind, ..] if *kind <= kind::LAST_OF_SECOND => ClusterVersion::SECOND,
        _ => ClusterVersion::SPOKEN,
    }
}

/// Decodes what [`encode`] wrote. Nothing of it shares the memory of `data`.
pub fn decode(data: Bytes) -> Result<Message, DecodeError> {
    let mut input = Tracked { input: Reader::new(data.clone()), data };
    super::expect_version(&mut input.input, VERSION)?;
    let message = get(&mut input)?;
    input.input.finish()?;
    Ok(message)
}

fn get(input: &mut Tracked) -> Result<Message, DecodeError> {
    let unknown = input.input.error("unknown kind of message");
    let kind = input.input.u8()?;
    let message = match kind {
        kind::FETCHED | kind::SYNC | kind::ACCEPT | kind::LEARN => return get_with_entries(kind, input),
        kind::LEARNED => Message::Learned { epoch: get_epoch(&mut input.input)?, commit: get_slot(&mut input.input)? },
        _ => {
            let input = &mut input.input;
            let ballot = get_ballot(input)?;
            match kind {
                kind::PRE_VOTE => Message::PreVote { ballot, held: None },
                kind::PRE_VOTE_HELD => Message::PreVote {
                    ballot,
                    held: Some(Held {
                        accepted: get_ballot(input)?,
                        last: get_entry_id(input)?,
                        commit: get_slot(input)?,
                    }),
                },
                kind::PRE_VOTE_GRANTED => Message::PreVoteGranted { ballot },
                kind::PRE_VOTE_REFUSED => Message::PreVoteRefused {
                    ballot,
                    promised: get_ballot(input)?,
                    leader: if input.flag()? { Some(get_ballot(input)?) } else { None },
                },
                kind::CONFIRM => Message::Confirm { ballot },
                kind::RELEASED => Message::Released { ballot },
                kind::PREPARE => Message::Prepare { ballot, commit: get_slot(input)? },
                kind::PROMISE => Message::Promise {
                    ballot,
                    accepted: get_ballot(input)?,
                    commit: get_slot(input)?,
                    last: get_entry_id(input)?,
                    runs: get_runs(input)?,
                },
                kind::NACK => Message::Nack { ballot, promised: get_ballot(input)? },
                kind::FETCH => Message::Fetch {
                    ballot,
                    accepted: get_ballot(input)?,
                    from: get_slot(input)?,
                    upto: get_slot(input)?,
                },
                kind::ACCEPTED => Message::Accepted { ballot, upto: get_slot(input)?, commit: get_slot(input)? },
                kind::BEHIND => Message::Behind {
                    ballot,
                    epoch: get_epoch(input)?,
                    accepted: get_ballot(input)?,
                    commit: get_slot(input)?,
                    last: get_entry_id(input)?,
                    runs: get_runs(input)?,
                },
                kind::READ_PROBE => Message::ReadProbe { ballot, probe: input.var()? },
                kind::READ_ACK => Message::ReadAck { ballot, probe: input.var()?, support: 0 },
                kind::READ_ACK_SUPPORT => {
                    Message::ReadAck { ballot, probe: input.var()?, support: get_support(input)? }
                }
                kind::READ_REQUEST => Message::ReadRequest { ballot, read: ReadId(input.var()?) },
                kind::READ_GRANTED => {
                    Message::ReadGranted { ballot, read: ReadId(input.var()?), slot: get_slot(input)? }
                }
                kind::TIMEOUT_NOW => Message::TimeoutNow { ballot },
                kind::TRANSFER_REFUSED => Message::TransferRefused { ballot },
                _ => return Err(unknown),
            }
        }
    };
    input.check()?;
    Ok(message)
}

fn get_with_entries(kind: u8, tracked: &mut Tracked) -> Result<Message, DecodeError> {
    let input = &mut tracked.input;
    if kind == kind::LEARN {
        let epoch = get_epoch(input)?;
        let promised = get_ballot(input)?;
        let prev = get_entry_id(input)?;
        let commit = get_slot(input)?;
        return Ok(Message::Learn { epoch, promised, prev, commit, entries: get_entries(tracked, prev)? });
    }
    let ballot = get_ballot(input)?;
    let prev = get_entry_id(input)?;
    Ok(match kind {
        kind::FETCHED => Message::Fetched { ballot, prev, entries: get_entries(tracked, prev)? },
        kind::SYNC => {
            let end = get_entry_id(input)?;
            let commit = get_slot(input)?;
            Message::Sync { ballot, prev, end, commit, entries: get_entries(tracked, prev)? }
        }
        _ => {
            let commit = get_slot(input)?;
            let all_have = get_slot(input)?;
            Message::Accept { ballot, prev, commit, all_have, entries: get_entries(tracked, prev)? }
        }
    })
}

/// Reads the count, checks the head, reads the entries and that they follow one another from `prev` on.
fn get_entries(tracked: &mut Tracked, prev: EntryId) -> Result<Vec<Entry>, DecodeError> {
    // Four bytes of checksum stand between the count and the entries; they only make the bound looser.
    let count = tracked.input.count(ENTRY_BYTES_MIN)?;
    tracked.check()?;
    let mut entries = Vec::with_capacity(count);
    let mut last = prev.slot.0;
    for _ in 0..count {
        let bytes = tracked.input.bytes()?;
        let at = tracked.input.position() - bytes.len();
        let mut entry = entry::decode(bytes).map_err(|e| DecodeError { at: at + e.at, ..e })?;
        if let Payload::Command(command) = &mut entry.payload {
            // The newest entries and their records stay for long: each would keep all that was read from the connection with it.
            *command = Bytes::copy_from_slice(command);
        }
        if last.checked_add(1) != Some(entry.id.slot.0) {
            return Err(DecodeError { what: "entry out of order", at });
        }
        last = entry.id.slot.0;
        entries.push(entry);
    }
    Ok(entries)
}

fn get_slot(input: &mut Reader) -> Result<Slot, DecodeError> {
    input.var().map(Slot)
}

/// One message has one form: an acknowledgement without support is a [`kind::READ_ACK`].
fn get_support(input: &mut Reader) -> Result<u64, DecodeError> {
    let none = input.error("support of 0 in the kind with support");
    match input.var()? {
        0 => Err(none),
        support => Ok(support),
    }
}

fn get_epoch(input: &mut Reader) -> Result<Epoch, DecodeError> {
    input.var().map(Epoch)
}

fn put_runs(out: &mut impl Put, runs: &[Run]) {
    out.var(runs.len() as u64);
    for run in runs {
        out.var(run.first.0);
        put_ballot(out, run.origin);
    }
}

fn get_runs(input: &mut Reader) -> Result<Vec<Run>, DecodeError> {
    let count = input.count(RUN_BYTES_MIN)?;
    let mut runs: Vec<Run> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = input.error("run out of order");
        let run = Run { first: get_slot(input)?, origin: get_ballot(input)? };
        if runs.last().is_some_and(|before| before.first >= run.first) {
            return Err(at);
        }
        runs.push(run);
    }
    Ok(runs)
}

/// Sums what passes through.
struct Summed<'a, P> {
    out: &'a mut P,
    sum: crc32fast::Hasher,
}

impl<P: Put> Put for Summed<'_, P> {
    fn raw(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.out.raw(bytes);
    }
}

/// Counts what would be written.
struct Length(u64);

impl Put for Length {
    fn raw(&mut self, bytes: &[u8]) {
        self.0 += bytes.len() as u64;
    }
}

/// A reader that can sum what it has read.
struct Tracked {
    data: Bytes,
    input: Reader,
}

impl Tracked {
    /// Reads the checksum of everything before it, and compares.
    fn check(&mut self) -> Result<(), DecodeError> {
        let at = self.input.position();
        let sum = crc32fast::hash(&self.data[..at]);
        if self.input.u32()? == sum { Ok(()) } else { Err(DecodeError { what: "message checksum mismatch", at }) }
    }
}
