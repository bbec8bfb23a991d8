//! What a node gives up of a shard whose child has been split again meanwhile.

use super::{KEYS, NODES, follower, has, keeping_little, one_shard};
use synod_cluster::ids::Slot;
use synod_cluster::system::Partitioning;

/// The child's snapshot is of after its own split, and no map names the grandchild yet: what is here of the child is not all that the parent
/// would give up.
#[test]
fn a_parent_stays_until_a_map_is_as_new_as_the_child_that_began_here_with_a_snapshot() {
    let (mut c, mut t, parent) = one_shard(Partitioning::Range, keeping_little());
    t.write(&mut c, 2 * KEYS);
    c.run_for(500_000);
    let victim = follower(&c, parent);
    let had = c.replica(victim, parent).unwrap().last;
    c.kill(victim);
    c.run_for(500_000);
    let child = c.split(parent, b"k08");
    t.write(&mut c, 8 * KEYS);
    let behind = had.max(Slot(2 * KEYS as u64 + 2));
    c.run_until("nobody has what it lacks", |c| {
        NODES.into_iter().filter(|node| *node != victim).all(|n| c.replica(n, parent).unwrap().trimmed > behind)
    });
    let grandchild = c.reserve(child);
    c.untold = true;
    let made = (0..200).any(|_| {
        let wanted = c.wanted(child, grandchild, b"k16");
        let result = c.try_split(child, wanted);
        c.run_for(50_000);
        result.is_ok()
    });
    assert!(made, "shard {child} was not split in 200 attempts");
    c.start(victim);
    c.run_until("it has the child", |c| c.replica(victim, child).is_some_and(|replica| replica.version == 3));
    c.run_for(5_000_000);
    assert!(!c.map().shards.contains_key(&grandchild) && !has(&mut c, victim, grandchild));
    let replica = c.replica(victim, parent).unwrap();
    assert_eq!(replica.version, 1, "it has given up what the grandchild has");
    c.untold = false;
    c.run_until("it has all three", |c| {
        has(c, victim, grandchild) && c.replica(victim, parent).is_some_and(|replica| replica.version == 2)
    });
    t.write(&mut c, KEYS);
    t.check(&mut c);
}
