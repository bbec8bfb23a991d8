//! Merges: what the target has afterwards, what a frozen source does not do, and what does not count.

use super::bench::{Bench, append};
use super::split::{CHILD, apply, dump, entry, records, write};
use crate::codec::absorbed::AbsorbedRow;
use crate::codec::bounds::{BoundsRow, Phase};
use crate::codec::keys;
use crate::command::{
    Absorb, Admin, BeginMerge, Cancel, EndMerge, Freeze, Outcome, Unfreeze, WriteRequest, encode_admin,
};
use crate::genesis::Genesis;
use crate::machine::overlay::Overlay;
use crate::machine::{ABSORBED_MAX, Born, CHANGING_AGAIN, Effects, MergeStep, ShardState, Wanted};
use crate::state::StateStore;
use crate::state::mem::MemState;
use synod_cluster::ids::{EntryId, SYSTEM_SHARD, ShardId, Space};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Descriptor, Partitioning, Retention};
use synod_paxos::types::Epoch;

const EPOCH: Epoch = Epoch(3);

/// Two neighbours: the parent of a split and its child.
struct Pair {
    b: Bench,
    child: ShardState,
    born: Descriptor,
}

fn step(state: &mut ShardState, store: &mut MemState, ts: u64, admin: &Admin) -> Effects {
    let entry = entry(state, ts, encode_admin(admin));
    state.apply(store, &mut Overlay::default(), &entry, Wanted::Results).unwrap()
}

fn begin(target: &ShardState, source: &ShardState) -> BeginMerge {
    let Descriptor { shard, version, from, to, .. } = source.descriptor().clone();
    BeginMerge {
        source: shard,
        version: target.descriptor().version,
        epoch: EPOCH,
        source_version: version,
        source_epoch: EPOCH,
        from,
        to,
        confirmed: vec![],
    }
}

fn freeze(target: &ShardState, source: &ShardState, seq: u64) -> Freeze {
    Freeze { target: target.descriptor().shard, seq, version: source.descriptor().version, epoch: EPOCH }
}

fn changing<T>() -> Result<T, Refusal> {
    Err(Refusal::Changing { retry_after_ms: CHANGING_AGAIN })
}

impl Pair {
    fn new() -> Self {
        let mut b = Bench::new(Partitioning::Range, Retention::All);
        for (at, key) in ["k1", "k3", "k5", "k7"].into_iter().enumerate() {
            b.write(10 + at as u64, vec![append(key, &["a"])]).unwrap();
        }
        let Born { state: child, descriptor: born } = b.born(20, b"k5");
        Self { b, child, born }
    }

    fn request(&mut self, key: &str) -> WriteRequest {
        write(self.b.id(), vec![append(key, &["b"])])
    }

    fn parent(&mut self, ts: u64, admin: &Admin) -> Effects {
        step(&mut self.b.state, &mut self.b.store, ts, admin)
    }

    fn child(&mut self, ts: u64, admin: &Admin) -> Effects {
        step(&mut self.child, &mut self.b.store, ts, admin)
    }

    /// The child is to go into the parent, and is frozen for that at this timestamp; the absorb that follows.
    fn frozen(&mut self, ts: u64) -> Absorb {
        let begin = begin(&self.b.state, &self.child);
        let effects = self.parent(ts, &Admin::BeginMerge(begin));
        assert_eq!((effects.merge, effects.refused), (Some(MergeStep::Began), None));
        let freeze = freeze(&self.b.state, &self.child, 1);
        let effects = self.child(ts, &Admin::Freeze(freeze));
        assert_eq!((effects.merge, effects.refused), (Some(MergeStep::Froze), None));
        let at = self.child.phase().frozen().unwrap().at;
        Absorb { source: CHILD, seq: 1, at }
    }
}

