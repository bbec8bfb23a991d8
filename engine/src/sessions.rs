//! Exactly-once: what a shard remembers of its clients' writes.
//!
//! Owns: floors, deadlines and outcomes by client. Lives in memory, since it changes with every write and the log replays
//! it; its rows join the state at a freeze. Must never: forget an outcome at or above its client's floor, save that of a
//! client whose last deadline has passed.
//!
//! A shard that is born of another one begins with the sessions of that. The two share each session until one of them changes it.

use crate::codec::session::SessionRow;
use crate::command::{OpResult, Outcome, WriteId};
use crate::memory::{Account, Held};
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;
use std::sync::Arc;
use synod_cluster::ids::{ClientId, ClientSeq};

pub use synod_cluster::outcomes::{OUTCOMES_BYTES_MAX, outcome_bytes};

/// Outcomes kept of one client: it must raise its floor before it writes more. The client library stays far below.
pub const OUTCOMES_MAX: usize = 1 << 16;

const _: () = assert!(size_of::<(ClientSeq, Outcome)>() <= outcome_bytes(0));
const _: () = assert!(size_of::<OpResult>() <= outcome_bytes(1) - outcome_bytes(0));

/// What a kept outcome takes, bytes.
fn size(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Written(results) => outcome_bytes(results.len()),
        Outcome::System(outcome) => outcome_bytes(0) + outcome.len(),
        Outcome::ExpectationFailed { .. } => outcome_bytes(0),
    }
}

/// What a client's session says of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was executed before: this was the outcome.
    Known(Outcome),
    /// Below the floor: its outcome is no longer kept.
    BelowFloor,
    /// Its deadline has passed: it is not executed, now or ever.
    Expired,
    /// Too many outcomes of its client are kept: it is not executed.
    Full,
    /// It is to be executed now.
    Fresh,
}

#[derive(Clone, Default)]
struct Session {
    floor: ClientSeq,
    last_deadline: u64,
    /// Sorted by seq, all at or above the floor; short, since clients raise the floor as answers arrive.
    outcomes: VecDeque<(ClientSeq, Outcome)>,
    /// Of these.
    bytes: usize,
}

/// What a session takes beside its outcomes, bytes: its place among the clients, and the counts of who shares it.
const SESSION_BYTES: usize = size_of::<Session>() + 48;

/// The sessions of one shard.
#[derive(Default)]
pub struct Sessions {
    /// Shared with the sessions of shards that were born of this one, or that it was born of.
    clients: HashMap<ClientId, Arc<Session>>,
    /// Changed (or dropped) since the last freeze.
    dirty: HashSet<ClientId>,
    /// All sessions with their outcomes.
    held: Held,
}

impl Sessions {
    /// What to do with a write whose entry carries timestamp `now_us`. The order of the checks is part of the guarantee:
    /// known, below the floor, expired, full, fresh.
    #[must_use]
    pub fn judge(&self, id: &WriteId, now_us: u64) -> Verdict {
        let mut full = false;
        if let Some(session) = self.clients.get(&id.client) {
            if let Ok(at) = session.outcomes.binary_search_by_key(&id.seq, |(seq, _)| *seq)
                && !planted!(RetriesExecuteTwice)
            {
                return Verdict::Known(session.outcomes[at].1.clone());
            }
            if id.seq < session.floor {
                return Verdict::BelowFloor;
            }
            // What this write's floor lets go makes room.
            let kept = session.outcomes.len();
            full = kept - session.outcomes.partition_point(|(seq, _)| *seq < id.floor) >= OUTCOMES_MAX;
        }
        if now_us > id.deadline_us && !planted!(DeadlineIgnored) {
            Verdict::Expired
        } else if full {
            Verdict::Full
        } else {
            Verdict::Fresh
        }
    }

    /// Stores the outcome of a write that was executed, raises the floor and drops what lies below it.
    pub fn store(&mut self, id: &WriteId, outcome: Outcome) {
        let mut held = self.held.bytes();
        let session = self.clients.entry(id.client).or_insert_with(|| {
            held += SESSION_BYTES;
            Arc::default()
        });
        // The first change after a birth copies what is kept of this client.
        let session = Arc::make_mut(session);
        held -= session.bytes;
        session.bytes += size(&outcome);
        let at = session.outcomes.partition_point(|(seq, _)| *seq < id.seq);
        session.outcomes.insert(at, (id.seq, outcome));
        session.last_deadline = session.last_deadline.max(id.deadline_us);
        // A write may not name a floor above itself: its own outcome must stay knowable.
        session.floor = session.floor.max(id.floor.min(id.seq));
        while let Some((_, gone)) = session.outcomes.pop_front_if(|(seq, _)| *seq < session.floor) {
            session.bytes -= size(&gone);
        }
        self.held.set(held + session.bytes);
        self.dirty.insert(id.client);
    }

