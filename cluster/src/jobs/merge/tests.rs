use super::*;
use bytes::Bytes;
use synod_paxos::types::Member;

const TARGET: ShardId = ShardId(7);
const SOURCE: ShardId = ShardId(8);
const GOAL: Goal<'static> = Goal { target: TARGET, source: SOURCE, border: b"m" };

fn bounds(from: &'static str, to: &'static str, version: u64) -> Bounds {
    Bounds { from: Bytes::from_static(from.as_bytes()), to: Bytes::from_static(to.as_bytes()), version }
}

fn membership(nodes: &[u64]) -> Membership {
    let members = nodes.iter().map(|n| Member { node: NodeId(*n), role: MemberRole::Voter }).collect();
    Membership { epoch: Epoch(2), members, first_leader: NodeId(nodes[0]) }
}

fn side(bounds: &Bounds, nodes: &[u64], led_by: u64) -> Side {
    Side {
        mapped: Some(Mapped { bounds: bounds.clone(), membership: membership(nodes) }),
        leader: Some(Leader {
            node: NodeId(led_by),
            bounds: bounds.clone(),
            epoch: Epoch(2),
            phase: Phase::Open,
            hindrance: None,
        }),
    }
}

/// Both on the same nodes, both led by node 1.
fn ready() -> Seen {
    Seen {
        target: side(&bounds("", "m", 3), &[1, 2, 3], 1),
        source: side(&bounds("m", "", 5), &[1, 2, 3], 1),
        holds_border: None,
    }
}

fn with(change: impl FnOnce(&mut Seen)) -> Seen {
    let mut seen = ready();
    change(&mut seen);
    seen
}

fn leader(side: &mut Side) -> &mut Leader {
    side.leader.as_mut().expect("there is one")
}

fn waits(seen: &Seen) -> String {
    match next(GOAL, seen) {
        Step::Wait(why) => why,
        step => panic!("it does not wait: {step:?}"),
    }
}

/// A change of what is seen, and what is said of it.
type Case = (fn(&mut Seen), &'static str);

#[test]
fn leaders_come_together_then_the_merge_is_begun_and_the_map_ends_it() {
    let apart = with(|seen| leader(&mut seen.source).node = NodeId(2));
    assert_eq!(next(GOAL, &apart), Step::Transfer { to: NodeId(1) });
    let begin = Begin { version: 3, epoch: Epoch(2), source: SOURCE, source_version: 5, source_epoch: Epoch(2) };
    assert_eq!(next(GOAL, &ready()), Step::Begin(begin));
    let begun = with(|seen| leader(&mut seen.target).phase = Phase::Merging(SOURCE));
    assert!(waits(&begun).contains("about to go into shard 7"));
    let done = with(|seen| {
        seen.target.mapped = Some(Mapped { bounds: bounds("", "", 6), membership: membership(&[1, 2, 3]) });
        (seen.source, seen.holds_border) = (Side::default(), Some(TARGET));
    });
    assert_eq!(next(GOAL, &done), Step::Done);
}

#[test]
fn the_lower_one_may_go_into_the_upper_one() {
    let seen = Seen {
        target: side(&bounds("m", "", 3), &[1], 1),
        source: side(&bounds("b", "m", 5), &[1], 1),
        holds_border: None,
    };
    assert!(matches!(next(GOAL, &seen), Step::Begin(_)));
}

#[test]
fn members_that_differ_are_moved_first() {
    let other = with(|seen| seen.source = side(&bounds("m", "", 5), &[1, 2, 4], 1));
    assert!(waits(&other).contains("`synod shard move 8 --from 4 --to 3`"));
    let fewer = with(|seen| seen.source = side(&bounds("m", "", 5), &[1], 1));
    assert!(waits(&fewer).contains("shard 7 has 3 voters, shard 8 1"));
    let learns = with(|seen| {
        let mapped = seen.target.mapped.as_mut().unwrap();
        mapped.membership.members.push(Member { node: NodeId(9), role: MemberRole::Learner });
    });
    assert!(waits(&learns).contains("node 9 learns the log of shard 7"));
}

#[test]
fn it_waits_for_leaders_that_are_ready_and_that_the_map_knows() {
    let cases: [Case; 7] = [
        (|seen| seen.target.leader = None, "nobody answers as the leader of shard 7"),
        (|seen| seen.source.leader = None, "nobody answers as the leader of shard 8"),
        (|seen| leader(&mut seen.source).bounds.version = 6, "the leader of shard 8 is at version 6, the map at 5"),
        (|seen| leader(&mut seen.target).hindrance = Some("it lags".into()), "shard 7: it lags"),
        (|seen| leader(&mut seen.target).phase = Phase::Merging(ShardId(9)), "shard 7 takes part in another merge"),
        (|seen| leader(&mut seen.source).phase = Phase::Frozen(ShardId(9)), "shard 8 takes part in another merge"),
        (|seen| leader(&mut seen.target).phase = Phase::Cancelled(SOURCE), "yet to go on"),
    ];
    for (change, why) in cases {
        let found = waits(&with(change));
        assert!(found.contains(why), "{found}");
    }
}

#[test]
fn what_makes_no_sense_any_longer_ends_and_says_why() {
    let cases: [Case; 4] = [
        (|seen| seen.target = Side::default(), "shard 7 was dropped"),
        (|seen| seen.source = Side::default(), "shard 8 was dropped"),
        (|seen| seen.source = side(&bounds("p", "", 6), &[1, 2, 3], 1), "no neighbours any longer"),
        (|seen| seen.holds_border = Some(ShardId(9)), "lies within shard 9 now"),
    ];
    for (change, why) in cases {
        let Step::Overtaken(found) = next(GOAL, &with(change)) else { panic!("it goes on: {why}") };
        assert!(found.contains(why), "{found}");
        assert_eq!(back(GOAL, &with(change)), Step::Undone, "{why}");
    }
}

#[test]
fn the_way_back_takes_back_what_was_begun_and_waits_for_its_end() {
    assert_eq!(back(GOAL, &ready()), Step::Undone);
    let begun = with(|seen| leader(&mut seen.target).phase = Phase::Merging(SOURCE));
    assert_eq!(back(GOAL, &begun), Step::Cancel);
    let cancelled = with(|seen| leader(&mut seen.target).phase = Phase::Cancelled(SOURCE));
    assert!(matches!(back(GOAL, &cancelled), Step::Wait(_)));
    let silent = with(|seen| seen.target.leader = None);
    assert!(matches!(back(GOAL, &silent), Step::Wait(_)), "it may be under way");
    let other = with(|seen| leader(&mut seen.target).phase = Phase::Merging(ShardId(9)));
    assert_eq!(back(GOAL, &other), Step::Undone, "that is somebody else's");
    let done = with(|seen| seen.holds_border = Some(TARGET));
    assert_eq!(back(GOAL, &done), Step::Done, "too late");
}
