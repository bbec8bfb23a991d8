//! What `synod status` says of a cluster.
//!
//! Owns: where in its JSON each fact is. Must never: ask the cluster; who has a status asked for it.

use serde_json::Value;

/// What `status -o json` printed.
#[derive(Clone, Debug)]
pub struct Status {
    /// All of it.
    pub value: Value,
}

impl Status {
    /// The shards.
    pub fn shards(&self) -> &[Value] {
        self.value["shards"].as_array().map_or(&[], Vec::as_slice)
    }

    /// The node at an address.
    pub fn node(&self, addr: &str) -> Option<&Value> {
        self.value["nodes"].as_array()?.iter().find(|node| node["addr"] == addr)
    }

    /// The number a node has in the cluster.
    pub fn id(&self, addr: &str) -> Option<u64> {
        self.node(addr)?["id"].as_u64()
    }

    /// `up`, `down` or `quarantined`.
    pub fn state(&self, addr: &str) -> Option<&str> {
        self.node(addr)?["state"].as_str()
    }

    /// Whether every shard has a leader.
    pub fn is_led(&self) -> bool {
        !self.shards().is_empty() && self.shards().iter().all(|shard| shard["leader"].is_u64())
    }

    /// The shards of a table in the order of their numbers.
    pub fn shards_of(&self, table: &str) -> Vec<&Value> {
        self.shards().iter().filter(|shard| shard["table"] == table).collect()
    }

    fn replica(&self, shard: u64, node: u64) -> Option<&Value> {
        let shard = self.shards().iter().find(|s| s["id"] == shard)?;
        shard["replicas"].as_array()?.iter().find(|replica| replica["node"] == node)
    }

    /// What a node's replica of a shard is.
    pub fn role(&self, shard: u64, node: u64) -> Option<&str> {
        self.replica(shard, node)?["role"].as_str()
    }

    /// How far a node's replica of a shard has applied.
    pub fn applied(&self, shard: u64, node: u64) -> Option<u64> {
        self.replica(shard, node)?["applied"].as_u64()
    }

    /// The highest commit any replica of a shard knows.
    pub fn commit(&self, shard: u64) -> u64 {
        let replicas = self.shards().iter().filter(|s| s["id"] == shard).filter_map(|s| s["replicas"].as_array());
        replicas.flatten().filter_map(|replica| replica["commit"].as_u64()).max().unwrap_or(0)
    }

    /// The address of the node that leads a shard.
    pub fn leader_addr(&self, shard: u64) -> Option<String> {
        let leader = self.shards().iter().find(|s| s["id"] == shard)?["leader"].as_u64()?;
        let nodes = self.value["nodes"].as_array()?;
        nodes.iter().find(|node| node["id"] == leader)?["addr"].as_str().map(str::to_owned)
    }
}