    /// Drops clients whose last deadline lies before `now_us`: no write of theirs can be fresh again.
    pub fn expire(&mut self, now_us: u64) {
        let dirty = &mut self.dirty;
        let mut held = self.held.bytes();
        self.clients.retain(|client, session| {
            let keep = session.last_deadline >= now_us;
            if !keep {
                held -= SESSION_BYTES + session.bytes;
                dirty.insert(*client);
            }
            keep
        });
        self.held.set(held);
    }

    /// The same sessions for a shard that begins with them, all of them yet to be stored there. Takes a little time a client, and none
    /// in proportion to what is kept of it. Counted in the same account, in full: whoever changes a session first has a copy of it.
    #[must_use]
    pub fn copy(&self) -> Self {
        let mut held = self.held.beside();
        held.set(self.held.bytes());
        Self { clients: self.clients.clone(), dirty: self.clients.keys().copied().collect(), held }
    }

    /// Takes in the sessions of another shard: of each client all outcomes that either has, the greater floor and the later deadline.
    /// Floors are the client's own in all shards, so what lies below the greater one is asked for no more. All that it takes in is
    /// yet to be stored here.
    pub fn unite(&mut self, other: &Self) {
        let mut held = self.held.bytes();
        for (client, theirs) in &other.clients {
            self.dirty.insert(*client);
            let Some(mine) = self.clients.get_mut(client) else {
                held += SESSION_BYTES + theirs.bytes;
                self.clients.insert(*client, Arc::clone(theirs));
                continue;
            };
            held -= mine.bytes;
            *mine = Arc::new(Session::union(mine, theirs));
            held += mine.bytes;
        }
        self.held.set(held);
    }

    /// Counts what is kept in this account from now on.
    pub fn share(&mut self, account: &Arc<Account>) {
        self.held.move_to(account);
    }

    /// Bytes kept for all clients.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Bytes kept for a write's client now, and with the floor that it brings, where the write is a new one; `None` where it is
    /// none, and needs no room.
    #[must_use]
    pub fn kept_beside(&self, id: &WriteId) -> Option<(usize, usize)> {
        let Some(session) = self.clients.get(&id.client) else { return Some((0, 0)) };
        let known = session.outcomes.binary_search_by_key(&id.seq, |(seq, _)| *seq).is_ok();
        if known || id.seq < session.floor {
            return None;
        }
        let let_go = session.outcomes.iter().take_while(|(seq, _)| *seq < id.floor.min(id.seq));
        Some((session.bytes, session.bytes - let_go.map(|(_, outcome)| size(outcome)).sum::<usize>()))
    }

    /// Number of clients remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether no client is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// The rows that changed since the last call, in client order; `None` where a client was dropped.
    pub fn take_dirty(&mut self) -> Vec<(ClientId, Option<Bytes>)> {
        let mut dirty: Vec<ClientId> = self.dirty.drain().collect();
        dirty.sort_unstable();
        dirty.into_iter().map(|client| (client, self.clients.get(&client).map(|kept| kept.encode()))).collect()
    }

    /// Puts a row read back into the table.
    ///
    /// # Errors
    /// The row, or an outcome in it, cannot be decoded.
    pub fn load(&mut self, client: ClientId, row: Bytes) -> Result<(), synod_cluster::buf::DecodeError> {
        let row = SessionRow::decode(row)?;
        let outcomes: VecDeque<_> =
            row.outcomes.into_iter().map(|(seq, o)| Ok((seq, Outcome::decode(o)?))).collect::<Result<_, _>>()?;
        let bytes = outcomes.iter().map(|(_, outcome)| size(outcome)).sum();
        let session = Session { floor: row.floor, last_deadline: row.last_deadline, outcomes, bytes };
        let before = self.clients.insert(client, Arc::new(session)).map_or(0, |session| SESSION_BYTES + session.bytes);
        self.held.set(self.held.bytes() + SESSION_BYTES + bytes - before);
        Ok(())
    }
}

impl Session {
    fn union(one: &Self, two: &Self) -> Self {
        let floor = if planted!(MergeLosesFloor) { one.floor.min(two.floor) } else { one.floor.max(two.floor) };
        let last_deadline = one.last_deadline.max(two.last_deadline);
        let mut outcomes: Vec<(ClientSeq, Outcome)> = one.outcomes.iter().chain(&two.outcomes).cloned().collect();
        outcomes.retain(|(seq, _)| *seq >= floor);
        // A write is executed by one shard alone; both know it where one was born of the other.
        outcomes.sort_by_key(|(seq, _)| *seq);
        outcomes.dedup_by_key(|(seq, _)| *seq);
        let bytes = outcomes.iter().map(|(_, outcome)| size(outcome)).sum();
        Self { floor, last_deadline, outcomes: outcomes.into(), bytes }
    }