#[test]
fn the_target_has_all_that_both_had() {
    let mut p = Pair::new();
    let (low, high) = (p.request("k1"), p.request("k7"));
    let store = &mut p.b.store;
    apply(&mut p.b.state, store, 30, &low).unwrap();
    let outcome = apply(&mut p.child, store, 90, &high).unwrap();
    let mut before = records(&p.b.state, store);
    before.extend(records(&p.child, store));
    let absorb = p.frozen(40);
    assert_eq!((p.child.descriptor().version, p.child.last_ts()), (3, 90));
    let entry = entry(&p.b.state, 50, encode_admin(&Admin::Absorb(absorb.clone())));
    assert_eq!(p.b.state.takes_in(&entry).unwrap(), Some(absorb.clone()));
    assert!(p.child.is_frozen_at(p.b.state.descriptor().shard, &absorb));
    let space = p.child.space();
    let effects = p.b.state.absorb(&mut p.b.store, &entry, p.child).unwrap();
    assert_eq!(effects.merge, Some(MergeStep::TookIn { source: CHILD, space }));

    p.b.state.store_sessions(&mut p.b.store).unwrap();
    let created = Descriptor { version: 1, from: "".into(), to: "".into(), ..p.b.state.descriptor().clone() };
    let genesis = Genesis::Shard(created);
    let mut loaded = ShardState::load(&mut p.b.store, Space(2), genesis).unwrap();
    for state in [&mut p.b.state, &mut loaded] {
        let Descriptor { version, from, to, .. } = state.descriptor();
        assert_eq!((*version, from.is_empty(), to.is_empty()), (4, true, true));
        assert_eq!((state.last_ts(), state.phase(), state.absorbed()), (90, &Phase::Alone, &[CHILD][..]));
        assert!(state.has_ended(1) && !state.has_ended(2));
        assert_eq!(records(state, &mut p.b.store), before);
    }
    assert_eq!(apply(&mut loaded, &mut p.b.store, 60, &high), Ok(outcome), "it is known what the source executed");
    let mark = p.b.store.get(&keys::absorbed_row(space)).unwrap().unwrap();
    let target = p.b.state.descriptor().shard;
    assert_eq!(AbsorbedRow::decode(mark), Ok(AbsorbedRow { source: CHILD, target }));
    assert_eq!(p.b.store.get(&keys::bounds_row(space)).unwrap(), None);
    assert_eq!(p.b.store.get(&keys::applied(space)).unwrap(), None);
    // Its children are this shard's to tell of.
    assert_eq!(p.b.state.children().len(), 1);
    let row = p.b.state.bounds_row().unwrap();
    assert_eq!((row.merges, &row.absorbed[..]), (1, &[CHILD][..]));
}

#[test]
fn a_lower_shard_goes_into_a_higher_one_too() {
    let p = Pair::new();
    let (mut store, mut parent, mut child) = (p.b.store, p.b.state, p.child);
    let mut before = records(&parent, &mut store);
    before.extend(records(&child, &mut store));
    let made = begin(&child, &parent);
    let _ = step(&mut child, &mut store, 30, &Admin::BeginMerge(made));
    let made = freeze(&child, &parent, 1);
    let _ = step(&mut parent, &mut store, 31, &Admin::Freeze(made));
    let at = parent.phase().frozen().unwrap().at;
    let absorb = Absorb { source: parent.descriptor().shard, seq: 1, at };
    let entry = entry(&child, 32, encode_admin(&Admin::Absorb(absorb)));
    let gone = child.absorb(&mut store, &entry, parent).unwrap().merge;
    assert!(matches!(gone, Some(MergeStep::TookIn { space: Space(2), .. })));
    assert_eq!(records(&child, &mut store), before);
    child.store_sessions(&mut store).unwrap();
    let loaded = ShardState::load(&mut store, child.space(), Genesis::Shard(p.born)).unwrap();
    assert_eq!((loaded.descriptor(), loaded.absorbed()), (child.descriptor(), child.absorbed()));
    assert_eq!(records(&loaded, &mut store), before);
}

