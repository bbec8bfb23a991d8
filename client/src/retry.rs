//! Carries out the decisions of `decide`: pauses, refreshed maps, and the leader that the map shows.
//!
//! Owns: the waiting. Must never: decide anything; `decide` does, so that the simulation runs the same decisions.

use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout};

use crate::error::{Error, Result};
use crate::link::jitter;
use crate::router::ShardRoute;
use crate::shared::{Core, Want};
use synod_cluster::decide::{self, Attempt, Failure, Leader, Missing, Next, Pause};

/// What a call has learnt from its attempts, and when the call began.
pub(crate) struct Progress {
    pub(crate) learnt: decide::Progress,
    began: Instant,
}

/// An attempt that failed.
pub(crate) struct Tried {
    pub(crate) shard: Arc<ShardRoute>,
    /// The node that was asked.
    pub(crate) node: u64,
    /// It was a batch whose keys are of several shards.
    pub(crate) crosses: bool,
    /// It was a write that may have left.
    pub(crate) may_have_left: bool,
}

impl Core {
    /// Waits for a map that has what is missing.
    pub(crate) async fn find(&self, progress: &mut Progress, want: &Want<'_>, missing: Missing) -> Result<()> {
        let next = progress.learnt.missing(missing, want.table, want.write);
        self.go_on(progress, want, None, next).await
    }

    /// Notes how an attempt failed and waits until the next one is due. An error ends the call.
    pub(crate) async fn failed(
        &self,
        progress: &mut Progress,
        want: &Want<'_>,
        tried: &Tried,
        failure: Failure,
    ) -> Result<()> {
        let Tried { shard, node, crosses, may_have_left } = tried;
        let node = *node;
        let attempt = Attempt {
            table: want.table,
            shard: shard.info.id,
            voters: shard.info.voters.len(),
            node,
            write: want.write,
            may_have_left: *may_have_left,
            // By this refusal, by the answer to another call, or by a newer map.
            moved: self.locate(want).is_some_and(|now| !now.is_same(shard)),
            crosses: *crosses,
        };
        if matches!(failure, Failure::Silent(_)) {
            // The node may be hung: without this, a call to each shard that it led would wait as long.
            self.maps.view().forget_leader(node);
            self.note_silent(node);
        }
        let now = progress.now();
        let known = |node| self.maps.view().addr(node).is_some();
        let next = progress.learnt.failed(failure, &attempt, now, known);
        self.go_on(progress, want, Some(shard), next).await
    }

    /// The shard of what is asked for, as is known now.
    fn locate(&self, want: &Want<'_>) -> Option<Arc<ShardRoute>> {
        self.maps.view().table(want.table)?.locate(want.place).cloned()
    }

    async fn go_on(
        &self,
        progress: &mut Progress,
        want: &Want<'_>,
        shard: Option<&ShardRoute>,
        next: Next,
    ) -> Result<()> {
        match next {
            Next::Again { leader, nudge, pause } => {
                match (leader, shard) {
                    (Leader::Is(node), Some(shard)) => shard.set_leader(node),
                    (Leader::IsNot(node), Some(shard)) => shard.clear_leader(node),
                    _ => {}
                }
                if nudge {
                    self.maps.nudge();
                }
                if let Some(pause) = pause {
                    rest(pause, want).await;
                }
                Ok(())
            }
            Next::LookUp => {
                let looked = match timeout(want.left(), self.maps.refresh()).await {
                    Ok(refreshed) => refreshed,
                    Err(_) => Err(Error::unavailable("no node gave a shard map in time")),
                };
                progress.learnt.settled(want.write, looked)
            }
            Next::End(error) => Err(error),
        }
    }
}

/// Never past the deadline, nor so close to it that what follows is in vain.
async fn rest(pause: Pause, want: &Want<'_>) {
    sleep(pause.length(want.left(), jitter)).await;
}

impl Progress {
    pub(crate) fn new(core: &Core, want: &Want<'_>) -> Progress {
        let options = &core.options;
        let turn = if want.consistency.is_of_leader() { core.local_start } else { 0 };
        let pauses = (options.backoff_min, options.backoff_max);
        Progress { learnt: decide::Progress::new(options.attempt_timeout, pauses, turn), began: Instant::now() }
    }

    /// The time since the call began.
    pub(crate) fn now(&self) -> std::time::Duration {
        self.began.elapsed()
    }
}
