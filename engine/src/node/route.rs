//! Which worker is told what.
//!
//! Owns: the way of an input to those whom it concerns. Must never: change the order of what concerns one shard, or tell the messages
//! of a shard to a worker other than the one that the table names.

use super::{Places, WorkerId};
use crate::host::{Input, NodeInput, NodeReport, PeerInput, Request};
use std::sync::{Arc, Mutex, PoisonError};
use synod_cluster::ids::ShardId;
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
        Input::Peer(PeerInput::Messages { from, incarnation, write_seq, messages }) => {
            let frame = |messages| Input::from(PeerInput::Messages { from, incarnation, write_seq, messages });
            route_messages(messages, places, &frame, give)
        }
        Input::Node(NodeInput::Status(tell)) => ask_all(tell, workers, give),
        input => match input.shard() {
            Some(shard) => give(places.worker_of(shard), input),
            None => tell_all(input, workers, give),
        },
    }
}

#[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
fn tell_all(input: Input, workers: u16, give: &mut Give<'_>) -> Result<(), Input> {
    let only_first = matches!(input, Input::Node(NodeInput::Map(_))) && planted!(MapToOneWorker);
    for worker in (1..workers).filter(|_| !only_first).map(WorkerId) {
        if let Some(copy) = input.copy()
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

/// Messages of one peer; `frame` makes the input of some of them.
#[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
fn route_messages(
    messages: Vec<(ShardId, Message)>,
    places: &Places,
    frame: &dyn Fn(Vec<(ShardId, Message)>) -> Input,
    give: &mut Give<'_>,
) -> Result<(), Input> {
    let of = |(shard, _): &(ShardId, Message)| {
        if planted!(MessageToAnotherWorker) {
            return places.worker_of(ShardId(shard.0 + 1));
        }
        places.worker_of(*shard)
    };
    let mut left = Vec::new();
    for (worker, messages) in split(messages, places.workers(), of) {
        if let Err(Input::Peer(PeerInput::Messages { messages, .. })) = give(worker, frame(messages)) {
            left.extend(messages);
        }
    }
    if left.is_empty() { Ok(()) } else { Err(frame(left)) }
}

/// Asks every worker for its report; the last that answers tells the whole.
#[allow(clippy::result_large_err, reason = "the input goes back to its owner, who answers it")]
fn ask_all(tell: Box<dyn FnOnce(NodeReport) + Send>, workers: u16, give: &mut Give<'_>) -> Result<(), Input> {
    let gather = Arc::new(Mutex::new(Gather { left: workers, report: None, tell: Some(tell) }));
    let each = |worker| {
        let gather = Arc::clone(&gather);
        give(worker, NodeInput::Status(Box::new(move |report| Gather::take(&gather, report))).into())
    };
    (0..workers).map(WorkerId).try_for_each(each)
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
    use crate::host::{AdminInput, HandOverInput, RowsFetched, ScrubInput, SnapshotInput};
    use crate::wall::Reading;
    use std::collections::BTreeMap;
    use synod_cluster::ids::{Incarnation, NodeId, NodeWriteSeq, Slot};
    use synod_cluster::system::SystemState;
    use synod_paxos::types::{Ballot, Micros};

    fn message(n: u64) -> Message {
        Message::TimeoutNow { ballot: Ballot { round: n, ..Ballot::default() } }
    }

    #[test]
    fn messages_go_to_the_worker_of_their_shard_in_their_order_and_those_without_room_come_back() {
        let all: Vec<(ShardId, Message)> = (0..100u64).map(|n| (ShardId(1 + n % 10), message(n))).collect();
        let input = PeerInput::Messages {
            from: NodeId(2),
            incarnation: Incarnation(1),
            write_seq: NodeWriteSeq(9),
            messages: all.clone(),
        };
        let mut told: BTreeMap<WorkerId, Vec<(ShardId, Message)>> = BTreeMap::new();
        let refused = route(input.into(), &Places::new(3), &mut |worker, input| {
            if worker == WorkerId(2) {
                return Err(input);
            }
            let Input::Peer(PeerInput::Messages { messages, write_seq: NodeWriteSeq(9), .. }) = input else {
                unreachable!()
            };
            told.entry(worker).or_default().extend(messages);
            Ok(())
        });
        let Err(Input::Peer(PeerInput::Messages { messages: left, .. })) = refused else {
            panic!("there was no room for some")
        };
        told.insert(WorkerId(2), left);
        for (worker, messages) in &told {
            let expected: Vec<_> = all.iter().filter(|(shard, _)| worker_of(*shard, 3) == *worker).cloned().collect();
            assert!(*messages == expected, "{worker:?}");
        }
        assert_eq!(told.len(), 3);
    }

    /// Who of four workers is told, in order of their numbers.
    fn told(input: impl Into<Input>) -> Vec<WorkerId> {
        let mut told = Vec::new();
        let all = route(input.into(), &Places::new(4), &mut |worker, _| {
            told.push(worker);
            Ok(())
        });
        assert!(all.is_ok());
        told.sort_unstable();
        told
    }

    #[test]
    fn what_is_about_a_shard_is_told_to_its_worker_alone() {
        let (shard, node, slot) = (ShardId(3), NodeId(2), Slot(7));
        let worker = worker_of(shard, 4);
        assert_ne!(worker, WorkerId::FIRST, "the worker that is told where nobody is named");
        let about: [Input; 7] = [
            SnapshotInput::Spoilt { shard }.into(),
            SnapshotInput::Asked { by: node, shard, least: slot }.into(),
            ScrubInput::Told { from: node, shard, slot, hash: 1 }.into(),
            AdminInput::MakeSnapshot { shard, done: Box::new(|_| ()) }.into(),
            AdminInput::Transfer { shard, to: node, done: Box::new(|_| ()) }.into(),
            RowsFetched { shard, ticket: 1 }.into(),
            HandOverInput::Begin { shard, to: WorkerId::FIRST }.into(),
        ];
        for input in about {
            assert_eq!(told(input), [worker]);
        }
        let founding = SystemState::found(1, &["a:1".into()]);
        assert_eq!(told(NodeInput::CreateSystemShard(Box::new(founding))), [WorkerId::FIRST]);
    }

    #[test]
    fn what_is_about_a_peer_or_the_node_is_told_to_every_worker() {
        let (node, seen) = (NodeId(2), (Incarnation(1), NodeWriteSeq(9)));
        let about: [Input; 9] = [
            PeerInput::Liveness { node, alive: true }.into(),
            PeerInput::Clock { node, reading: Reading { at: Micros(1), wall_us: 2 } }.into(),
            PeerInput::Disk { node, low: true }.into(),
            PeerInput::IdentityAnswer { from: node, seen }.into(),
            PeerInput::RunsTwice { from: node, seen, why: "twice".into() }.into(),
            NodeInput::DiskLow(None).into(),
            NodeInput::DiskSpare(1).into(),
            NodeInput::Written(1).into(),
            NodeInput::Stop.into(),
        ];
        for input in about {
            assert_eq!(told(input), [0, 1, 2, 3].map(WorkerId));
        }
    }

    #[test]
    fn what_concerns_the_node_is_told_to_all_and_a_status_is_told_once() {
        let (mut told, mut tells) = (Vec::new(), Vec::new());
        let all = route(NodeInput::Drain.into(), &Places::new(4), &mut |worker, _| {
            told.push(worker);
            Ok(())
        });
        assert!(all.is_ok());
        told.sort_unstable();
        assert_eq!(told, [0, 1, 2, 3].map(WorkerId));
        let (tell, answer) = std::sync::mpsc::channel();
        let status = NodeInput::Status(Box::new(move |report| tell.send(report.map_revision).unwrap()));
        let asked = route(status.into(), &Places::new(2), &mut |_, input| {
            tells.push(input);
            Ok(())
        });
        assert!(asked.is_ok());
        for (revision, input) in [3, 5].into_iter().zip(tells) {
            assert!(answer.try_recv().is_err(), "before all have told");
            let Input::Node(NodeInput::Status(tell)) = input else { unreachable!() };
            tell(NodeReport { map_revision: revision, ..NodeReport::default() });
        }
        assert_eq!(answer.try_recv(), Ok(3), "the oldest map that a worker has");
    }
}
