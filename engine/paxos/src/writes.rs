//! The replica's ordered durable writes, and the messages that wait for them.
//!
//! Owns: the write sequence. Must never: let a message go before the write it names is on disk.

use crate::message::Message;
use crate::types::{Entry, NodeId, Slot, WriteSeq};
use std::collections::VecDeque;

/// What the current step wants written: all of it in one atomic write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Staged {
    pub(crate) hard: bool,
    pub(crate) truncate_from: Option<Slot>,
    pub(crate) append: Vec<Entry>,
}

impl Staged {
    pub(crate) fn is_empty(&self) -> bool {
        !self.hard && self.truncate_from.is_none() && self.append.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Flying {
    seq: WriteSeq,
    /// The log is durable up to here once this write is, unless truncated since.
    upto: Slot,
    then_send: Vec<(NodeId, Message)>,
}

/// Writes handed out and not yet confirmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Writes {
    pub(crate) staged: Staged,
    /// Messages that wait for the staged write, or for the last one flying where nothing is staged.
    pub(crate) deferred: Vec<(NodeId, Message)>,
    issued: WriteSeq,
    durable: WriteSeq,
    flying: VecDeque<Flying>,
}

impl Writes {
    /// The sequence that covers everything staged so far, this step's included.
    pub(crate) fn covering(&self) -> WriteSeq {
        if self.staged.is_empty() { self.issued } else { self.issued.next() }
    }

    /// The last confirmed write.
    pub(crate) fn durable(&self) -> WriteSeq {
        self.durable
    }

    /// A truncation was staged: nothing in flight makes later slots durable after that.
    pub(crate) fn cut(&mut self, keep: Slot) {
        for write in &mut self.flying {
            write.upto = write.upto.min(keep);
        }
    }

    /// Turns the staged write into one in flight and returns it with its sequence.
    pub(crate) fn issue(&mut self, last: Slot) -> Option<(WriteSeq, Staged)> {
        if self.staged.is_empty() {
            return None;
        }
        self.issued = self.issued.next();
        let then_send = std::mem::take(&mut self.deferred);
        self.flying.push_back(Flying { seq: self.issued, upto: last, then_send });
        Some((self.issued, std::mem::take(&mut self.staged)))
    }

    /// Without a staged write, deferred messages join the last one in flight; with none in flight they may go now.
    pub(crate) fn release(&mut self) -> Vec<(NodeId, Message)> {
        let messages = std::mem::take(&mut self.deferred);
        match self.flying.back_mut() {
            Some(last) => {
                last.then_send.extend(messages);
                Vec::new()
            }
            None => messages,
        }
    }

    /// Everything up to `seq` is on disk: the durable end of the log, and the messages that waited.
    pub(crate) fn confirm(&mut self, seq: WriteSeq) -> (Option<Slot>, Vec<(NodeId, Message)>) {
        assert!(seq <= self.issued, "write {seq:?} was never issued, the last is {:?}", self.issued);
        self.durable = self.durable.max(seq);
        let mut upto = None;
        let mut messages = Vec::new();
        while self.flying.front().is_some_and(|w| w.seq <= seq) {
            let write = self.flying.pop_front().expect("the front was just seen");
            upto = Some(write.upto);
            messages.extend(write.then_send);
        }
        (upto, messages)
    }

    /// Counts writes from the last confirmed one, which becomes number 0; returns the number it had.
    pub(crate) fn rebase(&mut self) -> WriteSeq {
        let base = std::mem::take(&mut self.durable);
        self.issued.0 -= base.0;
        self.flying.iter_mut().for_each(|write| write.seq.0 -= base.0);
        base
    }
}
