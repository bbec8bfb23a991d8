//! `synod shard`: list and describe shards, compare their replicas, hand leadership over, move replicas (`members`), split
//! and merge shards (`splits`, `merges`).
//!
//! Owns the choice of the next leader where none is named. Must never call a transfer done before the new leader says
//! so itself.

use std::time::Duration;

use clap::{Args, Subcommand};
use synod_client::{Client, Error};
use tokio::time::{Instant, sleep};

use super::context::Context;
use super::error::{CliError, Result};
use super::output::{json, text};
use super::{members, merges, splits, status};

/// Time after which an incomplete comparison is asked for again. One that is under way is not begun anew.
const SCRUB_AGAIN: Duration = Duration::from_secs(10);
/// Pause between two words on what a comparison waits for.
const SCRUB_SAYS: Duration = Duration::from_secs(5);
/// Time after which a comparison ends that waits for replicas which do not come on, unless `--timeout` says another one.
const SCRUB_STUCK: Duration = Duration::from_secs(60);
/// The same while a replica is read, of which nothing is seen until its end.
const SCRUB_READS: Duration = Duration::from_secs(600);

/// `shard`.
#[derive(Args, Debug)]
pub struct ShardArgs {
    #[command(subcommand)]
    command: ShardCommand,
}

#[derive(Debug, Subcommand)]
enum ShardCommand {
    /// List the shards of a table, or all
    List {
        /// Only shards of this table
        table: Option<String>,
    },
    /// Show one shard and its replicas
    Describe {
        /// The shard's number
        shard: u64,
    },
    /// Compare all replicas of shards at one slot, and read everything they have stored; exit code 1 where they differ, 4 where nothing
    /// moved for --timeout (default 1m, 10m while replicas are read)
    Scrub {
        /// The shards' numbers [default: all]
        shards: Vec<u64>,
    },
    /// Hand a shard's leadership to another of its replicas, without a pause for an election; can be repeated
    TransferLeader {
        /// The shard's number
        shard: u64,
        /// The node to lead it [default: the next of its replicas]
        #[arg(long, value_name = "NODE")]
        to: Option<u64>,
    },
    /// Move a replica to another node: it learns, catches up, then takes the other's place; the move goes on where the command is
    /// interrupted
    Move {
        /// The shard's number
        shard: u64,
        /// The node whose replica is removed
        #[arg(long, value_name = "NODE")]
        from: u64,
        /// The node that gets it
        #[arg(long, value_name = "NODE")]
        to: u64,
        /// Only begin the move, and print its job's number
        #[arg(long, visible_alias = "no-wait")]
        detach: bool,
    },
    /// Make two shards of one; the split goes on where the command is interrupted
    Split(splits::SplitArgs),
    /// Make one shard of two neighbours; the merge goes on where the command is interrupted
    Merge(merges::MergeArgs),
}

/// Runs `shard`.
pub async fn run(context: &mut Context, args: ShardArgs) -> Result<()> {
    match args.command {
        ShardCommand::List { table } => list(context, table).await,
        ShardCommand::Describe { shard } => {
            let shard = find(status::fetch(context).await?, shard)?;
            context.out.value(&shard, as_text)
        }
        ShardCommand::Scrub { shards } => scrub(context, shards).await,
        ShardCommand::TransferLeader { shard, to } => transfer(context, shard, to).await,
        ShardCommand::Move { shard, from, to, detach } => members::move_shard(context, shard, from, to, detach).await,
        ShardCommand::Split(args) => splits::split_shard(context, args).await,
        ShardCommand::Merge(args) => merges::merge_shards(context, args).await,
    }
}

async fn list(context: &mut Context, table: Option<String>) -> Result<()> {
    let mut shards = status::fetch(context).await?.shards;
    if let Some(table) = table {
        // Asked by name so that an unknown table is an error, not an empty list.
        context.connect().await?.table(&table).await?;
        shards.retain(|shard| shard.table.as_deref() == Some(&table));
    }
    if context.out.json() {
        return shards.iter().try_for_each(|shard| context.out.object(shard));
    }
    status::shard_lines(&shards).iter().try_for_each(|line| context.out.line(line))
}

fn find(status: json::Status, id: u64) -> Result<json::Shard> {
    status.shards.into_iter().find(|shard| shard.id == id).ok_or_else(|| {
        let message = format!("shard {id} does not exist; `synod shard list` shows those that do");
        CliError::failed("shard_not_found", message).with("shard", id)
    })
}

