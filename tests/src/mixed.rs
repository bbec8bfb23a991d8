//! Commands of jobs in a cluster that is below the version that they need, with nodes that do not all speak it.
//!
//! Owns: the calls, to each node by itself, and what has to come of them: a refusal, and equal copies of the system shard. Must never: take a
//! call for refused of which nobody knows what became.

use prost::Message as _;
use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use v1::error::Kind;

use crate::cluster::{Cluster, PATIENCE};
use crate::run::until;

/// No node and no job has this number.
const NOBODY: u64 = 1 << 40;

/// The commands that are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A move begins.
    Move,
    /// A split begins.
    Split,
    /// A job is cancelled.
    Cancel,
    /// A job pauses.
    Pause,
    /// A node takes replicas again.
    Recommission,
}

impl Command {
    const ALL: [Self; 5] = [Self::Move, Self::Split, Self::Cancel, Self::Pause, Self::Recommission];

    async fn call(self, mut admin: AdminClient<Channel>) -> Result<(), Status> {
        use v1::job_goal::Kind as Goal;
        let start = |kind| v1::StartJobRequest { goal: Some(v1::JobGoal { kind: Some(kind) }), id: None };
        match self {
            Self::Move => {
                let goal = Goal::MoveReplica(v1::MoveReplica { shard: 1, from: NOBODY, to: NOBODY + 1 });
                admin.start_job(start(goal)).await.map(drop)
            }
            Self::Split => {
                let goal = Goal::SplitShard(v1::SplitShard { shard: NOBODY, version: 1, at: "m".into() });
                admin.start_job(start(goal)).await.map(drop)
            }
            Self::Cancel => admin.cancel_job(v1::CancelJobRequest { job: NOBODY, id: None }).await.map(drop),
            Self::Pause => admin.pause_job(v1::PauseJobRequest { job: NOBODY, paused: true, id: None }).await.map(drop),
            Self::Recommission => {
                admin.recommission_node(v1::RecommissionNodeRequest { node: NOBODY, id: None }).await.map(drop)
            }
        }
    }
}

/// What an answer means.
enum Answer {
    Refused(String),
    /// It was carried out, or nobody knows.
    Wrong(String),
    /// To be asked again.
    NotYet(String),
}

fn judge(answer: Result<(), Status>) -> Answer {
    let Err(status) = answer else { return Answer::Wrong("it was carried out".into()) };
    let why = format!("{:?}: {}", status.code(), status.message());
    let typed = v1::Error::decode(status.details()).ok().and_then(|error| error.kind);
    match typed {
        Some(Kind::InvalidArgument(_) | Kind::JobNotFound(_) | Kind::JobConflict(_)) => Answer::Refused(why),
        Some(Kind::OutcomeUnknown(_)) => Answer::Wrong(why),
        // An older binary does not know the call.
        None if status.code() == Code::Unimplemented => Answer::Refused(why),
        _ => Answer::NotYet(why),
    }
}

/// Has each command refused by each of these nodes; who said what.
///
/// # Errors
/// One was not refused.
pub fn refused_everywhere(cluster: &Cluster, nodes: &[u16]) -> Result<Vec<(u16, Command, String)>, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let mut said = Vec::new();
    for node in nodes {
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.addr(*node))).map_err(|e| e.to_string())?;
        for command in Command::ALL {
            let ask = || {
                runtime.block_on(async {
                    match endpoint.connect().await {
                        Ok(channel) => judge(command.call(AdminClient::new(channel)).await),
                        Err(error) => Answer::NotYet(error.to_string()),
                    }
                })
            };
            let mut last = String::new();
            let ended = until(PATIENCE, "a command is refused", || match ask() {
                Answer::Refused(why) => Some(Ok(why)),
                Answer::Wrong(why) => Some(Err(why)),
                Answer::NotYet(why) => {
                    last = why;
                    None
                }
            });
            let ended = ended.map_err(|why| format!("{why}: {last}"))?;
            let why = ended.map_err(|why| format!("{command:?} through node {node} was to be refused: {why}"))?;
            said.push((*node, command, why));
        }
    }
    Ok(said)
}

/// Has a node lead the system shard.
///
/// # Errors
/// It does not in time.
pub fn lead(cluster: &Cluster, number: u16) -> Result<(), String> {
    let addr = cluster.addr(number);
    until(PATIENCE, "the system shard is led by the node", || {
        let status = cluster.status()?;
        let id = status.id(&addr)?;
        if status.leader_addr(1).as_deref() == Some(addr.as_str()) {
            return Some(());
        }
        cluster.cli(&["shard", "transfer-leader", "1", "--to", &id.to_string()]);
        None
    })
}

/// Compares the copies of the system shard.
///
/// # Errors
/// They differ, or were not compared in time.
pub fn equal(cluster: &Cluster) -> Result<(), String> {
    let mut last = String::new();
    let compared = until(PATIENCE, "the system shard is compared", || {
        let ran = cluster.cli(&["--timeout", "30s", "-o", "json", "shard", "scrub", "1"]);
        last = ran.stderr.clone();
        (ran.code == 0 || ran.stderr.contains("\"diverged\"")).then_some(ran.code == 0)
    });
    match compared {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("the copies of the system shard differ: {last}")),
        Err(why) => Err(format!("{why}: {last}")),
    }
}
