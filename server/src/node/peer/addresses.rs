//! Where the nodes of the cluster are: what the map says, and what they say themselves.
//!
//! Owns: the addresses that a peer is tried at, the likelier one first. Must never: take a node's address from anybody but that
//! node.
//!
//! The map is changed through the system shard, which needs a majority of its nodes to reach each other. So a node that moved
//! says where it is before the map does: in every hello, and to whoever asks it who it is. What a node says itself counts until
//! the map says the same. Where nobody answers there, the map's address is tried in turn.

use super::lock;
use std::collections::BTreeMap;
use std::sync::Mutex;
use synod_cluster::ids::{Incarnation, NodeId};
use synod_cluster::system::SystemState;

/// The longest address that is taken from a peer, bytes: a host name has 253 at most.
const ADDRESS_BYTES_MAX: usize = 300;

/// The addresses.
#[derive(Debug, Default)]
pub struct Addresses {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    map: BTreeMap<NodeId, String>,
    told: BTreeMap<NodeId, Told>,
}

#[derive(Debug)]
struct Told {
    incarnation: Incarnation,
    addr: String,
}

impl Addresses {
    /// Takes the map's.
    pub fn learn(&self, map: &SystemState) {
        let mut inner = lock(&self.inner);
        inner.map = map.nodes.iter().map(|(node, info)| (*node, info.addr.clone())).collect();
        let Inner { map, told } = &mut *inner;
        told.retain(|node, told| map.get(node).is_some_and(|addr| *addr != told.addr));
    }

    /// A process of `node` named `addr` in its hello, or answered there (then the incarnation is unknown). Returns whether that is
    /// news. Nothing changes where a newer process was heard, the map does not name the node, or `addr` is no address.
    pub fn told(&self, node: NodeId, incarnation: Option<Incarnation>, addr: &str) -> bool {
        let mut inner = lock(&self.inner);
        let Inner { map, told } = &mut *inner;
        let Some(mapped) = map.get(&node) else { return false };
        let known = told.get(&node).map(|told| told.incarnation).unwrap_or_default();
        let incarnation = incarnation.unwrap_or(known);
        if incarnation < known || addr.len() > ADDRESS_BYTES_MAX || !is_address(addr) {
            return false;
        }
        if mapped == addr {
            return told.remove(&node).is_some();
        }
        let before = told.insert(node, Told { incarnation, addr: addr.to_owned() });
        before.is_none_or(|before| before.addr != addr)
    }

    /// Where to try `node` next, after `failed` attempts.
    #[must_use]
    pub fn pick(&self, node: NodeId, failed: usize) -> Option<String> {
        let inner = lock(&self.inner);
        let told = inner.told.get(&node).map(|told| &told.addr);
        let known: Vec<&String> = told.into_iter().chain(inner.map.get(&node)).collect();
        known.get(failed % known.len().max(1)).map(|addr| (*addr).clone())
    }

    /// Where `node` most likely is.
    #[must_use]
    pub fn of(&self, node: NodeId) -> Option<String> {
        self.pick(node, 0)
    }

    /// Where every node most likely is.
    #[must_use]
    pub fn all(&self) -> BTreeMap<NodeId, String> {
        let inner = lock(&self.inner);
        let likely =
            |(node, addr): (&NodeId, &String)| (*node, inner.told.get(node).map_or(addr, |told| &told.addr).clone());
        inner.map.iter().map(likely).collect()
    }

    /// Whom the map has at `addr`.
    #[must_use]
    pub fn mapped_at(&self, addr: &str) -> Option<NodeId> {
        lock(&self.inner).map.iter().find(|(_, mapped)| *mapped == addr).map(|(node, _)| *node)
    }
}

/// Whether this is HOST:PORT.
#[must_use]
pub fn is_address(addr: &str) -> bool {
    let fine = addr.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    fine && format!("http://{addr}").parse::<tonic::transport::Uri>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(addrs: &[&str]) -> SystemState {
        SystemState::found(7, &addrs.iter().map(|addr| (*addr).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_node_that_moved_is_tried_where_it_says_it_is_and_then_where_the_map_has_it() {
        let addresses = Addresses::default();
        let (one, two) = (NodeId(1), NodeId(2));
        assert!(!addresses.told(two, Some(Incarnation(3)), "b:2"), "nobody knows that node");
        assert_eq!(addresses.of(two), None);
        addresses.learn(&map(&["a:1", "b:2"]));
        assert_eq!((addresses.pick(two, 0), addresses.pick(two, 1)), (Some("b:2".into()), Some("b:2".into())));
        assert!(addresses.told(two, Some(Incarnation(3)), "c:3"));
        assert!(!addresses.told(two, Some(Incarnation(3)), "c:3"), "no news");
        assert!(!addresses.told(two, Some(Incarnation(2)), "d:4"), "of an older process");
        for nonsense in ["", "c", "c:0", ":3", "c:70000", "a/b:3", &format!("{}:1", "x".repeat(400))] {
            assert!(!addresses.told(one, Some(Incarnation(9)), nonsense), "{nonsense}");
        }
        let tried: Vec<_> = (0..4).filter_map(|failed| addresses.pick(two, failed)).collect();
        assert_eq!(tried, ["c:3", "b:2", "c:3", "b:2"]);
        assert_eq!(addresses.all(), BTreeMap::from([(one, "a:1".into()), (two, "c:3".into())]));
        assert_eq!((addresses.mapped_at("b:2"), addresses.mapped_at("c:3")), (Some(two), None));
        // It moves on, and the map is behind.
        assert!(addresses.told(two, Some(Incarnation(4)), "d:4"));
        addresses.learn(&map(&["a:1", "c:3"]));
        assert_eq!((addresses.pick(two, 0), addresses.pick(two, 1)), (Some("d:4".into()), Some("c:3".into())));
        addresses.learn(&map(&["a:1", "d:4"]));
        assert_eq!(addresses.pick(two, 1), Some("d:4".into()));
        // And back to where the map has it.
        assert!(addresses.told(two, Some(Incarnation(5)), "e:5") && addresses.told(two, Some(Incarnation(6)), "d:4"));
        assert_eq!(addresses.of(two), Some("d:4".into()));
    }
}
