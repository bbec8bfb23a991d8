//! Which cluster a call is meant for.
//!
//! Owns: the comparison at the entry of every service for clients. Must never: let a call in that names another cluster.

use super::convert;
use crate::node::status::status;
use bytes::Bytes;
use std::sync::{Arc, OnceLock};
use synod_proto::{CLUSTER, v1};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};
use v1::error::Kind;

/// Refuses calls that name another cluster than this node's. Before the node belongs to one nothing is compared: it serves
/// nothing then.
#[derive(Clone, Debug, Default)]
pub struct ClusterCheck(Arc<OnceLock<u128>>);

impl ClusterCheck {
    /// The node belongs to this cluster.
    pub fn belong_to(&self, cluster: u128) {
        // It never belongs to another.
        let _ = self.0.set(cluster);
    }
}

impl Interceptor for ClusterCheck {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match (self.0.get(), request.metadata().get(CLUSTER)) {
            (Some(ours), Some(theirs)) if theirs.as_bytes() != format!("{ours:032x}").as_bytes() => {
                let theirs: String = String::from_utf8_lossy(theirs.as_bytes()).chars().take(64).collect();
                let message = format!(
                    "this node belongs to another cluster: to {ours:032x}, the call is meant for {}",
                    theirs.escape_debug()
                );
                let kind =
                    Kind::OtherCluster(v1::OtherCluster { cluster: Bytes::copy_from_slice(&ours.to_be_bytes()) });
                Err(status(&convert::error(kind, true, message)))
            }
            _ => Ok(request),
        }
    }
}

/// A cluster's name as metadata.
#[must_use]
pub fn name(cluster: u128) -> MetadataValue<Ascii> {
    format!("{cluster:032x}").parse().expect("hexadecimal digits are ASCII")
}

/// Names the cluster in a call's or an answer's metadata.
pub fn stamp(metadata: &mut MetadataMap, cluster: u128) {
    metadata.insert(CLUSTER, name(cluster));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_for_another_cluster_is_refused_and_one_that_names_none_is_taken() {
        let check = ClusterCheck::default();
        let call = |said: Option<&str>| {
            let mut request = Request::new(());
            if let Some(said) = said {
                request.metadata_mut().insert(CLUSTER, said.parse().unwrap());
            }
            check.clone().call(request).map(drop).map_err(|status| status.message().to_owned())
        };
        let (ours, theirs) = ("0".repeat(30) + "c1", "0".repeat(30) + "c2");
        assert_eq!(call(Some(theirs.as_str())), Ok(()), "it belongs to none yet");
        check.belong_to(0xc1);
        assert_eq!((call(None), call(Some(ours.as_str()))), (Ok(()), Ok(())));
        let why = call(Some(theirs.as_str())).unwrap_err();
        assert!(why.contains("another cluster") && why.contains(&ours) && why.contains(&theirs), "{why}");
        assert!(call(Some("nonsense")).is_err());
    }
}
