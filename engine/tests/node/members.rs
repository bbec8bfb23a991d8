//! Replicas that move from node to node, whoever dies meanwhile.

use super::harness::{Cluster, N1, N2, N3};
use super::text;
use synod_cluster::ids::{NodeId, SYSTEM_SHARD, ShardId, TableId};
use synod_cluster::members::MemberChange;
use synod_cluster::refusal::Refusal;
use synod_cluster::system::{Partitioning, Retention, SystemCommand, SystemOutcome};

fn values(c: &mut Cluster, table: TableId, key: &str) -> Vec<String> {
    c.range(table, key).iter().map(|r| text(&r.record.value)).collect()
}

fn voters(c: &Cluster, shard: ShardId) -> Vec<NodeId> {
    c.members(shard).voters().collect()
}

#[test]
fn a_lost_node_is_replaced_and_leaves_nothing_behind() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 2);
    let shards = [c.shards_of(table), vec![SYSTEM_SHARD]].concat();
    for n in 0..40 {
        c.append(table, &format!("k{}", n % 4), &format!("{n}"));
    }
    let n4 = c.join();
    c.kill(N3);
    for shard in &shards {
        c.move_replica(*shard, N3, n4);
        assert_eq!(voters(&c, *shard), [N1, N2, n4]);
    }
    for n in 40..80 {
        c.append(table, &format!("k{}", n % 4), &format!("{n}"));
    }
    // One of the old members may go too: the new one counts.
    c.kill(N1);
    for n in 80..120 {
        c.append(table, &format!("k{}", n % 4), &format!("{n}"));
    }
    let expected: Vec<String> = (0..30).map(|i| (1 + 4 * i).to_string()).collect();
    assert_eq!(values(&mut c, table, "k1"), expected);
    c.start(N1);
    // The lost node comes back: it finds that it is no member of anything, and its replicas go.
    c.start(N3);
    c.run_until("its replicas go", |c| c.report(N3).replicas.is_empty());
    for shard in &shards {
        c.check_equal(*shard);
    }
    assert_eq!(c.system(&SystemCommand::RemoveNode { node: N3 }), SystemOutcome::Done);
    let refused = c.system(&SystemCommand::RemoveNode { node: N2 });
    assert!(matches!(refused, SystemOutcome::Invalid { .. }), "{refused:?}");
    // A restart of all finds the same.
    for node in c.ids() {
        c.kill(node);
    }
    for node in c.ids() {
        c.start(node);
    }
    assert_eq!(values(&mut c, table, "k1"), expected);
    for shard in &shards {
        c.check_equal(*shard);
    }
}

#[test]
fn a_replica_comes_back_to_a_node_that_had_it_and_begins_anew_there() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let n4 = c.join();
    let mut written = Vec::new();
    for (turn, (from, to)) in [(N1, n4), (n4, N1), (N2, n4), (N3, N2), (N1, N3), (n4, N1)].into_iter().enumerate() {
        written.push(format!("{turn}"));
        c.append(table, "k", &format!("{turn}"));
        c.move_replica(shard, from, to);
        c.run_until("the old replica goes", |c| c.replica(from, shard).is_none());
        assert!(c.replica(to, shard).is_some());
    }
    assert_eq!(values(&mut c, table, "k"), written);
    assert_eq!(voters(&c, shard), [N1, N2, N3]);
    c.check_equal(shard);
}

#[test]
fn changes_that_make_no_sense_are_refused() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let n4 = c.join();
    let promote = MemberChange::Promote { node: n4, instead_of: None };
    assert!(matches!(c.try_change(shard, promote), Err(Refusal::Invalid { field: "node", .. })), "no learner yet");
    let stranger = c.try_change(shard, MemberChange::Learn(NodeId(9)));
    assert!(matches!(stranger, Err(Refusal::Invalid { field: "node", .. })), "{stranger:?}");
    assert_eq!(c.try_change(shard, MemberChange::Learn(N1)), Ok(()), "it is a member already");
    assert_eq!(voters(&c, shard), [N1, N2, N3]);
    assert_eq!(c.try_change(shard, MemberChange::Remove(N1)), Ok(()));
    c.run_until("it is gone", |c| voters(c, shard) == [N2, N3]);
    // The last two: one may go, the last may not.
    for node in [N2, N3] {
        c.run_for(500_000);
        let _ = c.try_change(shard, MemberChange::Remove(node));
    }
    c.run_for(1_000_000);
    assert_eq!(voters(&c, shard).len(), 1, "a shard keeps a voter");
    c.append(table, "k", "v");
}

