//! What replicas here have applied of their shards' bounds and the map does not have yet.
//!
//! Owns: the newest word of each shard, and when the map has it. Must never: put an older word in the place of a newer one, or keep one
//! that the map has. So there is at most one for each shard that has a replica here.

use std::collections::BTreeMap;
use synod_cluster::ids::ShardId;
use synod_cluster::system::{ShardNews, SystemState};

/// The newest word of each shard.
pub type Applied = BTreeMap<ShardId, ShardNews>;

/// Takes what a replica says it has applied. Nothing changes where a newer word is there.
pub fn note(applied: &mut Applied, news: ShardNews) {
    if applied.get(&news.shard).is_none_or(|before| before.version <= news.version) {
        applied.insert(news.shard, news);
    }
}

/// Drops what a map has; whether anything went.
pub fn prune(applied: &mut Applied, map: &SystemState) -> bool {
    let before = applied.len();
    applied.retain(|_, news| !is_known(map, news));
    applied.len() < before
}

/// Whether a map has what a replica has applied, or will never have it.
fn is_known(map: &SystemState, news: &ShardNews) -> bool {
    let gone = map.vanished(news.shard);
    let bounds = map.shards.get(&news.shard).is_some_and(|descriptor| descriptor.version >= news.version);
    let children = news.children.iter().all(|child| map.shards.contains_key(&child.shard) || map.vanished(child.shard));
    let absorbed = news.absorbed.iter().all(|shard| !map.shards.contains_key(shard));
    gone || bounds && children && absorbed
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use synod_cluster::system::{Child, Descriptor, Partitioning, Reserved, Retention, Shards, SystemCommand};

    const PARENT: ShardId = ShardId(2);
    const CHILD: ShardId = ShardId(3);

    /// A table of one shard, and an id that is reserved for its child.
    fn map() -> SystemState {
        let mut state = SystemState::found(7, &["a:1".to_owned()]);
        state.execute(&SystemCommand::CreateTable {
            name: "t".into(),
            partitioning: Partitioning::Range,
            retention: Retention::All,
            shards: 0,
            splits: vec![],
            replicas: 1,
        });
        state.reserved = BTreeMap::from([(CHILD, Reserved { parent: PARENT, version: 1 })]);
        state.next_shard = 4;
        state
    }

    fn news(map: &SystemState, version: u64) -> ShardNews {
        let membership = map.shards[&PARENT].membership.clone();
        let (from, to) = (Bytes::from_static(b"m"), Bytes::new());
        let child = Child { shard: CHILD, from: from.clone(), to, version, membership };
        ShardNews { shard: PARENT, from: Bytes::new(), to: from, version, children: vec![child], absorbed: vec![] }
    }

    #[test]
    fn the_newest_word_of_a_shard_is_kept() {
        let (map, mut applied) = (map(), Applied::new());
        for version in [3, 2] {
            note(&mut applied, news(&map, version));
        }
        let again = ShardNews { children: vec![], ..news(&map, 3) };
        note(&mut applied, again.clone());
        assert_eq!(applied, BTreeMap::from([(PARENT, again)]), "of one version the last word counts");
    }

    #[test]
    fn a_word_is_told_until_the_map_has_the_bounds_and_the_children() {
        let mut map = map();
        let split = news(&map, 2);
        assert!(!is_known(&map, &split));
        map.shards.change(&PARENT, |parent| parent.version = 2).expect("it is there");
        assert!(!is_known(&map, &split), "the child is not there");
        let behind = SystemState { next_shard: 3, reserved: BTreeMap::new(), ..map.clone() };
        assert!(!is_known(&behind, &split), "a map of before the reservation says nothing of the child");
        let child = Descriptor { shard: CHILD, ..map.shards[&PARENT].clone() };
        map.reserved.clear();
        map.shards.insert(CHILD, child);
        assert!(is_known(&map, &split) && !is_known(&map, &news(&map, 3)));
        let mut applied = Applied::from([(PARENT, news(&map, 3))]);
        assert!(!prune(&mut applied, &map) && applied.len() == 1);
        map.shards = Shards::default();
        assert!(prune(&mut applied, &map) && applied.is_empty());
        assert!(is_known(&map, &split), "its table was dropped");
    }
}
