//! Exactly-once: what a shard remembers of its clients' writes.
//!
//! Owns: floors, deadlines and outcomes by client. Lives in memory, since it changes with every write and the log replays
//! it; its rows join the state at a freeze. Must never: forget an outcome at or above its client's floor, save that of a
//! client whose last deadline has passed.

use crate::codec::session::SessionRow;
use crate::command::{Outcome, WriteId};
use crate::ids::{ClientId, ClientSeq};
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use std::collections::VecDeque;

/// Outcomes kept of one client: it must raise its floor before it writes more. The client library stays far below.
pub const OUTCOMES_MAX: usize = 1 << 16;

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

#[derive(Default)]
struct Session {
    floor: ClientSeq,
    last_deadline: u64,
    /// Sorted by seq, all at or above the floor; short, since clients raise the floor as answers arrive.
    outcomes: VecDeque<(ClientSeq, Outcome)>,
}

/// The sessions of one shard.
#[derive(Default)]
pub struct Sessions {
    clients: HashMap<ClientId, Session>,
    /// Changed (or dropped) since the last freeze.
    dirty: HashSet<ClientId>,
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
            full = kept >= OUTCOMES_MAX
                && kept - session.outcomes.partition_point(|(seq, _)| *seq < id.floor) >= OUTCOMES_MAX;
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
        let session = self.clients.entry(id.client).or_default();
        let at = session.outcomes.partition_point(|(seq, _)| *seq < id.seq);
        session.outcomes.insert(at, (id.seq, outcome));
        session.last_deadline = session.last_deadline.max(id.deadline_us);
        // A write may not name a floor above itself: its own outcome must stay knowable.
        session.floor = session.floor.max(id.floor.min(id.seq));
        while session.outcomes.front().is_some_and(|(seq, _)| *seq < session.floor) {
            session.outcomes.pop_front();
        }
        self.dirty.insert(id.client);
    }

    /// Drops clients whose last deadline lies before `now_us`: no write of theirs can be fresh again.
    pub fn expire(&mut self, now_us: u64) {
        let dirty = &mut self.dirty;
        self.clients.retain(|client, session| {
            let keep = session.last_deadline >= now_us;
            if !keep {
                dirty.insert(*client);
            }
            keep
        });
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
        dirty.into_iter().map(|client| (client, self.clients.get(&client).map(Session::encode))).collect()
    }

    /// Puts a row read back into the table.
    ///
    /// # Errors
    /// The row, or an outcome in it, cannot be decoded.
    pub fn load(&mut self, client: ClientId, row: Bytes) -> Result<(), crate::codec::buf::DecodeError> {
        let row = SessionRow::decode(row)?;
        let outcomes =
            row.outcomes.into_iter().map(|(seq, o)| Ok((seq, Outcome::decode(o)?))).collect::<Result<_, _>>()?;
        let session = Session { floor: row.floor, last_deadline: row.last_deadline, outcomes };
        self.clients.insert(client, session);
        Ok(())
    }
}

impl Session {
    fn encode(&self) -> Bytes {
        let outcomes = self.outcomes.iter().map(|(seq, outcome)| (*seq, outcome.encode())).collect();
        SessionRow { floor: self.floor, last_deadline: self.last_deadline, outcomes }.encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::OpResult;
    use crate::ids::Offset;

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
