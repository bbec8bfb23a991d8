//! Children of splits on a node of two workers: a child begins with the worker of its parent, whatever the rule says.

use super::{NEW, OLD, Pair, offset};
use crate::harness::{N1, N2, N3, append};
use bytes::Bytes;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;
use synod_cluster::ids::{
    ClientId, ClusterVersion, EntryId, NodeId, Offset, SYSTEM_SHARD, ShardId, Slot, Space, TableId,
};
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{
    Child, Descriptor, Partitioning, Retention, ShardNews, SystemCommand, SystemOutcome, SystemState,
};
use synod_engine::codec::bounds::{BoundsRow, Phase};
use synod_engine::codec::keys::{bounds_row, first_space};
use synod_engine::command::{Op, Outcome};
use synod_engine::genesis::Genesis;
use synod_engine::host::{
    AdminInput, Answer, HandOverInput, Input, NodeInput, NodeReport, PeerInput, SnapshotInput, SplitWanted,
};
use synod_engine::logstore::LogStore;
use synod_engine::node::{WorkerId, worker_of};
use synod_engine::snapshot::Header;
use synod_engine::worker::WorkerOptions;
use synod_paxos::types::{Ballot, Basis, Epoch, Member, MemberRole, Membership};

/// The rule has the parent with the second worker, and the child with the first one.
const PARENT: ShardId = ShardId(3);
const CHILD: ShardId = ShardId(5);
/// Where the parent is split.
const MIDDLE: &[u8] = b"key-15";

fn that_splits() -> WorkerOptions {
    WorkerOptions { speaks: ClusterVersion::FOURTH, ..WorkerOptions::default() }
}

impl Pair {
    /// Both workers make rounds until there is something.
    fn wait<T>(&mut self, what: &str, get: impl FnMut(&mut Self) -> Option<T>) -> T {
        self.wait_of(&[OLD, NEW], what, get)
    }