/// Two operators move replicas of one shard to the same node at once, each by what it saw of the members before.
#[test]
fn two_moves_to_one_node_at_once_leave_the_group_its_voters() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let n4 = c.join();
    let first = c.members(shard).epoch;
    assert_eq!(c.try_change_of(shard, first, MemberChange::Learn(n4)), Ok(()));
    c.run_until("it learns", |c| c.members(shard).role_of(n4).is_some());
    let second = c.members(shard).epoch;
    let late = c.try_change_of(shard, first, MemberChange::Learn(n4));
    assert_eq!(late, Err(Refusal::WrongEpoch { current: second, expected: first }), "the other one's");
    let instead_of = |gone| MemberChange::Promote { node: n4, instead_of: Some(gone) };
    for _ in 0..100 {
        match c.try_change_of(shard, second, instead_of(N1)) {
            Ok(()) => break,
            Err(refused) => assert_eq!(refused, Refusal::NotReady, "it catches up"),
        }
        c.run_for(100_000);
    }
    c.run_until("it votes", |c| voters(c, shard) == [N2, N3, n4]);
    let third = c.members(shard).epoch;
    // What the other one saw would have been right in the epoch that it saw: a swap, and then what a swap left to do.
    for change in [instead_of(N2), MemberChange::Remove(N2)] {
        let late = c.try_change_of(shard, second, change);
        assert_eq!(late, Err(Refusal::WrongEpoch { current: third, expected: second }), "{change:?}");
    }
    // Nor is it one for who has looked again: the vote is given.
    let late = c.try_change_of(shard, third, instead_of(N2));
    assert!(matches!(late, Err(Refusal::Invalid { field: "instead_of", .. })), "{late:?}");
    assert_eq!(c.try_change_of(shard, third, instead_of(N1)), Ok(()), "done before");
    c.run_for(1_000_000);
    assert_eq!(voters(&c, shard), [N2, N3, n4]);
}

#[test]
fn nobody_takes_the_place_of_who_has_no_vote() {
    let mut c = Cluster::mem(3);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let (n4, n5) = (c.join(), c.join());
    for node in [n4, n5] {
        assert_eq!(c.try_change(shard, MemberChange::Learn(node)), Ok(()));
        c.run_until("it learns", |c| c.members(shard).role_of(node).is_some() && c.replica(node, shard).is_some());
    }
    c.run_for(2_000_000);
    for gone in [n5, NodeId(9)] {
        let refused = c.try_change(shard, MemberChange::Promote { node: n4, instead_of: Some(gone) });
        assert!(matches!(refused, Err(Refusal::Invalid { field: "instead_of", .. })), "{refused:?}");
    }
    assert_eq!(voters(&c, shard), [N1, N2, N3]);
}

/// A table whose one shard has one replica, and who has it.
fn with_one_replica(c: &mut Cluster) -> (TableId, ShardId, NodeId) {
    let (name, partitioning, retention) = ("t".into(), Partitioning::Hash, Retention::All);
    let command = SystemCommand::CreateTable { name, partitioning, retention, shards: 1, splits: vec![], replicas: 1 };
    let SystemOutcome::Table(table) = c.system(&command) else { panic!("it is refused") };
    c.run_until("the shard is led", |c| c.shards_of(table).iter().any(|shard| c.leader(*shard).is_some()));
    let shard = c.shards_of(table)[0];
    let members = voters(c, shard);
    assert_eq!(members.len(), 1);
    (table, shard, members[0])
}

/// Who gets the only vote was no voter before: it leads once it has learnt the rest of the log from who goes, whatever is lost of that.
#[test]
fn the_only_replica_moves_and_leads_where_it_comes_to() {
    for (seed, loss) in [(1, 0), (2, 5), (3, 15), (4, 15), (5, 15), (6, 15)] {
        let mut c = Cluster::mem(3);
        c.seed(seed);
        let (table, shard, first) = with_one_replica(&mut c);
        c.loss = loss;
        let nodes = [N1, N2, N3, c.join()];
        let (mut at, mut written) = (first, Vec::new());
        for turn in 0..6 {
            for n in 0..c.below(30) {
                written.push(format!("{turn}.{n}"));
                c.append(table, "k", &format!("{turn}.{n}"));
            }
            let others: Vec<NodeId> = nodes.into_iter().filter(|n| *n != at).collect();
            let to = others[c.below(3) as usize];
            c.move_replica(shard, at, to);
            c.run_until("the old replica goes", |c| c.replica(at, shard).is_none());
            assert_eq!((voters(&c, shard), c.leader(shard)), (vec![to], Some(to)), "seed {seed}, turn {turn}");
            at = to;
        }
        assert_eq!(values(&mut c, table, "k"), written, "seed {seed}");
    }
}

