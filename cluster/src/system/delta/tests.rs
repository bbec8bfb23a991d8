use super::*;
use crate::system::{Partitioning, Retention, SystemCommand};
use synod_paxos::types::Epoch;

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// A command that changes something more often than not.
fn any(dice: &mut Dice, state: &SystemState) -> SystemCommand {
    let name = format!("t{}", dice.below(6));
    let at = usize::try_from(dice.below(1_000)).unwrap() % state.shards.len();
    match dice.below(7) {
        0 => {
            let shards = 1 + u32::try_from(dice.below(300)).unwrap();
            let (partitioning, retention) = (Partitioning::Hash, Retention::All);
            SystemCommand::CreateTable { name, partitioning, retention, shards, splits: vec![], replicas: 1 }
        }
        1 => SystemCommand::DropTable { name },
        2 => SystemCommand::AddNode {
            addr: format!("n:{}", dice.below(9)),
            nonce: dice.below(9).into(),
            speaks: ClusterVersion::FIRST,
        },
        3 => SystemCommand::SetAddr { node: NodeId(1 + dice.below(3)), addr: format!("m:{}", dice.below(9)) },
        4 => {
            let parent = state.shards.values().nth(at).expect("there is one");
            SystemCommand::ReserveChild { parent: parent.shard, version: parent.version }
        }
        _ => {
            let descriptor = state.shards.values().nth(at).expect("there is one");
            let mut membership = descriptor.membership.clone();
            membership.epoch = Epoch(membership.epoch.0 + 1);
            SystemCommand::SetMembers { shard: descriptor.shard, membership }
        }
    }
}

/// What a map that came from another node knows of a state.
fn shown(state: &SystemState) -> SystemState {
    let mut shown = state.clone();
    shown.jobs = BTreeMap::new();
    (shown.last_job.0, shown.next_node, shown.next_table) = (0, 0, 0);
    shown
}

#[test]
fn a_map_with_all_deltas_of_a_history_is_the_last_map_however_they_are_cut() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut state = SystemState::found(7, &["a:1".into(), "b:1".into(), "c:1".into()]);
        let spoken_by = state.nodes.keys().copied().collect();
        state.execute(&SystemCommand::Upgrade { to: ClusterVersion::FOURTH, spoken_by });
        let mut sent = state.clone();
        let mut followed = shown(&state);
        for step in 0..200 {
            let command = any(&mut dice, &state);
            state.execute(&command);
            // One delta for several revisions, where a watcher is slow.
            if dice.below(3) == 0 && state.revision > sent.revision {
                let delta = state.delta_since(&sent);
                followed = followed.with_delta(delta).expect("it follows");
                assert_eq!(followed, shown(&state), "seed {seed}, step {step}");
                sent = state.clone();
            }
        }
    }
}

#[test]
fn a_delta_from_another_revision_is_not_taken() {
    let mut state = SystemState::found(7, &["a:1".into()]);
    let first = state.clone();
    let moved = |n: u64| SystemCommand::SetAddr { node: NodeId(1), addr: format!("b:{n}") };
    state.execute(&moved(1));
    let second = state.clone();
    state.execute(&moved(2));
    let delta = state.delta_since(&second);
    assert_eq!((delta.nodes.len(), delta.shards.len(), delta.from, delta.to), (1, 0, second.revision, state.revision));
    assert_eq!(first.with_delta(delta.clone()), None, "a gap");
    assert_eq!(state.with_delta(delta.clone()), None, "it is known");
    assert_eq!(second.with_delta(delta).map(|map| map.nodes), Some(state.nodes));
}