#[test]
fn a_frozen_shard_changes_by_nothing_but_an_unfreeze() {
    let mut p = Pair::new();
    p.frozen(40);
    assert_eq!(p.child.changing(), changing::<()>().err());
    assert!(!p.child.may_change_members() && !p.b.state.may_change_members());
    let (version, last_ts) = (p.child.descriptor().version, p.child.last_ts());
    p.child.store_sessions(&mut p.b.store).unwrap();
    let (applied_row, before) = (keys::applied(p.child.space()), dump(&mut p.b.store));
    let request = p.request("k7");
    assert_eq!(apply(&mut p.child, &mut p.b.store, 70, &request), changing::<Outcome>());
    let (target, source) = (p.b.state.descriptor().shard, begin(&p.child, &p.b.state));
    for admin in [
        Admin::BeginMerge(source),
        Admin::Freeze(freeze(&p.b.state, &p.child, 2)),
        Admin::Unfreeze(Unfreeze { target, seq: 2, version: 1 }),
        // Of another merge, which began when it was frozen already.
        Admin::Unfreeze(Unfreeze { target: ShardId(77), seq: 1, version }),
        Admin::Split(super::split::plan(&p.child, b"k6")),
    ] {
        let effects = p.child(80, &admin);
        assert!(effects.refused.is_some() && effects.merge.is_none(), "{admin:?}");
    }
    assert_eq!((p.child.descriptor().version, p.child.last_ts()), (version, last_ts));
    p.child.store_sessions(&mut p.b.store).unwrap();
    let mut after = dump(&mut p.b.store);
    assert_ne!(after.insert(applied_row.clone(), before[&applied_row].clone()), None);
    assert_eq!(after, before, "only its position moves");

    let effects = p.child(90, &Admin::Unfreeze(Unfreeze { target, seq: 1, version: 2 }));
    assert_eq!((effects.merge, effects.refused), (Some(MergeStep::Thawed), None));
    assert_eq!((p.child.descriptor().version, p.child.phase(), p.child.changing()), (4, &Phase::Alone, None));
    assert!(apply(&mut p.child, &mut p.b.store, 100, &request).is_ok());
}

#[test]
fn an_unfreeze_fences_a_freeze_that_is_on_its_way() {
    let mut p = Pair::new();
    let made = begin(&p.b.state, &p.child);
    let _ = p.parent(30, &Admin::BeginMerge(made));
    let (late, target) = (freeze(&p.b.state, &p.child, 1), p.b.state.descriptor().shard);
    // It is a target itself meanwhile: two merges towards each other would wait for ever if that kept it from counting.
    let made = begin(&p.child, &p.b.state);
    let _ = p.child(31, &Admin::BeginMerge(made));
    let effects = p.child(32, &Admin::Unfreeze(Unfreeze { target, seq: 1, version: 2 }));
    assert_eq!((effects.merge, p.child.descriptor().version), (Some(MergeStep::Thawed), 3));
    assert!(p.child.phase().merging().is_some(), "its own merge goes on");
    let _ = p.child(33, &Admin::Cancel(Cancel { seq: 1 }));
    let _ = p.child(34, &Admin::EndMerge(EndMerge { seq: 1 }));
    assert!(p.child(35, &Admin::Freeze(late)).refused.is_some());
    assert_eq!(p.child.phase(), &Phase::Alone);
}

#[test]
fn what_was_cancelled_is_not_absorbed_and_ends() {
    let mut p = Pair::new();
    let absorb = Admin::Absorb(p.frozen(40));
    assert!(!p.b.state.has_ended(1));
    assert!(p.parent(41, &Admin::EndMerge(EndMerge { seq: 1 })).refused.is_some());
    assert_eq!(p.parent(42, &Admin::Cancel(Cancel { seq: 1 })).merge, Some(MergeStep::Cancelled));
    assert!(p.b.state.may_change_members() && !p.b.state.has_ended(1));
    let late = entry(&p.b.state, 43, encode_admin(&absorb));
    assert_eq!(p.b.state.takes_in(&late).unwrap(), None);
    assert!(p.parent(43, &absorb).refused.is_some());
    assert!(p.parent(44, &Admin::Cancel(Cancel { seq: 1 })).refused.is_some());
    assert_eq!(p.parent(45, &Admin::EndMerge(EndMerge { seq: 1 })).merge, Some(MergeStep::Ended));
    assert!(p.b.state.has_ended(1));
    assert_eq!((p.b.state.phase(), p.b.state.descriptor().version), (&Phase::Alone, 2));
}

