//! Incoming links: one lane a peer, on which the newest stream drives and every older one is put off.
//!
//! Owns: which stream of a peer may deliver. Must never: let two streams of one peer deliver by turns: links are first in,
//! first out per process, and an old connection must not slip its frames between a new one's.

use super::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{Incarnation, NodeId};
use tokio::sync::oneshot;

/// The lanes of all peers.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Mutex<BTreeMap<NodeId, Arc<Lane>>>,
}

#[derive(Debug, Default)]
struct Lane {
    state: Mutex<LaneState>,
}

#[derive(Debug, Default)]
struct LaneState {
    incarnation: Incarnation,
    turn: u64,
    /// Dropped when another stream takes the lane: the driver hears it.
    put_off: Option<oneshot::Sender<()>>,
}

/// The right to deliver on a lane, until another stream takes it.
#[derive(Debug)]
pub(super) struct Turn {
    lane: Arc<Lane>,
    turn: u64,
    /// Resolves when the lane was taken.
    pub taken: oneshot::Receiver<()>,
}

impl Lanes {
    /// Takes the lane of `node`; an earlier stream of the same or an older process is put off. Refused, with the greater
    /// incarnation, where a later process drives already.
    pub fn take(&self, node: NodeId, incarnation: Incarnation) -> Result<Turn, Incarnation> {
        let lane = Arc::clone(lock(&self.lanes).entry(node).or_default());
        let (sender, taken) = oneshot::channel();
        let turn = {
            let mut state = lock(&lane.state);
            if state.incarnation > incarnation {
                return Err(state.incarnation);
            }
            state.incarnation = incarnation;
            state.turn += 1;
            state.put_off = Some(sender);
            state.turn
        };
        Ok(Turn { lane, turn, taken })
    }

    /// Puts off whoever drives on the lane of `node`.
    pub fn close(&self, node: NodeId) {
        if let Some(lane) = lock(&self.lanes).remove(&node) {
            let mut state = lock(&lane.state);
            state.turn += 1;
            state.put_off = None;
        }
    }

    /// Puts everybody off.
    pub fn close_all(&self) {
        let nodes: Vec<NodeId> = lock(&self.lanes).keys().copied().collect();
        for node in nodes {
            self.close(node);
        }
    }
}

impl Turn {
    /// Delivers while the lane is still this stream's; `None` once it is not.
    pub fn deliver<T>(&self, delivery: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.lane.state);
        (state.turn == self.turn).then(delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stream_drives() {
        let lanes = Lanes::default();
        let mut first = lanes.take(NodeId(2), Incarnation(4)).unwrap();
        assert_eq!(first.deliver(|| 1), Some(1));
        let mut second = lanes.take(NodeId(2), Incarnation(4)).unwrap();
        assert!(first.taken.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert_eq!((first.deliver(|| 1), second.deliver(|| 2)), (None, Some(2)));
        let other = lanes.take(NodeId(3), Incarnation(1)).unwrap();
        let third = lanes.take(NodeId(2), Incarnation(5)).unwrap();
        assert!(second.taken.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert_eq!(lanes.take(NodeId(2), Incarnation(4)).unwrap_err(), Incarnation(5));
        assert_eq!((third.deliver(|| 3), other.deliver(|| 4)), (Some(3), Some(4)));
        lanes.close(NodeId(2));
        assert_eq!((third.deliver(|| 3), other.deliver(|| 4)), (None, Some(4)));
        lanes.close_all();
        assert_eq!(other.deliver(|| 4), None);
    }
}
