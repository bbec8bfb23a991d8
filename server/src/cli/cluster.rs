//! `synod cluster`: the version that all nodes of the cluster understand of each other.
//!
//! Owns the words for what became of an upgrade. Must never call a version raised before the system shard's log has it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use synod_client::proto::{NodeVersion, UpgradeReply};

use super::context::Context;
use super::error::{CliError, Result};
use super::output::text;

const AFTER_HELP: &str = "\
A node speaks every cluster version up to its binary's own. New entries, messages and files are used once the cluster is at \
the version that has them. So nodes are replaced by a newer binary one by one, and back, for as long as the version stays; \
raising it is the last step, and there is no way back: an older binary is refused from then on.

Without --to the greatest version that every node speaks is meant. Where that raises nothing though a node speaks a higher one, the \
others are in the way.

Exit codes: 0 the cluster is at the version; 1 refused, each node in the way is named; 4 unknown, the command may be repeated.";

/// `cluster`.
#[derive(Args, Debug)]
pub struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Raise the cluster's version, for good, once every node runs a binary that speaks it
    #[command(after_help = AFTER_HELP)]
    Upgrade {
        /// The new version [default: the greatest that every node speaks]
        #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u32).range(1..))]
        to: Option<u32>,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// Runs `cluster`.
pub async fn run(context: &mut Context, args: ClusterArgs) -> Result<()> {
    let ClusterCommand::Upgrade { to, dry_run } = args.command;
    let reply = context.connect().await?.upgrade(to, dry_run).await?;
    let nodes: Vec<Value> = reply.nodes.iter().map(node).collect();
    if !reply.refused.is_empty() {
        let refused = CliError::failed("upgrade_refused", reply.refused.clone());
        return Err(refused.with("from", reply.from).with("to", reply.to).with("nodes", nodes));
    }
    let done = json!({ "from": reply.from, "to": reply.to, "dry_run": dry_run, "nodes": nodes });
    context.out.done(&done, |_| as_text(&reply, dry_run))
}

fn node(node: &NodeVersion) -> Value {
    let heard = node.speaks > 0;
    json!({
        "node": node.node,
        "addr": node.addr,
        "speaks": heard.then_some(node.speaks),
        "heard_ms_ago": heard.then_some(node.heard_ms_ago),
    })
}

fn as_text(reply: &UpgradeReply, dry_run: bool) -> Vec<String> {
    let UpgradeReply { from, to, nodes, .. } = reply;
    let first = match (from == to, dry_run) {
        (true, _) => format!("the cluster is at version {to}"),
        (false, true) => format!("the cluster is at version {from} and could be raised to {to}"),
        (false, false) => format!("the cluster is raised from version {from} to {to}"),
    };
    let mut table = text::table(&["node", "address", "speaks"]);
    for node in nodes {
        let speaks = (node.speaks > 0).then_some(node.speaks);
        table.add_row([node.node.to_string(), node.addr.clone(), text::or_dash(speaks)]);
    }
    std::iter::once(first).chain(text::lines(&table)).collect()
}
