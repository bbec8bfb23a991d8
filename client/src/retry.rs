//! What follows a failed attempt: a pause, another node, a newer map, or the end of the call.
//!
//! Owns: what a retry waits for, and what is known of a write when no answer came. Must never: report a write as failed
//! that may have been executed.
//!
//! Whether a write may have been executed: an attempt counts as *possibly delivered* once it may have left and was not
//! answered by a refusal that says nothing was proposed (`Overloaded`, `WrongShard`, `DiskFull`, `Quarantined`, or a
//! final error). `NotLeader` says itself whether the write had been proposed before the leadership was lost.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::call::{Core, Failure, Want};
use crate::error::{Error, Refusal, Result};
use crate::link::{Broken, jitter};
use crate::router::ShardRoute;
use crate::types::Consistency;

/// `NotLeader` hints followed without a pause before one is made.
const MAX_HOPS: u32 = 3;
/// How long a node that did not answer is passed over, and one whose connection broke.
const SUSPECT_SILENT: Duration = Duration::from_millis(1000);
const SUSPECT_BROKEN: Duration = Duration::from_millis(100);

/// What the map lacks for a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Missing {
    Table,
    Shard,
    Voter,
}

/// What a call has learnt from its attempts.
pub(crate) struct Progress {
    pub(crate) attempt_timeout: Duration,
    pause: Duration,
    /// Which voter is next where no leader is known.
    pub(crate) turn: usize,
    hops: u32,
    suspects: Vec<(u64, Instant)>,
    /// Nodes that let an attempt time out.
    silent: Vec<u64>,
    /// An attempt was possibly delivered.
    maybe: bool,
    /// What was in the way last.
    last: Option<Error>,
    looked_up: bool,
}

impl Core {
    /// Waits for a map that has what is missing.
    pub(crate) async fn find(&self, progress: &mut Progress, want: &Want<'_>, missing: Missing) -> Result<()> {
        let what = match missing {
            Missing::Table => {
                let looked = self.look_up_again(progress, want).await;
                return looked.map_err(|e| progress.settle(want.write, e));
            }
            Missing::Shard => "shard for the key",
            Missing::Voter => "replica of the key's shard",
        };
        progress.last = Some(Error::unavailable(format!("the map has no {what} in table {:?}", want.table)));
        self.maps.nudge();
        progress.back_off(self, want.left(), None).await;
        Ok(())
    }

    /// Takes in how an attempt failed, and waits until the next; an error is the call's.
    pub(crate) async fn failed(
        &self,
        progress: &mut Progress,
        want: &Want<'_>,
        shard: &ShardRoute,
        node: u64,
        failure: Failure,
        may_have_left: bool,
    ) -> Result<()> {
        match failure {
            Failure::Refused(refusal) => self.refused(progress, want, shard, node, refusal, may_have_left).await,
            Failure::Broken(Broken(why)) => {
                progress.maybe |= may_have_left;
                progress.suspect(node, SUSPECT_BROKEN);
                progress.last = Some(Error::unavailable(format!("node {node}: {why}")));
                self.try_another(progress, shard, node, want.left()).await;
                Ok(())
            }
            Failure::Silent(limit) => {
                progress.maybe |= may_have_left;
                progress.suspect(node, SUSPECT_SILENT);
                progress.silent(node);
                let why = format!("node {node} did not answer within {} ms", limit.as_millis());
                progress.last = Some(Error::unavailable(why));
                self.try_another(progress, shard, node, want.left()).await;
                Ok(())
            }
        }
    }

    async fn refused(
        &self,
        progress: &mut Progress,
        want: &Want<'_>,
        shard: &ShardRoute,
        node: u64,
        refusal: Refusal,
        may_have_left: bool,
    ) -> Result<()> {
        let left = want.left();
        match refusal {
            Refusal::NotLeader { leader, maybe } => {
                progress.maybe |= maybe;
                progress.last = Some(Error::unavailable(format!("shard {} has no known leader", shard.info.id)));
                let usable = leader != 0 && leader != node && !progress.is_suspect(leader);
                if usable && self.maps.view().addr(leader).is_some() {
                    shard.set_leader(leader);
                    progress.hops += 1;
                    if progress.hops > MAX_HOPS {
                        progress.back_off(self, left, None).await;
                    }
                } else {
                    self.try_another(progress, shard, node, left).await;
                }
            }
            Refusal::WrongShard => {
                progress.last = Some(Error::unavailable(format!("the bounds of shard {} are changing", shard.info.id)));
                self.maps.nudge();
                progress.back_off(self, left, None).await;
            }
            Refusal::Overloaded(retry_after) => {
                progress.last = Some(Error::Overloaded { retry_after });
                progress.back_off(self, left, Some(retry_after)).await;
            }
            Refusal::Later(error) => {
                progress.maybe |=
                    may_have_left && matches!(error, Error::OutcomeUnknown { .. } | Error::Unavailable { .. });
                progress.last = Some(error);
                self.try_another(progress, shard, node, left).await;
            }
            // The table may have been made anew under its name since our map.
            Refusal::Final(Error::TableNotFound { .. }) if !progress.looked_up => {
                self.look_up_again(progress, want).await.map_err(|e| progress.settle(want.write, e))?;
            }
            Refusal::Final(Error::TableNotFound { .. }) => {
                return Err(progress.settle(want.write, Error::TableNotFound { table: want.table.into() }));
            }
            // An outcome: what was stored for the write, whichever attempt made it.
            Refusal::Final(error @ Error::ExpectationFailed { .. }) => return Err(error),
            Refusal::Final(error) => return Err(progress.settle(want.write, error)),
        }
        Ok(())
    }

