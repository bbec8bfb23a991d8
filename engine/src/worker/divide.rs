//! Questions where shards could be divided, as the worker sees them.
//!
//! Owns: who asked, and the freeze that makes the rows be in the files whose sizes are looked at. Must never: let one wait for ever, or
//! look at the rows itself.

use super::Worker;
use crate::host::{Divided, Host};
use crate::state::StateView;
use std::collections::VecDeque;
use synod_cluster::ids::ShardId;
use synod_cluster::refusal::Refusal;
use synod_paxos::types::Micros;

/// Questions that may wait; each has a thread once it is answered.
const ASKED_MAX: usize = 16;
/// Minimum interval between freezes for questions, µs.
const PACE_US: u64 = 200_000;
/// Time after which a question that was not begun is refused, µs.
const PATIENCE_US: u64 = 10_000_000;

struct Asked {
    shard: ShardId,
    until: Micros,
    done: Divided,
}

/// What was asked and not begun.
#[derive(Default)]
pub(super) struct Divisions {
    asked: VecDeque<Asked>,
    /// No freeze before.
    next_at: Micros,
}

impl<H: Host> Worker<H> {
    /// Somebody asks where a shard could be divided.
    pub(super) fn divide(&mut self, shard: ShardId, done: Divided) {
        if let Some(why) = &self.quarantined {
            return done(Err(Refusal::Quarantined(why.clone())));
        }
        if self.stopped {
            return done(Err(Refusal::NotReady));
        }
        let may = self.shards.get(&shard).map_or(Err(Refusal::WrongShard), |shard| shard.may_divide());
        match may {
            Err(why) => done(Err(why)),
            Ok(()) if self.divisions.asked.len() >= ASKED_MAX => done(Err(Refusal::Overloaded)),
            Ok(()) => {
                let until = self.node.now.plus(PATIENCE_US);
                self.divisions.asked.push_back(Asked { shard, until, done });
            }
        }
    }

    /// Has the rows looked at for those that asked, after one freeze for all of them.
    pub(super) fn keep_divisions(&mut self) {
        let now = self.node.now;
        while let Some(asked) = self.divisions.asked.pop_front_if(|asked| asked.until <= now) {
            (asked.done)(Err(Refusal::NotReady));
        }
        if self.divisions.asked.is_empty() || self.divisions.next_at > now || self.freeze_beside().is_none() {
            return;
        }
        self.divisions.next_at = now.plus(PACE_US);
        for Asked { shard: id, done, .. } in std::mem::take(&mut self.divisions.asked) {
            let request = match self.shards.get_mut(&id) {
                Some(shard) => shard.may_divide().map(|()| shard.divide_request(&self.node)),
                None => Err(Refusal::WrongShard),
            };
            match request {
                Err(why) => done(Err(why)),
                Ok(request) => {
                    let begun = self.node.store.view(Box::new(move |view: &mut dyn StateView| done(request.run(view))));
                    self.node.must(begun);
                }
            }
        }
    }

    /// The node stops or takes no part any longer.
    pub(super) fn abandon_divisions(&mut self) {
        for asked in std::mem::take(&mut self.divisions.asked) {
            (asked.done)(Err(Refusal::NotReady));
        }
    }

    /// When those that asked are looked after next.
    pub(super) fn divisions_due(&self) -> Option<Micros> {
        let first = self.divisions.asked.front()?;
        Some(first.until.min(self.divisions.next_at.max(self.node.now.plus(PACE_US / 10))))
    }
}