fn as_text(shard: &json::Shard) -> Vec<String> {
    let mut lines = vec![
        format!("shard {} of table {}", shard.id, shard.table.as_deref().unwrap_or("(system)")),
        format!("  bounds {}", text::bounds(&shard.bounds)),
        format!(
            "  epoch {} (changes of members), version {} (changes of bounds)",
            shard.changes.epoch, shard.changes.version
        ),
        format!("  leader {}", text::or_dash(shard.leader)),
    ];
    lines.extend(shard.merge.as_ref().map(|merge| format!("  {}", merge.in_words())));
    let mut rows = text::table(&["node", "role", "lag", "commit", "applied"]);
    for replica in &shard.replicas {
        rows.add_row([
            replica.node.to_string(),
            replica.role.clone(),
            text::or_dash(replica.lag_slots),
            text::or_dash(replica.commit),
            text::or_dash(replica.applied),
        ]);
    }
    lines.extend(text::lines(&rows));
    lines
}

/// Asks the next replica of a shard to lead it, and gives its node. Whether it comes about is seen in the status.
pub async fn hand_over(client: &Client, id: u64) -> Result<u64> {
    let target = next_leader(&find(status::look(client).await?, id)?)?;
    ask_to_lead(client, id, target).await?;
    Ok(target)
}