    /// These workers make rounds until there is something.
    fn wait_of<T>(&mut self, workers: &[usize], what: &str, mut get: impl FnMut(&mut Self) -> Option<T>) -> T {
        for _ in 0..5_000 {
            if let Some(found) = get(self) {
                return found;
            }
            workers.iter().for_each(|worker| self.round(*worker));
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("never: {what}");
    }

    fn answer(&mut self, request: u64) -> Result<Answer, Refusal> {
        self.wait("an answer", |pair| pair.answers.take(request))
    }

    /// A write of a key that the split gives to the child.
    fn write_to_child(&mut self) -> (u64, Input) {
        self.request(CHILD, Op::Write { table: TableId(1), ops: vec![append("key-16", "v")] })
    }

    /// The shards that the node has replicas of.
    fn replicas(&mut self) -> Vec<ShardId> {
        let (tell, told) = channel();
        self.push(NodeInput::Status(Box::new(move |report: NodeReport| tell.send(report).unwrap())));
        self.round(OLD);
        self.round(NEW);
        told.try_recv().unwrap().replicas.into_iter().map(|replica| replica.shard).collect()
    }

    /// The parent is split, and the child is led here.
    fn split(&mut self) {
        self.reserve();
        self.propose_split(&[OLD, NEW]);
        self.until("the child is led", |pair| pair.leads(CHILD));
    }

    /// The child's id is reserved.
    fn reserve(&mut self) {
        let command = SystemCommand::ReserveChild { parent: PARENT, version: 1 };
        let (asked, input) = self.request(SYSTEM_SHARD, Op::System(command.encode()));
        self.push(input);
        let Ok(Answer::Outcome(Outcome::System(outcome))) = self.answer(asked) else { panic!("no outcome") };
        assert_eq!(SystemOutcome::decode(outcome).unwrap(), SystemOutcome::Shard(CHILD));
    }

    /// The parent applies the split, while these workers make rounds.
    fn propose_split(&mut self, workers: &[usize]) {
        for _ in 0..1_000 {
            let (tell, told) = channel();
            let done = Box::new(move |result: Result<(), Refusal>| tell.send(result).unwrap());
            let split = SplitWanted { version: 1, epoch: Epoch(1), child: CHILD, at: Bytes::from_static(MIDDLE) };
            self.push(AdminInput::Split { shard: PARENT, split, done });
            match self.wait_of(workers, "what became of the split", |_| told.try_recv().ok()) {
                Ok(()) => return,
                Err(Refusal::NotReady) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        panic!("never: the shard is split");
    }

    /// Whether the base that the split makes is on the disk, in the child's own first space.
    fn has_base(&self) -> bool {
        let row = bounds_row(first_space(CHILD).unwrap());
        let mut found = false;
        let visited = self.database.each(&mut |key, _| {
            found |= key == row;
            ControlFlow::Continue(())
        });
        visited.unwrap();
        found
    }

    /// How far the parent's log is trimmed, and its last slot.
    fn parents_log(&self) -> (Slot, Slot) {
        let found = self.log.recover_group(PARENT).unwrap().unwrap();
        (found.trimmed.slot, found.last.slot)
    }
}

/// A founding's map of this many nodes, with the table of [`Pair::found`].
fn map_of(nodes: usize) -> SystemState {
    let founders: Vec<String> = ["a:1", "b:1", "c:1"].map(String::from).into_iter().take(nodes).collect();
    let mut map = SystemState { version: ClusterVersion::FOURTH, ..SystemState::found(1, &founders) };
    map.execute(&SystemCommand::CreateTable {
        name: "t".into(),
        partitioning: Partitioning::Range,
        retention: Retention::All,
        shards: 0,
        splits: vec!["key-1".into(), "key-2".into()],
        replicas: u32::try_from(nodes).unwrap(),
    });
    map
}

/// The map hears of the split; the voters of both are these nodes.
fn split_in(map: &mut SystemState, nodes: &[NodeId]) {
    let reserved = map.execute(&SystemCommand::ReserveChild { parent: PARENT, version: 1 }).0;
    assert_eq!(reserved, SystemOutcome::Shard(CHILD));
    let at = Bytes::from_static(MIDDLE);
    let membership = voters(Epoch(1), nodes);
    let child = Child { shard: CHILD, from: at.clone(), to: "key-2".into(), version: 2, membership };
    let news =
        ShardNews { shard: PARENT, from: "key-1".into(), to: at, version: 2, children: vec![child], absorbed: vec![] };
    map.execute(&SystemCommand::ShardNews(news));
    assert_eq!(map.shards[&CHILD].version, 2);
}

/// The only worker under test hears that the child has two members in its second epoch, and no map follows.
fn map_with_a_grown_child() -> SystemState {
    let mut map = map_of(1);
    split_in(&mut map, &[N1]);
    map.shards.change(&CHILD, |d| d.membership = voters(Epoch(2), &[N1, N2])).unwrap();
    map.revision += 100;
    map
}

/// What a worker takes for its own it does not post on: there it would find no replica. A word that rows are there would be lost so, and
/// the replica that waits for them would apply nothing more.
#[test]
fn what_comes_to_the_worker_that_the_rule_names_reaches_the_child_before_its_way_there_and_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(dir.path(), &that_splits());
    pair.found(ClusterVersion::FOURTH);
    pair.split();
    let places = (worker_of(CHILD, 2), pair.shared.places().worker_of(CHILD));
    assert_eq!(places, (WorkerId(0), WorkerId(1)), "the child is with its parent's worker");
    let (early, input) = pair.write_to_child();
    pair.inboxes[OLD].push(input);
    assert_eq!(offset(&pair.answer(early)), Offset(0));
    // On its way to the worker that the rule names it is with nobody.
    pair.full.store(true, Ordering::SeqCst);
    pair.hand_over_shard(CHILD, NEW, WorkerId(0));
    let (late, input) = pair.write_to_child();
    pair.push(input);
    for _ in 0..20 {
        pair.round(OLD);
        pair.round(NEW);
    }
    assert!(pair.answers.take(late).is_none(), "it waits for the child");
    pair.full.store(false, Ordering::SeqCst);
    assert_eq!(offset(&pair.answer(late)), Offset(1));
}

/// Another worker asked for it, and the replica began before its rows were there.
#[test]
fn a_snapshot_of_a_child_that_a_split_has_made_meanwhile_is_of_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(dir.path(), &that_splits());
    pair.found(ClusterVersion::FOURTH);
    pair.split();
    assert!(pair.heard.lock().unwrap().forgotten.is_empty());
    pair.push(SnapshotInput::Loaded { shard: CHILD, space: Space(0x8000_0001), result: Ok(()) });
    pair.until("its file goes", |pair| pair.heard.lock().unwrap().forgotten == [CHILD]);
    let (write, input) = pair.write_to_child();
    pair.push(input);
    assert_eq!(offset(&pair.answer(write)), Offset(0), "the child goes on");
}

fn voters(epoch: Epoch, nodes: &[NodeId]) -> Membership {
    let members = nodes.iter().map(|node| Member { node: *node, role: MemberRole::Voter }).collect();
    Membership { epoch, members, first_leader: nodes[0] }
}

/// The parent, on one worker, is not given up before the child is here. The child is another worker's by the rule.
#[test]
fn a_child_that_a_replica_of_one_worker_waits_for_is_asked_for_by_the_worker_that_is_to_have_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(dir.path(), &that_splits());
    let mut map = map_of(3);
    pair.push(NodeInput::Map(Arc::new(map.clone())));
    pair.wait("the parent is here", |pair| pair.replicas().contains(&PARENT).then_some(()));
    for node in [N2, N3] {
        pair.push(PeerInput::Liveness { node, alive: true });
    }
    // It is split while this node hears nothing of it, and goes to others.
    split_in(&mut map, &[N1, N2, N3]);
    map.execute(&SystemCommand::SetMembers { shard: PARENT, membership: voters(Epoch(2), &[N2, N3]) });
    assert_eq!(map.shards[&PARENT].membership.epoch, Epoch(2));
    pair.push(NodeInput::Map(Arc::new(map)));
    let asked = pair.wait("the child is asked for", |pair| {
        let heard = pair.heard.lock().unwrap();
        heard.asks.iter().find(|(_, _, shard)| *shard == CHILD).copied()
    });
    assert_eq!(asked.0, worker_of(CHILD, 2));
    assert!(pair.replicas().contains(&PARENT), "what it has of the child's range stays");
}

