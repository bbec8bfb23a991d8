//! What happens beside the records: clients forgotten, positions stored, what the ring is told.

use super::bench::{Bench, TABLE, append, delete, trim};
use crate::codec::keys;
use crate::command::{Op, WriteId, WriteRequest};
use crate::genesis::Genesis;
use crate::machine::{ShardState, Wanted, rows};
use crate::state::StateStore;
use synod_cluster::ids::{ClientId, Entry, EntryId, Offset, Slot, Space};
use synod_cluster::system::{Partitioning, Retention};
use synod_paxos::types::Payload;

impl Bench {
    /// Applies an entry without effects.
    fn noop(&mut self, ts: u64) {
        let id = EntryId { slot: self.state.applied().next(), ..EntryId::ZERO };
        let entry = Entry::new(id, ts, 0, Payload::Noop);
        let _ = self.state.apply(&mut self.store, &mut self.overlay, &entry, Wanted::Nothing).unwrap();
    }
}

/// Every replica forgets a client at the same slot: one whose deadline has passed is kept until then.
#[test]
fn clients_are_forgotten_at_every_4096th_slot() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    let id = WriteId { deadline_us: 5, ..b.id() };
    b.entry(1, &[WriteRequest { id, op: Op::Write { table: TABLE, ops: vec![append("k", &["v"])] } }]);
    b.state.store_sessions(&mut b.store).unwrap();
    while b.state.applied() < Slot(4095) {
        b.noop(10);
    }
    assert_eq!(b.state.sessions().len(), 1);
    b.noop(10);
    assert!(b.state.sessions().is_empty());
    let row = keys::session(Space(2), ClientId(1));
    assert!(b.store.get(&row).unwrap().is_some());
    b.state.store_sessions(&mut b.store).unwrap();
    assert!(b.store.get(&row).unwrap().is_none());
}

#[test]
fn nothing_is_stored_before_a_freeze_where_nothing_moved() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    assert!(!b.state.store_sessions(&mut b.store).unwrap());
    b.write(1, vec![append("k", &["v"])]).unwrap();
    assert!(b.state.store_sessions(&mut b.store).unwrap(), "the client's session");
    assert!(!b.state.store_sessions(&mut b.store).unwrap());
    b.noop(2);
    assert!(b.state.store_sessions(&mut b.store).unwrap(), "the position");
    assert!(!b.state.store_sessions(&mut b.store).unwrap());
    let genesis = Genesis::Shard(b.state.descriptor().clone());
    let mut again = ShardState::load(&mut b.store, Space(2), genesis).unwrap();
    assert_eq!(again.applied(), Slot(2));
    assert!(!again.store_sessions(&mut b.store).unwrap());
}

/// Tails above this timestamp are answered without asking the keys whether they were trimmed.
#[test]
fn the_ring_is_told_when_records_were_trimmed_and_of_nothing_else() {
    let mut b = Bench::new(Partitioning::Hash, Retention::All);
    b.write(10, vec![append("k", &["1", "22"])]).unwrap();
    b.write(20, vec![delete("k"), trim("k", 0), trim("none", 5)]).unwrap();
    assert_eq!(b.state.ring().dropped_ts(), 0);
    b.write(30, vec![trim("k", 1)]).unwrap();
    assert_eq!(b.state.ring().dropped_ts(), 30);
    b.write(40, vec![append("k", &["333"])]).unwrap();
    assert_eq!(b.state.ring().dropped_ts(), 30);
}

#[test]
fn a_record_that_is_gone_is_missing_and_no_other_is_shown() {
    let mut b = Bench::new(Partitioning::Hash, Retention::Latest);
    b.write(10, vec![append("k", &["old", "new"])]).unwrap();
    let (d, head) = (b.state.descriptor().clone(), b.head("k").unwrap());
    let mut record = |offset| rows::record(&mut b.store, &d, Space(2), b"k", &head, Offset(offset));
    assert_eq!(record(1).unwrap().value, "new");
    let error = record(0).unwrap_err().to_string();
    assert!(error.contains("record 0 of key \"k\"") && error.contains("missing"), "{error}");
}