    fn encode(&self) -> Bytes {
        let outcomes = self.outcomes.iter().map(|(seq, outcome)| (*seq, outcome.encode())).collect();
        SessionRow { floor: self.floor, last_deadline: self.last_deadline, outcomes }.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::OpResult;
    use synod_cluster::ids::Offset;

    fn id(seq: u64, floor: u64, deadline_us: u64) -> WriteId {
        WriteId { client: ClientId(1), seq: ClientSeq(seq), floor: ClientSeq(floor), deadline_us }
    }

    fn outcome(n: u64) -> Outcome {
        Outcome::Written(vec![OpResult { offset: Offset(n), ts_us: n }])
    }

    #[test]
    fn known_beats_floor_beats_deadline() {
        let mut s = Sessions::default();
        assert_eq!(s.judge(&id(5, 0, 100), 100), Verdict::Fresh);
        s.store(&id(5, 3, 100), outcome(5));
        assert_eq!(s.judge(&id(5, 0, 100), 999), Verdict::Known(outcome(5)));
        assert_eq!(s.judge(&id(2, 0, 100), 50), Verdict::BelowFloor);
        assert_eq!(s.judge(&id(6, 0, 100), 101), Verdict::Expired);
        // Out of order, at the floor: still fresh.
        assert_eq!(s.judge(&id(3, 3, 100), 50), Verdict::Fresh);
        s.store(&id(3, 3, 100), outcome(3));
        s.store(&id(9, 9, 100), outcome(9));
        assert_eq!(s.judge(&id(5, 0, 100), 50), Verdict::BelowFloor);
    }

    #[test]
    fn a_client_that_never_raises_its_floor_is_stopped_and_raising_it_helps() {
        let mut s = Sessions::default();
        let most = OUTCOMES_MAX as u64;
        for seq in 1..=most {
            assert_eq!(s.judge(&id(seq, 0, 100), 1), Verdict::Fresh);
            s.store(&id(seq, 0, 100), outcome(seq));
        }
        assert_eq!(s.judge(&id(most + 1, 0, 100), 1), Verdict::Full);
        assert_eq!(s.judge(&id(most + 1, 1, 100), 1), Verdict::Full);
        assert_eq!(s.judge(&id(most, 0, 100), 1), Verdict::Known(outcome(most)));
        assert_eq!(s.judge(&id(most + 1, 2, 100), 1), Verdict::Fresh);
    }

    #[test]
    fn what_is_kept_is_counted_and_given_back() {
        let account = Account::unlimited();
        let mut s = Sessions::default();
        s.store(&id(1, 0, 100), outcome(1));
        s.share(&account);
        let one = account.used();
        assert!(one > size(&outcome(1)));
        let batch = || Outcome::Written(vec![OpResult { offset: Offset(0), ts_us: 0 }; 10_000]);
        let mut seq = 1;
        while s.kept_beside(&id(seq + 1, 0, 100)).unwrap().1 <= OUTCOMES_BYTES_MAX {
            seq += 1;
            s.store(&id(seq, 0, 100), batch());
        }
        assert_eq!(account.used(), s.bytes());
        assert!((OUTCOMES_BYTES_MAX..OUTCOMES_BYTES_MAX + 300_000).contains(&account.used()), "{}", account.used());
        // One that is known, or too old, needs no room; one that raises the floor makes some.
        assert_eq!(s.kept_beside(&id(seq, 0, 100)), None);
        assert!(s.kept_beside(&id(seq + 1, seq, 100)).unwrap().1 < 200_000);
        s.store(&id(seq + 1, seq + 1, 100), outcome(1));
        assert_eq!(account.used(), one);
        let mut again = Sessions::default();
        for (client, row) in s.take_dirty() {
            again.load(client, row.unwrap()).unwrap();
        }
        assert_eq!(again.bytes(), one);
        s.expire(101);
        assert_eq!(account.used(), 0);
    }

    /// As a shard and the one that is born of it go on.
    #[test]
    fn a_copy_knows_the_same_and_what_is_stored_later_is_known_on_one_side_only() {
        let account = Account::unlimited();
        let mut s = Sessions::default();
        s.share(&account);
        for seq in 1..=3 {
            s.store(&id(seq, 0, 100), outcome(seq));
        }
        assert_eq!(s.take_dirty().len(), 1);
        let one = account.used();
        let mut copy = s.copy();
        assert_eq!((copy.bytes(), account.used()), (one, 2 * one));
        let mut stored = Sessions::default();
        for (client, row) in copy.take_dirty() {
            stored.load(client, row.unwrap()).unwrap();
        }
        assert_eq!(stored.judge(&id(2, 0, 100), 1), Verdict::Known(outcome(2)));
        assert!(s.take_dirty().is_empty(), "its own rows are as they were");

        s.store(&id(4, 3, 100), outcome(4));
        copy.store(&id(5, 0, 200), outcome(5));
        assert_eq!(s.judge(&id(2, 0, 100), 1), Verdict::BelowFloor);
        assert_eq!(copy.judge(&id(2, 0, 100), 1), Verdict::Known(outcome(2)));
        assert_eq!(s.judge(&id(5, 0, 100), 1), Verdict::Fresh);
        assert_eq!(copy.judge(&id(4, 0, 100), 1), Verdict::Fresh);
        s.expire(150);
        copy.expire(150);
        assert_eq!((s.len(), copy.len()), (0, 1));
        assert_eq!(account.used(), copy.bytes());
        drop(copy);
        assert_eq!(account.used(), 0);
    }

    /// As a shard and the one that goes into it go on.
    #[test]
    fn two_in_one_know_what_either_knew_and_drop_what_lies_below_the_greater_floor() {
        let account = Account::unlimited();
        let (mut one, mut two) = (Sessions::default(), Sessions::default());
        one.share(&account);
        two.share(&account);
        for seq in [2, 5] {
            one.store(&id(seq, 0, 100), outcome(seq));
        }
        two.store(&id(3, 0, 100), outcome(3));
        two.store(&id(4, 3, 200), outcome(4));
        let other = |seq| WriteId { client: ClientId(2), ..id(seq, 0, 50) };
        two.store(&other(1), outcome(1));
        assert_eq!(one.take_dirty().len(), 1);
        one.unite(&two);
        drop(two);
        let mut stored = Sessions::default();
        for (client, row) in one.take_dirty() {
            stored.load(client, row.unwrap()).unwrap();
        }
        for sessions in [&one, &stored] {
            for seq in 3..=5 {
                assert_eq!(sessions.judge(&id(seq, 0, 100), 1), Verdict::Known(outcome(seq)));
            }
            assert_eq!(sessions.judge(&id(2, 0, 100), 1), Verdict::BelowFloor);
            assert_eq!(sessions.judge(&other(1), 1), Verdict::Known(outcome(1)));
        }
        assert_eq!((account.used(), stored.bytes()), (one.bytes(), one.bytes()));
        one.expire(150);
        assert_eq!(one.len(), 1, "the later deadline counts");
    }

    #[test]
    fn writes_may_arrive_in_any_order() {
        let mut s = Sessions::default();
        for seq in [5, 3, 4, 9, 7] {
            assert_eq!(s.judge(&id(seq, 0, 100), 1), Verdict::Fresh);
            s.store(&id(seq, 0, 100), outcome(seq));
        }
        let mut again = Sessions::default();
        for (client, row) in s.take_dirty() {
            again.load(client, row.unwrap()).unwrap();
        }
        for seq in [3, 4, 5, 7, 9] {
            assert_eq!(s.judge(&id(seq, 0, 100), 1), Verdict::Known(outcome(seq)));
            assert_eq!(again.judge(&id(seq, 0, 100), 1), Verdict::Known(outcome(seq)));
        }
    }

    #[test]
    fn a_write_at_the_floor_needs_room_and_one_below_needs_none() {
        let mut s = Sessions::default();
        s.store(&id(9, 7, 100), outcome(9));
        let kept = size(&outcome(9));
        assert_eq!(s.kept_beside(&id(7, 0, 100)), Some((kept, kept)));
        assert_eq!(s.kept_beside(&id(6, 0, 100)), None);
        assert_eq!(s.kept_beside(&id(9, 0, 100)), None);
    }

    #[test]
    fn a_floor_above_the_write_itself_is_cut() {
        let mut s = Sessions::default();
        s.store(&id(4, 50, 100), outcome(4));
        assert_eq!(s.judge(&id(4, 50, 100), 1), Verdict::Known(outcome(4)));
    }

    #[test]
    fn rows_restore_what_was_known_and_expiry_drops_it() {
        let mut s = Sessions::default();
        s.store(&id(5, 5, 100), outcome(5));
        let rows = s.take_dirty();
        assert!(s.take_dirty().is_empty());
        let mut again = Sessions::default();
        for (client, row) in rows {
            again.load(client, row.unwrap()).unwrap();
        }
        assert_eq!(again.judge(&id(5, 0, 100), 1), Verdict::Known(outcome(5)));
        assert_eq!(again.judge(&id(4, 0, 100), 1), Verdict::BelowFloor);
        again.expire(100);
        assert_eq!(again.len(), 1);
        again.expire(101);
        assert_eq!(again.take_dirty(), vec![(ClientId(1), None)]);
    }
}