/// The map tells of later members of the child, so its own worker asks for a snapshot. Then the parent's worker applies the split.
#[test]
fn a_child_that_the_parents_worker_has_begun_is_not_asked_for_by_another_worker() {
    let dir = tempfile::tempdir().unwrap();
    let mut pair = Pair::open(dir.path(), &that_splits());
    pair.found(ClusterVersion::FOURTH);
    pair.push(PeerInput::Liveness { node: N2, alive: true });
    pair.inboxes[OLD].push(NodeInput::Map(Arc::new(map_with_a_grown_child())).into());
    let asks = |pair: &mut Pair| {
        let asks = std::mem::take(&mut pair.heard.lock().unwrap().asks);
        (!asks.is_empty()).then_some(asks)
    };
    assert_eq!(pair.wait("the child is asked for", asks), [(worker_of(CHILD, 2), N2, CHILD)]);
    pair.split();
    assert_eq!(pair.shared.places().worker_of(CHILD), WorkerId(1), "the child is with its parent's worker");
    // What was asked while it was not here.
    pair.heard.lock().unwrap().asks.clear();
    for _ in 0..1_000 {
        pair.round(OLD);
        pair.round(NEW);
    }
    assert_eq!(asks(&mut pair), None, "two seconds later it is here all the same");
}