#[test]
fn a_source_that_is_not_frozen_as_the_absorb_says_is_left_alone() {
    let mut p = Pair::new();
    let absorb = p.frozen(40);
    let (applied, before) = (p.b.state.applied(), dump(&mut p.b.store));
    let other = EntryId { slot: absorb.at.slot.next(), ..absorb.at };
    let other = Absorb { at: other, ..absorb };
    assert!(!p.child.is_frozen_at(p.b.state.descriptor().shard, &other));
    let entry = entry(&p.b.state, 50, encode_admin(&Admin::Absorb(other)));
    assert!(p.b.state.absorb(&mut p.b.store, &entry, p.child).is_err());
    assert_eq!((p.b.state.applied(), dump(&mut p.b.store)), (applied, before));
}

#[test]
fn a_begin_counts_only_as_it_was_computed_and_of_a_neighbour() {
    let mut p = Pair::new();
    let sound = begin(&p.b.state, &p.child);
    let odd = [
        (BeginMerge { version: 1, ..sound.clone() }, "version"),
        (BeginMerge { epoch: Epoch(2), ..sound.clone() }, "epoch"),
        (BeginMerge { from: "k6".into(), ..sound.clone() }, "source"),
        (BeginMerge { source: p.b.state.descriptor().shard, ..sound.clone() }, "source"),
        (BeginMerge { source: SYSTEM_SHARD, ..sound.clone() }, "shard"),
    ];
    for (begin, of) in odd {
        let refused = p.parent(30, &Admin::BeginMerge(begin)).refused;
        assert!(matches!(&refused, Some(Refusal::Invalid { field, .. }) if *field == of), "{refused:?}");
    }
    assert_eq!((p.b.state.phase(), p.b.state.children().len()), (&Phase::Alone, 1));
    let confirmed = vec![CHILD];
    assert_eq!(p.parent(31, &Admin::BeginMerge(BeginMerge { confirmed, ..sound.clone() })).refused, None);
    assert_eq!(p.b.state.children().len(), 0, "the map has it");
    assert!(p.parent(32, &Admin::BeginMerge(sound)).refused.is_some(), "one merge at a time");
    assert!(p.b.split(33, super::split::plan(&p.b.state, b"k3")).refused.is_some());
}

#[test]
fn of_shards_that_went_into_it_a_target_forgets_no_more_than_the_map_knows() {
    let mut p = Pair::new();
    let gone: Vec<ShardId> = (100..).map(ShardId).take(ABSORBED_MAX).collect();
    let (space, row) = (p.b.state.space(), p.b.state.bounds_row().unwrap());
    let row = BoundsRow { absorbed: gone.clone(), ..row };
    let rows = vec![(keys::bounds_row(space), Some(row.encode()))];
    p.b.store.apply(crate::state::StateBatch { rows }).unwrap();
    let created = Descriptor { version: 1, from: "".into(), to: "".into(), ..p.b.state.descriptor().clone() };
    let genesis = Genesis::Shard(created);
    p.b.state.store_sessions(&mut p.b.store).unwrap();
    p.b.state = ShardState::load(&mut p.b.store, space, genesis).unwrap();
    let sound = begin(&p.b.state, &p.child);
    assert!(p.parent(30, &Admin::BeginMerge(sound.clone())).refused.is_some());
    let confirmed = gone[..2].to_vec();
    assert_eq!(p.parent(31, &Admin::BeginMerge(BeginMerge { confirmed, ..sound })).refused, None);
    assert_eq!(p.b.state.absorbed(), &gone[2..]);
}