async fn ask_to_lead(client: &Client, id: u64, target: u64) -> Result<()> {
    match client.transfer_leader(id, target).await {
        // Asked for, perhaps: whether it comes about is seen in the status.
        Ok(()) | Err(Error::OutcomeUnknown { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn transfer(context: &mut Context, id: u64, to: Option<u64>) -> Result<()> {
    let client = context.connect().await?;
    let look = async || -> Result<json::Shard> { find(status::look(&client).await?, id) };
    let shard = look().await?;
    let target = match to {
        Some(node) => node,
        None => next_leader(&shard)?,
    };
    if shard.leader == Some(target) {
        let done = serde_json::json!({ "shard": id, "leader": target, "from": target });
        return context.out.done(&done, |_| vec![format!("node {target} leads shard {id} already")]);
    }
    ask_to_lead(&client, id, target).await?;
    let limit = client_patience(context);
    let started = Instant::now();
    loop {
        // A look that fails says nothing of the transfer.
        if look().await.is_ok_and(|shard| shard.leader == Some(target)) {
            let done = serde_json::json!({ "shard": id, "leader": target, "from": shard.leader });
            return context.out.done(&done, |_| vec![format!("node {target} leads shard {id}")]);
        }
        if started.elapsed() > limit {
            let message = format!(
                "node {target} was asked to lead shard {id} and does not lead it yet; `synod status` shows when it does, \
                 and the same command can be repeated"
            );
            return Err(CliError::unknown("not_transferred", message).with("shard", id).with("to", target).retryable());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// One after another: a leader reads one shard at a time.
async fn scrub(context: &mut Context, mut ids: Vec<u64>) -> Result<()> {
    let client = context.connect().await?;
    let look = async || -> Result<json::Status> { status::look(&client).await };
    if ids.is_empty() {
        ids = look().await?.shards.iter().map(|shard| shard.id).collect();
    }
    let (mut found, mut diverged) = (Vec::new(), Vec::new());
    for id in ids {
        find(look().await?, id)?;
        let shard = scrubbed(context, &client, &look, id).await?;
        diverged.extend(status::divergence(&shard));
        if let Some(silent) = silent(&shard) {
            context.progress(&silent);
        }
        found.extend(shard.scrub.map(|scrub| (id, scrub)));
    }
    if context.out.json() {
        let shards: Vec<_> =
            found.iter().map(|(id, scrub)| serde_json::json!({ "shard": id, "scrub": scrub })).collect();
        context.out.object(&serde_json::json!({ "shards": shards }))?;
    } else {
        for (id, json::Scrub { slot, compared, equal, .. }) in &found {
            let how = if *equal { "equal" } else { "DIFFERENT" };
            context.out.line(format!("shard {id}: {} replicas at slot {slot}: {how}", compared.len()))?;
        }
    }
    match diverged.first() {
        None => Ok(()),
        Some(_) => Err(CliError::failed("diverged", diverged.join("; "))),
    }
}

/// Which replicas of a shard were not compared, and that nobody waited for them.
fn silent(shard: &json::Shard) -> Option<String> {
    let compared = |node: u64| shard.scrub.as_ref().is_some_and(|scrub| scrub.compared.contains(&node));
    let left = shard.replicas.iter().filter(|replica| !compared(replica.node));
    let left: Vec<String> = left.map(|replica| format!("node {} ({})", replica.node, replica.role)).collect();
    (!left.is_empty()).then(|| format!("shard {} was compared without {}", shard.id, left.join(" and ")))
}

/// A replica that answers and is not compared yet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Left {
    node: u64,
    /// Up to the marker: what it applies after that is no step on.
    applied: u64,
}

/// The wait for a comparison at slot `at` or a later one.
struct Wait {
    at: u64,
    /// What `--timeout` says.
    given: Option<Duration>,
    left: Vec<Left>,
    moved: Instant,
    said: Instant,
}

impl Wait {
    fn new(at: u64, given: Option<Duration>, now: Instant) -> Self {
        Self { at, given, left: Vec::new(), moved: now, said: now }
    }

    /// What a look at the shard shows; whether all that answer are compared.
    fn look(&mut self, shard: &json::Shard, now: Instant) -> bool {
        let found = shard.scrub.as_ref().filter(|scrub| scrub.slot >= self.at);
        let compared = found.map_or(&[] as &[u64], |scrub| scrub.compared.as_slice());
        let answering = shard.replicas.iter().filter(|r| r.role != "reinstalling" && !compared.contains(&r.node));
        let left = answering.filter_map(|r| Some(Left { node: r.node, applied: r.applied?.min(self.at) }));
        let left: Vec<Left> = left.collect();
        if left != self.left {
            (self.left, self.moved) = (left, now);
        }
        self.left.is_empty() && !compared.is_empty()
    }

    /// Whether nothing has moved for too long. Of a replica that is read nothing is seen until its end.
    fn is_over(&self, now: Instant) -> bool {
        let reads = self.left.iter().any(|left| left.applied >= self.at);
        let limit = self.given.unwrap_or(if reads { SCRUB_READS } else { SCRUB_STUCK });
        now.duration_since(self.moved) > limit
    }

    /// Whether it is time to say what is waited for.
    fn is_to_say(&mut self, now: Instant) -> bool {
        let due = now.duration_since(self.said) >= SCRUB_SAYS;
        if due {
            self.said = now;
        }
        due
    }

    fn in_words(&self) -> String {
        let of = |Left { node, applied }: &Left| {
            if *applied >= self.at {
                return format!("node {node}, which reads its replica");
            }
            let at = self.at;
            format!("node {node}, which is at slot {applied} and has to apply slot {at} (it lags, or needs a snapshot)")
        };
        let all: Vec<String> = self.left.iter().map(of).collect();
        if all.is_empty() { "a replica that answers".into() } else { all.join("; ") }
    }
}

/// Has a shard's replicas compared, and waits until every one that answers was.
async fn scrubbed(
    context: &Context,
    client: &Client,
    look: &impl AsyncFn() -> Result<json::Status>,
    id: u64,
) -> Result<json::Shard> {
    let at = client.scrub(id).await?;
    let mut asked = Instant::now();
    let mut wait = Wait::new(at, context.timeout(), asked);
    let mut shard = find(look().await?, id)?;
    loop {
        if asked.elapsed() > SCRUB_AGAIN {
            // A replica that was still being read passed the marker over. Where that cannot be asked for now it is next time.
            let _ = client.scrub(id).await;
            asked = Instant::now();
        }
        // A look that fails says nothing of the comparison; a shard that went does.
        if let Ok(status) = look().await {
            shard = find(status, id)?;
        }
        let now = Instant::now();
        if wait.look(&shard, now) {
            return Ok(shard);
        }
        if wait.is_over(now) {
            let message = format!(
                "shard {id} is not compared: it waits for {}; `synod status` shows the result once all are read, and the same command \
                 can be repeated (--timeout says how long to wait while nothing moves)",
                wait.in_words()
            );
            let nodes: Vec<u64> = wait.left.iter().map(|left| left.node).collect();
            let error = CliError::unknown("not_scrubbed", message).with("shard", id).with("nodes", nodes);
            return Err(error.with("knob", "--timeout").retryable());
        }
        if wait.is_to_say(now) {
            context.progress(&format!("shard {id} waits for {}", wait.in_words()));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn client_patience(context: &Context) -> Duration {
    context.options(Duration::from_secs(10)).call_timeout
}

/// The replica after the leader, in the order of node numbers, that answers.
fn next_leader(shard: &json::Shard) -> Result<u64> {
    let followers: Vec<u64> =
        shard.replicas.iter().filter(|replica| replica.role == "follower").map(|replica| replica.node).collect();
    let after = followers.iter().find(|node| Some(**node) > shard.leader);
    after.or(followers.first()).copied().ok_or_else(|| {
        let message = format!("shard {} has no other replica that answers", shard.id);
        CliError::failed("unavailable", message).with("shard", shard.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(leader: u64, roles: &[(u64, &str)]) -> json::Shard {
        let replica = |(node, role): &(u64, &str)| json::Replica {
            node: *node,
            role: (*role).to_owned(),
            lag_slots: None,
            commit: None,
            applied: None,
            unborn: false,
        };
        json::Shard {
            id: 2,
            table: None,
            bounds: json::Bounds::Keys { from: vec![], to: vec![] },
            changes: json::Changes { epoch: 1, version: 1 },
            leader: Some(leader),
            replicas: roles.iter().map(replica).collect(),
            scrub: None,
            merge: None,
            bytes: None,
            load: None,
        }
    }

    /// Replicas that have applied so much, and those that are compared at slot 40.
    fn scrubbing(applied: &[(u64, Option<u64>)], compared: &[u64]) -> json::Shard {
        let mut shard = shard(1, &[(1, "leader"), (2, "follower"), (3, "follower")]);
        for (node, slot) in applied {
            let replica = shard.replicas.iter_mut().find(|replica| replica.node == *node).unwrap();
            replica.applied = *slot;
        }
        shard.scrub = Some(json::Scrub { slot: 40, compared: compared.to_vec(), equal: true, diverged: vec![] });
        shard
    }

    #[test]
    fn a_comparison_names_whom_it_waits_for_and_ends_when_nothing_moves() {
        let began = Instant::now();
        let after = |seconds: u64| began + Duration::from_secs(seconds);
        let mut wait = Wait::new(40, None, began);
        let all = |slot| [(1, Some(50)), (2, Some(50)), (3, Some(slot))];
        assert!(!wait.look(&scrubbing(&all(17), &[1]), after(1)));
        assert_eq!(
            wait.in_words(),
            "node 2, which reads its replica; node 3, which is at slot 17 and has to apply slot 40 (it lags, or needs a snapshot)"
        );
        assert!(!wait.is_over(after(500)) && wait.is_over(after(602)), "a replica is read");
        assert!(wait.is_to_say(after(5)) && !wait.is_to_say(after(9)) && wait.is_to_say(after(10)));
        // Only one that does not come on is left.
        assert!(!wait.look(&scrubbing(&all(17), &[1, 2]), after(100)));
        assert!(
            !wait.look(&scrubbing(&all(17), &[1, 2]), after(150))
                && !wait.is_over(after(160))
                && wait.is_over(after(161))
        );
        assert!(!wait.look(&scrubbing(&all(18), &[1, 2]), after(155)) && !wait.is_over(after(161)), "it came on");
        assert!(wait.look(&scrubbing(&all(50), &[1, 2, 3]), after(156)));
        // What it is told counts for both.
        let mut wait = Wait::new(40, Some(Duration::from_secs(5)), began);
        wait.look(&scrubbing(&all(50), &[1, 2]), began);
        wait.look(&scrubbing(&[(1, Some(60)), (2, Some(60)), (3, Some(60))], &[1, 2]), after(4));
        assert!(!wait.is_over(after(5)) && wait.is_over(after(6)), "new entries are no step on");
        // An earlier comparison is none.
        let mut wait = Wait::new(41, None, began);
        assert!(!wait.look(&scrubbing(&[], &[1, 2, 3]), began));
        assert_eq!(wait.in_words(), "a replica that answers");
    }

    #[test]
    fn replicas_that_do_not_answer_are_not_waited_for_and_named() {
        let mut wait = Wait::new(40, None, Instant::now());
        let mut shard = scrubbing(&[(1, Some(50)), (2, Some(50))], &[1, 2]);
        shard.replicas[2].role = "unknown".into();
        assert!(wait.look(&shard, Instant::now()));
        assert_eq!(silent(&shard).unwrap(), "shard 2 was compared without node 3 (unknown)");
        shard.replicas.pop();
        assert_eq!(silent(&shard), None);
    }

    #[test]
    fn the_next_leader_is_the_next_replica_that_answers() {
        let roles = [(1, "follower"), (2, "leader"), (3, "follower")];
        assert_eq!(next_leader(&shard(2, &roles)).unwrap(), 3);
        let roles = [(1, "follower"), (2, "unknown"), (3, "leader")];
        assert_eq!(next_leader(&shard(3, &roles)).unwrap(), 1);
        assert!(next_leader(&shard(1, &[(1, "leader"), (2, "unknown")])).is_err());
    }
}