/// Whatever dies for a while right after the change that moved the vote.
#[test]
fn the_only_replica_that_moved_is_led_again_after_a_restart_of_either_node() {
    for (seed, fewer) in (0..8).zip([0, 1, 2, 5, 10, 20, 40, 80]) {
        for both in [false, true] {
            let mut c = Cluster::mem(3);
            c.seed(seed + 1);
            let (table, shard, first) = with_one_replica(&mut c);
            let n4 = c.join();
            c.append(table, "k", "before");
            assert_eq!(c.try_change(shard, MemberChange::Learn(n4)), Ok(()));
            c.run_until("it learns", |c| c.members(shard).role_of(n4).is_some() && c.replica(n4, shard).is_some());
            c.append(table, "k", "learnt");
            let change = MemberChange::Promote { node: n4, instead_of: Some(first) };
            for _ in 0..100 {
                match c.try_change(shard, change) {
                    Ok(()) => break,
                    Err(refused) => assert_eq!(refused, Refusal::NotReady, "it catches up"),
                }
                c.run_for(100_000);
            }
            for _ in 0..fewer {
                c.step();
            }
            let down = if both { vec![first, n4] } else { vec![first] };
            down.iter().for_each(|node| c.kill(*node));
            c.run_for(2_000_000);
            down.iter().for_each(|node| c.start(*node));
            // Where the change was not on disk yet, it is made once more.
            c.move_replica(shard, first, n4);
            assert_eq!(voters(&c, shard), [n4]);
            c.append(table, "k", "after");
            assert_eq!(values(&mut c, table, "k"), ["before", "learnt", "after"]);
            c.run_until("the old replica goes", |c| c.replica(first, shard).is_none());
        }
    }
}

#[test]
fn the_only_vote_does_not_go_to_a_node_that_is_down_and_it_is_named() {
    let mut c = Cluster::mem(3);
    let (table, shard, first) = with_one_replica(&mut c);
    let n4 = c.join();
    c.append(table, "k", "v");
    assert_eq!(c.try_change(shard, MemberChange::Learn(n4)), Ok(()));
    c.run_until("it learns", |c| c.members(shard).role_of(n4).is_some() && c.replica(n4, shard).is_some());
    c.run_for(2_000_000);
    c.kill(n4);
    c.run_for(10_000_000);
    let refused = c.try_change(shard, MemberChange::Promote { node: n4, instead_of: Some(first) });
    let Err(Refusal::Invalid { field: "node", why }) = refused else { panic!("{refused:?}") };
    assert!(why.contains(&format!("node {n4} is to lead shard {shard}")), "{why}");
    assert_eq!(voters(&c, shard), [first]);
    assert_eq!(values(&mut c, table, "k"), ["v"]);
}

/// `MEMBERS_SEED=N` runs one seed.
#[test]
fn replicas_move_while_nodes_die() {
    let one = std::env::var("MEMBERS_SEED").ok().map(|seed| seed.parse().expect("a number"));
    let seeds = one.map_or(0..30, |seed: u64| seed..seed + 1);
    for seed in seeds {
        println!("MEMBERS_SEED={seed} cargo test --release --workspace --test node members -- --nocapture");
        run(seed);
    }
}

fn run(seed: u64) {
    let mut c = Cluster::mem(3);
    c.seed(seed + 1);
    let table = c.create_table("t", Partitioning::Hash, Retention::All, 1);
    let shard = c.shards_of(table)[0];
    let nodes = [N1, N2, N3, c.join(), c.join()];
    c.loss = [0, 5, 15][c.below(3) as usize];
    let mut written = Vec::new();
    for turn in 0..6 {
        for n in 0..c.below(30) {
            written.push(format!("{turn}.{n}"));
            c.append(table, "k", &format!("{turn}.{n}"));
        }
        // In the system shard there is a majority of the first three at all times.
        let down = nodes[c.below(5) as usize];
        let dies = c.below(2) == 0;
        if dies {
            c.kill(down);
        }
        let members = voters(&c, shard);
        let from = members[c.below(3) as usize];
        let to = nodes.into_iter().filter(|n| !members.contains(n) && c.is_up(*n)).collect::<Vec<_>>();
        if let Some(to) = to.get(c.below(2) as usize) {
            c.disturb = None;
            c.move_replica(shard, from, *to);
        }
        written.push(format!("{turn} moved"));
        c.append(table, "k", &format!("{turn} moved"));
        if dies {
            c.start(down);
            c.run_for(300_000);
        }
    }
    c.loss = 0;
    assert_eq!(values(&mut c, table, "k"), written);
    c.run_until("only members hold replicas", |c| {
        let members = c.members(shard);
        c.ids().into_iter().all(|n| c.replica(n, shard).is_some() == members.role_of(n).is_some())
    });
    c.check_equal(shard);
}