/// A snapshot of the child, of its beginning.
fn childs_snapshot(map: &SystemState) -> Header {
    let Descriptor { shard, from, to, version, retention, membership, .. } = map.shards[&CHILD].clone();
    let descriptor = Descriptor { membership: voters(Epoch(1), &[N1]), ..map.shards[&CHILD].clone() };
    let genesis = Genesis::Child { parent: PARENT, slot: Slot(1), descriptor }.encode();
    let promised = Ballot { epoch: membership.epoch, round: 1, node: N1 };
    let basis = Basis { id: EntryId::ZERO, membership, epoch_start: Slot(0), promised };
    let bounds = Some(BoundsRow {
        version,
        from,
        to,
        retention,
        children: vec![],
        phase: Phase::Alone,
        merges: 0,
        absorbed: vec![],
    });
    Header { cluster: ClientId(1), shard, genesis, basis, ts: 0, bounds }
}

/// A power loss before that replica is in the log would leave nothing of the child here, were the base gone. With the base and without
/// the split in the parent's log the node would not start.
#[test]
fn what_a_split_made_of_a_child_that_another_worker_begins_stays_until_that_replica_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    // What is applied is flushed at once, and what is flushed goes from the log.
    let mut pair = Pair::open(
        dir.path(),
        &WorkerOptions { freeze_log_bytes: 2, trim_slots: 1, trim_slots_flushed: 1, ..that_splits() },
    );
    pair.found(ClusterVersion::FOURTH);
    pair.push(PeerInput::Liveness { node: N2, alive: true });
    pair.reserve();
    let map = map_with_a_grown_child();
    let snapshot = childs_snapshot(&map);
    pair.inboxes[OLD].push(NodeInput::Map(Arc::new(map)).into());
    pair.until("the child is asked for", |pair| !pair.heard.lock().unwrap().asks.is_empty());
    pair.inboxes[OLD].push(SnapshotInput::Fetched(Box::new(snapshot)).into());
    let (shard, space) = pair.wait("its rows are loaded", |pair| pair.heard.lock().unwrap().loads.pop());
    assert_eq!(shard, CHILD);

    // Its worker submits the replica's first write, and learns of no write's end from now on.
    let shut = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&shut);
    pair.log.set_hook(Box::new(move |_| {
        for _ in 0..200 {
            if !gate.load(Ordering::SeqCst) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }));
    pair.inboxes[OLD].push(SnapshotInput::Loaded { shard, space, result: Ok(()) }.into());
    pair.round(OLD);
    shut.store(false, Ordering::SeqCst);

    pair.propose_split(&[NEW]);
    pair.wait_of(&[NEW], "the base is on the disk", |pair| pair.has_base().then_some(()));
    for _ in 0..1_500 {
        pair.round(NEW);
    }
    let (trimmed, split) = pair.parents_log();
    assert!(trimmed < split, "the split is in the log of its parent: {trimmed} of {split}");
    assert!(pair.has_base(), "the base stays");
    pair.push(HandOverInput::Begin { shard: PARENT, to: WorkerId(0) });
    for _ in 0..100 {
        pair.round(NEW);
    }
    assert_eq!(pair.shared.places().worker_of(PARENT), WorkerId(1), "the parent is where the base is");

    pair.until("the replica begins", |pair| pair.heard.lock().unwrap().forgotten.contains(&CHILD));
    // Each write has the state flushed.
    let gone = |pair: &mut Pair| {
        let (written, input) = pair.request(PARENT, Op::Write { table: TableId(1), ops: vec![append("key-10", "v")] });
        pair.push(input);
        pair.answer(written).unwrap();
        (!pair.has_base()).then_some(())
    };
    pair.wait("the base goes", gone);
    pair.wait("the log goes on", |pair| (pair.parents_log().0 >= split).then_some(()));
}
