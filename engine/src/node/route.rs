//! Which worker is told what.
//!
//! Owns: the way of an input to those whom it concerns. Must never: change the order of what
//! concerns one shard, or tell the messages of a shard to a worker that does not have it.

use super::{Places, WorkerId};
use crate::host::{Input, NodeReport, Request};
use std::sync::{Arc, Mutex, PoisonError};
use synod_cluster::ids::{SYSTEM_SHARD, ShardId};
use synod_paxos::message::Message;

/// Takes an input for a worker, or gives it back where there is no room.
pub type Give<'a> = dyn FnMut(WorkerId, Input) -> Result<(), Input> + 'a;

/// Gives an input to the workers that it concerns.
///
/// # Errors
/// What was not taken: of requests and messages those for which there was no room, else the input. What concerns all workers may
/// have been taken by some: it can be given again.
#[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
pub fn route(input: Input, places: &Places, give: &mut Give<'_>) -> Result<(), Input> {
    let workers = places.workers();
    if workers <= 1 {
        return give(WorkerId::FIRST, input);
    }
    match input {
        Input::Requests(requests) => route_requests(requests, places, give),
        Input::Peer { from, incarnation, write_seq, messages } => {
            let of = |(shard, _): &(ShardId, Message)| {
                if planted!(MessageToAnotherWorker) {
                    return places.worker_of(ShardId(shard.0 + 1));
                }
                places.worker_of(*shard)
            };
            let mut left = Vec::new();
            for (worker, messages) in split(messages, workers, of) {
                if let Err(Input::Peer { messages, .. }) =
                    give(worker, Input::Peer { from, incarnation, write_seq, messages })
                {
                    left.extend(messages);
                }
            }
            if left.is_empty() { Ok(()) } else { Err(Input::Peer { from, incarnation, write_seq, messages: left }) }
        }
        Input::Status(tell) => {
            let gather = Arc::new(Mutex::new(Gather { left: workers, report: None, tell: Some(tell) }));
            let each = |worker| {
                let gather = Arc::clone(&gather);
                give(worker, Input::Status(Box::new(move |report| Gather::take(&gather, report))))
            };
            (0..workers).map(WorkerId).try_for_each(each)
        }
        input => match shard_of(&input) {
            Some(shard) => give(places.worker_of(shard), input),
            None => tell_all(input, workers, give),
        },
    }
}

#[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
fn tell_all(input: Input, workers: u16, give: &mut Give<'_>) -> Result<(), Input> {
    let only_first = matches!(input, Input::Map(_)) && planted!(MapToOneWorker);
    for worker in (1..workers).filter(|_| !only_first).map(WorkerId) {
        if let Some(copy) = copy_of(&input)
            && give(worker, copy).is_err()
        {
            return Err(input);
        }
    }
    give(WorkerId::FIRST, input)
}

#[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
fn route_requests(requests: Vec<Request>, places: &Places, give: &mut Give<'_>) -> Result<(), Input> {
    let of = |request: &Request| places.worker_of(request.shard);
    let mut left = Vec::new();
    for (worker, requests) in split(requests, places.workers(), of) {
        if let Err(Input::Requests(refused)) = give(worker, Input::Requests(requests)) {
            left.extend(refused);
        }
    }
    if left.is_empty() { Ok(()) } else { Err(Input::Requests(left)) }
}

/// Parts a list by worker, each part in the list's order.
fn split<T>(all: Vec<T>, workers: u16, of: impl Fn(&T) -> WorkerId) -> Vec<(WorkerId, Vec<T>)> {
    if let Some(first) = all.first().map(&of)
        && all[1..].iter().all(|one| of(one) == first)
    {
        return vec![(first, all)];
    }
    let mut parts: Vec<Vec<T>> = (0..workers).map(|_| Vec::new()).collect();
    for one in all {
        parts[of(&one).index()].push(one);
    }
    let numbered = parts.into_iter().enumerate().filter(|(_, part)| !part.is_empty());
    numbered
        .map(|(worker, part)| (WorkerId(u16::try_from(worker).expect("below the number of workers")), part))
        .collect()
}

/// The shard that an input is about; `None` where it concerns the node, or is for one worker.
pub(crate) fn shard_of(input: &Input) -> Option<ShardId> {
    match input {
        Input::CreateSystemShard(_) => Some(SYSTEM_SHARD),
        Input::Transfer { shard, .. }
        | Input::HandOver { shard, .. }
        | Input::ChangeMembers { shard, .. }
        | Input::MakeSnapshot { shard, .. }
        | Input::SnapshotAsked { shard, .. }
        | Input::SnapshotBuilt { shard, .. }
        | Input::SnapshotSpoilt { shard }
        | Input::SnapshotLoaded { shard, .. }
        | Input::Scrub { shard, .. }
        | Input::Scrubbed { shard, .. }
        | Input::RowsFetched { shard, .. }
        | Input::ScrubTold { shard, .. } => Some(*shard),
        Input::SnapshotFetched(header) => Some(header.shard),
        Input::Requests(_)
        | Input::Peer { .. }
        | Input::Status(_)
        | Input::Liveness { .. }
        | Input::IdentityAnswer { .. }
        | Input::RunsTwice { .. }
        | Input::DiskLow(_)
        | Input::DiskSpare(_)
        | Input::PeerDisk { .. }
        | Input::PeerClock { .. }
        | Input::Map(_)
        | Input::Written(_)
        | Input::Handed(_)
        | Input::Drain
        | Input::Stop => None,
    }
}