    /// Asks for a newer map once, because of a table that seems not to be there.
    async fn look_up_again(&self, progress: &mut Progress, want: &Want<'_>) -> Result<()> {
        if progress.looked_up {
            return Err(Error::TableNotFound { table: want.table.into() });
        }
        progress.looked_up = true;
        match timeout(want.left(), self.maps.refresh()).await {
            Ok(refreshed) => refreshed,
            Err(_) => Err(Error::unavailable("no node gave a shard map in time")),
        }
    }

    /// After `node` proved useless for this shard: the next voter, after a pause.
    async fn try_another(&self, progress: &mut Progress, shard: &ShardRoute, node: u64, left: Duration) {
        shard.clear_leader(node);
        progress.turn += 1;
        if progress.turn.is_multiple_of(shard.info.voters.len().max(1)) {
            self.maps.nudge();
        }
        progress.back_off(self, left, None).await;
    }
}

impl Progress {
    pub(crate) fn new(core: &Core, want: &Want<'_>) -> Progress {
        Progress {
            attempt_timeout: core.options.attempt_timeout,
            pause: core.options.backoff_min,
            turn: if want.consistency == Consistency::Local { 0 } else { core.local_start },
            hops: 0,
            suspects: Vec::new(),
            silent: Vec::new(),
            maybe: false,
            last: None,
            looked_up: false,
        }
    }

    fn suspect(&mut self, node: u64, time: Duration) {
        self.suspects.retain(|(id, _)| *id != node);
        self.suspects.push((node, Instant::now() + time));
    }

    /// A node that was silent before may be slow rather than dead: the next attempt waits twice as long.
    fn silent(&mut self, node: u64) {
        if self.silent.contains(&node) {
            self.attempt_timeout *= 2;
        } else {
            self.silent.push(node);
        }
    }

    pub(crate) fn is_suspect(&self, node: u64) -> bool {
        !self.suspects.is_empty() && self.suspects.iter().any(|(id, until)| *id == node && Instant::now() < *until)
    }

    /// Pauses, each time longer, at least as long as the server asked for, never past the deadline.
    async fn back_off(&mut self, core: &Core, left: Duration, at_least: Option<Duration>) {
        let pause = jitter(self.pause).max(at_least.map(|d| d + jitter(d) / 4).unwrap_or_default());
        self.pause = (self.pause * 2).min(core.options.backoff_max);
        self.hops = 0;
        sleep(pause.min(left)).await;
    }

    /// The error of a call whose deadline passed.
    pub(crate) fn out_of_time(&mut self, write: bool) -> Error {
        let last = self.last.take();
        if write && self.maybe {
            return unknown("the deadline passed without an answer", last.as_ref());
        }
        match last {
            None => Error::unavailable("the deadline passed before a node was reached"),
            Some(Error::OutcomeUnknown { cause }) => Error::Unavailable { why: cause },
            Some(error) => error,
        }
    }

    /// The error of a call that cannot go on: for a write that was possibly delivered before, its outcome is unknown. An
    /// error that lies in the request itself stands: every attempt was the same request.
    pub(crate) fn settle(&self, write: bool, error: Error) -> Error {
        let of_the_request =
            matches!(error, Error::InvalidArgument { .. } | Error::TooLarge { .. } | Error::CrossShard);
        if write && self.maybe && !of_the_request { unknown("a retry was refused", Some(&error)) } else { error }
    }
}

fn unknown(what: &str, last: Option<&Error>) -> Error {
    let cause = match last {
        None => what.to_string(),
        Some(Error::OutcomeUnknown { cause }) => cause.clone(),
        Some(last) => format!("{what} ({})", last.cause()),
    };
    Error::OutcomeUnknown { cause }
}
