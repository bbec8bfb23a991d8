//! Maps that arrive in several messages.
//!
//! Owns: the part of a map that has arrived. Must never: join parts of two maps.

use crate::v1::ShardMap;

/// Joins the parts of one map after another.
#[derive(Debug, Default)]
pub struct MapParts {
    begun: Option<ShardMap>,
}

impl MapParts {
    /// Takes the next message of a stream; the map or delta where that completes one. A message of another revision than what has
    /// arrived so far begins anew.
    pub fn take(&mut self, mut next: ShardMap) -> Option<ShardMap> {
        let begun = self.begun.take().filter(|begun| {
            (begun.revision, begun.since, &begun.cluster) == (next.revision, next.since, &next.cluster)
        });
        let whole = match begun {
            None => next,
            Some(mut begun) => {
                begun.nodes.append(&mut next.nodes);
                begun.tables.append(&mut next.tables);
                begun.shards.append(&mut next.shards);
                begun.reserved.append(&mut next.reserved);
                begun.gone_nodes.append(&mut next.gone_nodes);
                begun.gone_tables.append(&mut next.gone_tables);
                begun.gone_shards.append(&mut next.gone_shards);
                begun.gone_reserved.append(&mut next.gone_reserved);
                (begun.more, begun.digest) = (next.more, next.digest);
                begun
            }
        };
        if whole.more {
            self.begun = Some(whole);
            return None;
        }
        Some(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::Shard;

    fn part(revision: u64, shard: u64, more: bool) -> ShardMap {
        let shards = vec![Shard { id: shard, ..Shard::default() }];
        ShardMap { revision, shards, more, ..ShardMap::default() }
    }

    #[test]
    fn parts_are_joined_and_those_of_an_older_map_are_dropped() {
        let mut parts = MapParts::default();
        let ids = |map: Option<ShardMap>| map.map(|map| map.shards.iter().map(|shard| shard.id).collect::<Vec<_>>());
        assert_eq!(ids(parts.take(part(1, 9, false))), Some(vec![9]), "from a node that sends whole maps");
        assert_eq!((ids(parts.take(part(2, 1, true))), ids(parts.take(part(2, 2, true)))), (None, None));
        assert_eq!(ids(parts.take(part(2, 3, false))), Some(vec![1, 2, 3]));
        assert_eq!(ids(parts.take(part(3, 4, true))), None);
        assert_eq!(ids(parts.take(part(4, 5, false))), Some(vec![5]));
    }
}
