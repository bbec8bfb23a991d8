//! One call: from the shard map to a node, again and again, until an answer or the deadline.
//!
//! Owns: the choice of node and the one attempt. Must never: let a topology error through; `retry` decides what follows
//! a failed attempt.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::timeout;

use crate::error::Result;
use crate::frames::{Answer, Ask, was_sent};
use crate::link::{Broken, Conn};
use crate::retry::{Progress, Tried};
use crate::router::{MapView, ShardRoute, TableRoute};
use crate::shared::{Core, Want};
use synod_cluster::decide::{Failure, Missing, Refused};
use synod_proto::v1;
use v1::error::Kind;

/// An answer with where it came from.
pub(crate) struct Got {
    pub(crate) shard: Arc<ShardRoute>,
    pub(crate) answer: Answer,
}

/// Where a request goes.
struct Route {
    table: Arc<TableRoute>,
    shard: Arc<ShardRoute>,
    node: u64,
}

impl Core {
    /// Makes a call. `body` builds the request for the shard found, each time anew; its error ends the call.
    ///
    /// What is only awaited when something is in the way is boxed: every call carries its future's size around.
    pub(crate) async fn call(
        &self,
        want: Want<'_>,
        mut body: impl FnMut(&TableRoute, &ShardRoute, &Conn) -> Result<Ask>,
    ) -> Result<Got> {
        let mut progress = Progress::new(self, &want);
        loop {
            let left = want.left();
            if progress.learnt.is_over(left) {
                return Err(progress.learnt.out_of_time(want.write));
            }
            let Route { table, shard, node } = match self.route(&want, &mut progress) {
                Ok(route) => route,
                Err(missing) => {
                    Box::pin(self.find(&mut progress, &want, missing)).await?;
                    continue;
                }
            };
            let limit = left.min(progress.learnt.attempt_timeout() + want.wait);
            let conn = match self.ready(node) {
                Some(conn) => Ok(conn),
                None => Box::pin(timeout(limit, self.conn(node))).await.unwrap_or(Err(Failure::Silent(limit))),
            };
            let crosses = want.crosses(&table, &shard);
            if crosses {
                progress.learnt.cross()?;
            }
            let sent = Arc::new(AtomicBool::new(false));
            let failure = match conn {
                Err(failure) => failure,
                Ok(conn) => {
                    let ask = body(&table, &shard, &conn).map_err(|e| progress.learnt.settle(want.write, e))?;
                    // A node that is far away is not silent for its being far.
                    let limit = want.left().min(limit + 2 * conn.clock.round_trip());
                    let asked = conn.ask(shard.info.id, shard.info.version, ask, Some(sent.clone()));
                    match answered(&conn, asked, &sent, limit, &want).await {
                        Ok(Answer::Error(error)) => {
                            self.learn(&want, &error);
                            Failure::Refused(Refused::from(error))
                        }
                        Ok(answer) => {
                            if want.consistency.is_of_leader() {
                                shard.set_leader(node);
                            }
                            return Ok(Got { shard, answer });
                        }
                        Err(failure) => failure,
                    }
                }
            };
            let tried = Tried { shard, node, crosses, may_have_left: want.write && was_sent(&sent) };
            Box::pin(self.failed(&mut progress, &want, &tried, failure)).await?;
        }
    }

    /// Takes what a refusal says of the shards that own what was asked for.
    fn learn(&self, want: &Want<'_>, error: &v1::Error) {
        if let Some(Kind::WrongShard(v1::WrongShard { now })) = &error.kind
            && !now.is_empty()
        {
            self.maps.hint(want.table, now);
        }
    }

    fn route(&self, want: &Want<'_>, progress: &mut Progress) -> std::result::Result<Route, Missing> {
        let view = self.maps.view();
        let table = view.table(want.table).ok_or(Missing::Table)?.clone();
        let shard = table.locate(want.place).ok_or(Missing::Shard)?.clone();
        let node = self.choose(&shard, want, progress).ok_or(Missing::Voter)?;
        Ok(Route { table, shard, node })
    }

    /// The open stream to a node, if there is one now.
    fn ready(&self, node: u64) -> Option<Arc<Conn>> {
        self.links.existing(node)?.ready()
    }

    /// The stream to a node, opened if need be.
    async fn conn(&self, node: u64) -> std::result::Result<Arc<Conn>, Failure> {
        let link = match self.maps.view().addr(node) {
            Some(addr) => self.links.get(node, addr),
            None => return Err(Failure::Broken(format!("node {node} is not in the map"))),
        };
        link.conn().await.map_err(|Broken(why)| Failure::Broken(why))
    }

    /// The node to ask: the leader, or the next voter in turn. Nodes that just failed are passed over while others are left.
    fn choose(&self, shard: &ShardRoute, want: &Want<'_>, progress: &mut Progress) -> Option<u64> {
        let (voters, now) = (&shard.info.voters, progress.now());
        let nth = |n: usize| voters.get(n % voters.len().max(1)).copied();
        if !want.consistency.is_of_leader() {
            let turn = self.local_start.wrapping_add(progress.learnt.turn());
            let in_turn = || (0..voters.len()).filter_map(|i| nth(turn.wrapping_add(i)));
            let trusted = |node: &u64| !progress.learnt.is_suspect(*node, now);
            let is_up = |node: &u64| trusted(node) && self.links.existing(*node).is_some_and(|l| l.ready().is_some());
            // A node that is connected, but of those only the first: it may answer every time that it has no word of a leader.
            let near = || in_turn().find(is_up).filter(|_| progress.learnt.turn() == 0);
            return near().or_else(|| in_turn().find(trusted)).or_else(|| nth(turn));
        }
        let leader = shard.leader();
        match self.recently_silent().filter(|_| leader.is_none()) {
            None => progress.learnt.choose(leader, voters, now),
            Some(silent) => {
                let others: Vec<u64> = voters.iter().copied().filter(|node| *node != silent).collect();
                progress.learnt.choose(None, if others.is_empty() { voters } else { &others }, now)
            }
        }
    }
}

/// Waits for the answer to a request given to `conn`, for `limit` from when it leaves. While the node answers others, a
/// request that waits here for its turn says nothing about the node, only that the node has enough to do.
async fn answered(
    conn: &Conn,
    asked: impl Future<Output = std::result::Result<Answer, Broken>>,
    sent: &AtomicBool,
    limit: Duration,
    want: &Want<'_>,
) -> std::result::Result<Answer, Failure> {
    let mut asked = pin!(asked);
    let mut waited = false;
    loop {
        let patience = limit.min(want.left());
        if let Ok(answer) = timeout(patience, &mut asked).await {
            return answer.map_err(|Broken(why)| Failure::Broken(why));
        }
        let waits = !was_sent(sent) && conn.has_answered(limit);
        match (waits, std::mem::replace(&mut waited, waits)) {
            (true, _) if want.left().is_zero() => {
                let why = "the node has the most requests of this client under way that it accepts at a time".into();
                return Err(Failure::Refused(Refused::Overloaded { retry_after: Duration::ZERO, why }));
            }
            (true, _) => {}
            // It left since the last look.
            (false, true) if was_sent(sent) => {}
            (false, _) => return Err(Failure::Silent(limit)),
        }
    }
}

/// The shards' view of a map for those who only want to look.
pub(crate) fn leader_of(view: &MapView, table: &str, shard: u64) -> Option<u64> {
    view.table(table)?.shards.iter().find(|s| s.info.id == shard)?.leader()
}
