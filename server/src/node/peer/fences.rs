//! Incoming links: a fence for each peer. The newest stream of a peer delivers; every older one is fenced off.
//!
//! Owns: which stream of a peer may deliver. Must never: let two streams of one peer deliver by turns: links are first in,
//! first out per process, and an old connection must not slip its frames between a new one's.

use super::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use synod_cluster::ids::{Incarnation, NodeId};
use tokio::sync::oneshot;

/// The fences of all peers.
#[derive(Debug, Default)]
pub(super) struct Fences {
    fences: Mutex<BTreeMap<NodeId, Arc<Fence>>>,
}

#[derive(Debug, Default)]
struct Fence {
    state: Mutex<FenceState>,
}

#[derive(Debug, Default)]
struct FenceState {
    incarnation: Incarnation,
    turn: u64,
    /// Dropped when another stream takes the fence: that tells the one fenced off.
    put_off: Option<oneshot::Sender<()>>,
}

/// The right to deliver a peer's frames, until another stream takes the peer's fence.
#[derive(Debug)]
pub(super) struct Turn {
    fence: Arc<Fence>,
    turn: u64,
    /// Resolves once another stream has the fence, or it was closed.
    pub taken: oneshot::Receiver<()>,
}

impl Fences {
    /// Takes the fence of `node`: an earlier stream of the same or an older process is fenced off. Refused, with the greater
    /// incarnation, where a stream of a later process has it already.
    pub fn take(&self, node: NodeId, incarnation: Incarnation) -> Result<Turn, Incarnation> {
        let fence = Arc::clone(lock(&self.fences).entry(node).or_default());
        let (sender, taken) = oneshot::channel();
        let turn = {
            let mut state = lock(&fence.state);
            if state.incarnation > incarnation {
                return Err(state.incarnation);
            }
            state.incarnation = incarnation;
            state.turn += 1;
            state.put_off = Some(sender);
            state.turn
        };
        Ok(Turn { fence, turn, taken })
    }

    /// Fences off the stream that has the fence of `node`.
    pub fn close(&self, node: NodeId) {
        if let Some(fence) = lock(&self.fences).remove(&node) {
            let mut state = lock(&fence.state);
            state.turn += 1;
            state.put_off = None;
        }
    }

    /// Fences off the streams of all peers.
    pub fn close_all(&self) {
        let nodes: Vec<NodeId> = lock(&self.fences).keys().copied().collect();
        for node in nodes {
            self.close(node);
        }
    }
}

impl Turn {
    /// Delivers while this stream has the fence; `None` once it has not.
    pub fn deliver<T>(&self, delivery: impl FnOnce() -> T) -> Option<T> {
        let state = lock(&self.fence.state);
        (state.turn == self.turn).then(delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stream_drives() {
        let fences = Fences::default();
        let mut first = fences.take(NodeId(2), Incarnation(4)).unwrap();
        assert_eq!(first.deliver(|| 1), Some(1));
        let mut second = fences.take(NodeId(2), Incarnation(4)).unwrap();
        assert!(first.taken.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert_eq!((first.deliver(|| 1), second.deliver(|| 2)), (None, Some(2)));
        let other = fences.take(NodeId(3), Incarnation(1)).unwrap();
        let third = fences.take(NodeId(2), Incarnation(5)).unwrap();
        assert!(second.taken.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Closed));
        assert_eq!(fences.take(NodeId(2), Incarnation(4)).unwrap_err(), Incarnation(5));
        assert_eq!((third.deliver(|| 3), other.deliver(|| 4)), (Some(3), Some(4)));
        fences.close(NodeId(2));
        assert_eq!((third.deliver(|| 3), other.deliver(|| 4)), (None, Some(4)));
        fences.close_all();
        assert_eq!(other.deliver(|| 4), None);
    }
}
