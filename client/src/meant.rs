//! Which cluster a call is meant for, and whose it is.
//!
//! Owns: the name that goes with every call of a client, and the comparison with what a node says of itself. Must never: let a
//! call leave without the name once the client has its first map.

use bytes::Bytes;
use synod_proto::{CLUSTER, OPERATOR};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// A connection whose calls say which cluster they are meant for.
pub(crate) type Meant = InterceptedService<Channel, Stamp>;

/// Puts a cluster's name on every call; none before the client knows its cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stamp {
    cluster: Option<MetadataValue<Ascii>>,
    operator: bool,
}

impl Stamp {
    /// Names no cluster yet.
    pub(crate) fn new(operator: bool) -> Stamp {
        Stamp { cluster: None, operator }
    }

    /// Names this cluster.
    pub(crate) fn of(cluster: &[u8], operator: bool) -> Stamp {
        Stamp { cluster: hex(cluster).parse().ok(), operator }
    }

    /// A connection whose calls bear it.
    pub(crate) fn on(&self, channel: Channel) -> Meant {
        InterceptedService::new(channel, self.clone())
    }

    /// Compares it with what the node at `addr` says of itself, where that says anything.
    pub(crate) fn check(&self, said: &MetadataMap, addr: &str) -> Result<(), String> {
        match (&self.cluster, said.get(CLUSTER)) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(belongs_elsewhere(addr, &text(theirs), &text(ours))),
            _ => Ok(()),
        }
    }
}

impl Interceptor for Stamp {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(cluster) = &self.cluster {
            request.metadata_mut().insert(CLUSTER, cluster.clone());
        }
        if self.operator {
            request.metadata_mut().insert(OPERATOR, MetadataValue::from_static("1"));
        }
        Ok(request)
    }
}

fn text(value: &MetadataValue<Ascii>) -> String {
    value.to_str().unwrap_or("?").chars().take(32).collect()
}

/// A cluster's name as it is shown.
pub(crate) fn hex(cluster: &[u8]) -> String {
    cluster.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What is said of a node of another cluster than this client's.
pub(crate) fn belongs_elsewhere(addr: &str, theirs: &str, ours: &str) -> String {
    format!("{addr} belongs to another cluster: to {theirs}, not to {ours}")
}

/// The same of a map that the node at `addr` gave.
pub(crate) fn check_map(theirs: &Bytes, ours: &Bytes, addr: &str) -> Result<(), String> {
    if theirs == ours { Ok(()) } else { Err(belongs_elsewhere(addr, &hex(theirs), &hex(ours))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_is_named_and_silence_is_taken() {
        let (ours, theirs) = (Stamp::of(&[0xab; 16], false), Stamp::of(&[0xcd; 16], true));
        let mut said = MetadataMap::new();
        assert_eq!(ours.check(&said, "h:1"), Ok(()), "an older node says nothing");
        said.insert(CLUSTER, ours.cluster.clone().unwrap());
        assert_eq!(ours.check(&said, "h:1"), Ok(()));
        assert_eq!(Stamp::default().check(&said, "h:1"), Ok(()));
        let why = theirs.check(&said, "h:1").unwrap_err();
        assert_eq!(why, format!("h:1 belongs to another cluster: to {}, not to {}", "ab".repeat(16), "cd".repeat(16)));
        let stamped = ours.clone().call(Request::new(())).unwrap();
        assert_eq!(stamped.metadata().get(CLUSTER).unwrap(), &"ab".repeat(16));
        let [ours, theirs] = [ours, theirs].map(|mut stamp| stamp.call(Request::new(())).unwrap());
        assert_eq!((ours.metadata().get(OPERATOR), theirs.metadata().get(OPERATOR).is_some()), (None, true));
    }
}
