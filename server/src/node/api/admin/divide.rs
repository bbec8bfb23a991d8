//! Where a shard could be divided: the call that reaches the shard's leader.
//!
//! Owns: the wire form of what it found, and what follows from its samples by the planner's rule. Must never: split anything.

use super::replicas::load_to_wire;
use super::{FORWARDED, Running, unavailable};
use crate::node::api::convert;
use crate::node::status::status;
use bytes::Bytes;
use std::time::Duration;
use synod_cluster::ids::ShardId;
use synod_cluster::planner::picture::Sample;
use synod_cluster::planner::settings::Rate;
use synod_cluster::planner::{Point, Settings, halve};
use synod_cluster::system::Partitioning;
use synod_engine::host::{AdminInput, Division, LoadReport};
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// How long a shard's leader may look: the state is frozen and flushed for it.
const PATIENCE: Duration = Duration::from_secs(4);
/// Bytes of a hash, which the positions of a hash table begin with.
const HASH_BYTES: usize = 8;
/// Rates of samples are compared in parts of this: those of a slow load are less than one a second.
const PARTS: u64 = 1000;

/// Has the shard's leader look.
pub(super) async fn divide(
    running: &Running,
    request: Request<v1::DivideShardRequest>,
) -> Result<Response<v1::DivideShardReply>, Status> {
    let forwarded = request.metadata().contains_key(FORWARDED);
    let wanted = request.into_inner();
    let shard = ShardId(wanted.shard);
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |found| {
        // A caller that went away needs no answer.
        let _ = sender.send(found);
    });
    let asked = running.worker.try_push(AdminInput::Divide { shard, done });
    asked.map_err(|_| status(&convert::overloaded(20)))?;
    match timeout(PATIENCE, receiver).await {
        Ok(Ok(Ok(found))) => Ok(Response::new(to_wire(found))),
        Ok(Ok(Err(refusal))) => {
            let call = |mut leader: AdminClient<Channel>| {
                let request = running.forward(wanted);
                async move { leader.divide_shard(request).await }
            };
            running.at_leader(&refusal, shard, forwarded, call).await
        }
        Ok(Err(_)) | Err(_) => {
            let waited = PATIENCE.as_secs();
            Err(unavailable(format!("the leader of shard {shard} did not find its middle within {waited} s")))
        }
    }
}

fn to_wire(found: Division) -> v1::DivideShardReply {
    let Division { version, partitioning, from, to, bytes, middle, load } = found;
    let samples = samples(partitioning, &load);
    let mut reply = v1::DivideShardReply { version, bytes, ..v1::DivideShardReply::default() };
    if let Some(middle) = middle {
        (reply.middle, reply.bytes_below) = (middle.at, middle.below);
    }
    match halve(&Settings::default().weights, (&from, &to), &samples) {
        Point::At { at, below_permille, .. } => {
            (reply.load_middle, reply.load_below_permille) = (at, u32::try_from(below_permille).unwrap_or(1000));
        }
        Point::Hot { at, percent } => {
            // On a hash table the key is named with its hash: nobody knows a key by its hash alone.
            let of = load.sampled.iter().filter(|sampled| sampled.at.starts_with(&at));
            let whole = of.max_by_key(|sampled| sampled.count).filter(|_| partitioning == Partitioning::Hash);
            reply.hot = whole.map_or(at, |sampled| sampled.at.clone());
            reply.hot_percent = u32::try_from(percent).unwrap_or(100);
        }
        Point::None => {}
    }
    reply.load = Some(load_to_wire(load));
    reply
}

/// Where a split may be, with the load that was sampled there.
pub(super) fn samples(partitioning: Partitioning, load: &LoadReport) -> Vec<Sample> {
    let all = u64::from(load.samples.max(1));
    let mut samples: Vec<Sample> = Vec::with_capacity(load.sampled.len());
    for sampled in &load.sampled {
        let at: Bytes = match partitioning {
            Partitioning::Range => sampled.at.clone(),
            Partitioning::Hash => sampled.at.slice(..sampled.at.len().min(HASH_BYTES)),
        };
        let ops = load.rate.ops().saturating_mul(PARTS).saturating_mul(sampled.count.into()) / all;
        let rate = Rate { ops, bytes: sampled.bytes.saturating_mul(PARTS) };
        match samples.last_mut().filter(|last| last.at == at) {
            Some(last) => last.rate = last.rate.plus(rate),
            None => samples.push(Sample { at, rate }),
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_engine::host::{Middle, Sampled, Work};

    fn sampled(at: &'static [u8], count: u32) -> Sampled {
        Sampled { at: Bytes::from_static(at), count, ops: 0, bytes: 0 }
    }

    fn found(partitioning: Partitioning, sampled: Vec<Sampled>) -> v1::DivideShardReply {
        let rate = Work { reads: 2, ..Work::default() };
        let samples = sampled.iter().map(|sampled| sampled.count).sum();
        let load = LoadReport { rate, peak: rate, samples, sampled };
        let middle = Some(Middle { at: Bytes::from_static(b"m"), below: 40 });
        let (from, to) = (Bytes::new(), Bytes::new());
        to_wire(Division { version: 3, partitioning, from, to, bytes: 100, middle, load })
    }

    #[test]
    fn a_slow_load_is_halved_too_and_the_bytes_have_their_own_middle() {
        let reply = found(Partitioning::Range, vec![sampled(b"a", 22), sampled(b"k", 21), sampled(b"z", 21)]);
        assert_eq!((reply.version, reply.bytes, &reply.middle[..], reply.bytes_below), (3, 100, &b"m"[..], 40));
        assert_eq!((&reply.load_middle[..], reply.load_below_permille), (&b"k"[..], 343));
        assert!(reply.hot.is_empty());
        let load = reply.load.expect("it is told");
        assert_eq!((load.reads, load.reads_max, load.samples, load.sampled.len()), (2, 2, 64, 3));
    }

    #[test]
    fn a_hot_key_is_named_and_nothing_is_halved() {
        let reply = found(Partitioning::Range, vec![sampled(b"a", 20), sampled(b"k", 44)]);
        assert_eq!((&reply.hot[..], reply.hot_percent), (&b"k"[..], 68));
        assert!(reply.load_middle.is_empty());
        // On a hash table a split is at a hash, and the key is named with it.
        let keys = [sampled(b"\x01aaaaaaak1", 30), sampled(b"\x02aaaaaaak2", 34)];
        let reply = found(Partitioning::Hash, keys.to_vec());
        assert_eq!((&reply.hot[..], reply.hot_percent), (&b"\x02aaaaaaak2"[..], 53));
        let keys = [sampled(b"\x01aaaaaaak1", 20), sampled(b"\x02aaaaaaak2", 24), sampled(b"\x03aaaaaaak3", 20)];
        let reply = found(Partitioning::Hash, keys.to_vec());
        assert_eq!(&reply.load_middle[..], b"\x02aaaaaaa");
    }

    #[test]
    fn nothing_is_said_of_the_load_of_an_idle_shard() {
        let reply = found(Partitioning::Range, vec![]);
        assert!(reply.load_middle.is_empty() && reply.hot.is_empty());
    }
}