/// The same for another worker, where an input concerns all of them.
fn copy_of(input: &Input) -> Option<Input> {
    Some(match input {
        Input::Liveness { node, alive } => Input::Liveness { node: *node, alive: *alive },
        Input::IdentityAnswer { from, seen } => Input::IdentityAnswer { from: *from, seen: *seen },
        Input::RunsTwice { from, seen, why } => Input::RunsTwice { from: *from, seen: *seen, why: Arc::clone(why) },
        Input::DiskLow(why) => Input::DiskLow(why.clone()),
        Input::DiskSpare(bytes) => Input::DiskSpare(*bytes),
        Input::PeerDisk { node, low } => Input::PeerDisk { node: *node, low: *low },
        Input::PeerClock { node, reading } => Input::PeerClock { node: *node, reading: *reading },
        Input::Map(map) => Input::Map(Arc::clone(map)),
        Input::Written(seq) => Input::Written(*seq),
        Input::Drain => Input::Drain,
        Input::Stop => Input::Stop,
        _ => return None,
    })
}

/// The reports of all workers on their way to be one.
struct Gather {
    left: u16,
    report: Option<NodeReport>,
    tell: Option<Box<dyn FnOnce(NodeReport) + Send>>,
}

impl Gather {
    fn take(gather: &Mutex<Self>, report: NodeReport) {
        let mut gather = gather.lock().unwrap_or_else(PoisonError::into_inner);
        gather.left -= 1;
        let whole = match gather.report.take() {
            Some(others) => others.with(report),
            None => report,
        };
        if gather.left > 0 {
            gather.report = Some(whole);
            return;
        }
        let tell = gather.tell.take();
        drop(gather);
        if let Some(tell) = tell {
            tell(whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker_of;
    use super::*;
    use std::collections::BTreeMap;
    use synod_cluster::ids::{Incarnation, NodeId, NodeWriteSeq};
    use synod_paxos::types::Ballot;

    fn message(n: u64) -> Message {
        Message::TimeoutNow { ballot: Ballot { round: n, ..Ballot::default() } }
    }

    #[test]
    fn messages_go_to_the_worker_of_their_shard_in_their_order_and_those_without_room_come_back() {
        let all: Vec<(ShardId, Message)> = (0..100u64).map(|n| (ShardId(1 + n % 10), message(n))).collect();
        let input = Input::Peer {
            from: NodeId(2),
            incarnation: Incarnation(1),
            write_seq: NodeWriteSeq(9),
            messages: all.clone(),
        };
        let mut told: BTreeMap<WorkerId, Vec<(ShardId, Message)>> = BTreeMap::new();
        let refused = route(input, &Places::new(3), &mut |worker, input| {
            if worker == WorkerId(2) {
                return Err(input);
            }
            let Input::Peer { messages, write_seq: NodeWriteSeq(9), .. } = input else { unreachable!() };
            told.entry(worker).or_default().extend(messages);
            Ok(())
        });
        let Err(Input::Peer { messages: left, .. }) = refused else { panic!("there was no room for some") };
        told.insert(WorkerId(2), left);
        for (worker, messages) in &told {
            let expected: Vec<_> = all.iter().filter(|(shard, _)| worker_of(*shard, 3) == *worker).cloned().collect();
            assert!(*messages == expected, "{worker:?}");
        }
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn what_concerns_the_node_is_told_to_all_and_a_status_is_told_once() {
        let (mut told, mut tells) = (Vec::new(), Vec::new());
        let all = route(Input::Drain, &Places::new(4), &mut |worker, _| {
            told.push(worker);
            Ok(())
        });
        assert!(all.is_ok());
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3].map(WorkerId));
        let (tell, answer) = std::sync::mpsc::channel();
        let status = Input::Status(Box::new(move |report| tell.send(report.map_revision).unwrap()));
        let asked = route(status, &Places::new(2), &mut |_, input| {
            tells.push(input);
            Ok(())
        });
        assert!(asked.is_ok());
        for (revision, input) in [3, 5].into_iter().zip(tells) {
            assert!(answer.try_recv().is_err(), "before all have told");
            let Input::Status(tell) = input else { unreachable!() };
            tell(NodeReport { map_revision: revision, ..NodeReport::default() });
        }
        assert_eq!(answer.try_recv(), Ok(3), "the oldest map that a worker has");
    }
}
