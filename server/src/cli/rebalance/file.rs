//! A plan, as it is printed for programs and read again to be carried out.
//!
//! Owns: its form in JSON, and what is wrong with one that cannot be used. Must never: change what an operation means, or take a plan
//! that was cut off.

use serde::{Deserialize, Serialize};
use synod_client::proto::planned_operation::Change as Wire;
use synod_client::proto::{PlacementMeasure, PlanRebalanceReply, PlannedOperation, VoterMove};
use synod_cluster::planner::settings::AT_ONCE_MAX;

use crate::cli::bytes::from_base64;
use crate::cli::error::{CliError, Exit, Result};
use crate::cli::escape::to_base64;
use crate::cli::output::text;

/// The form below. A plan of another one is not taken.
const FORMAT: u32 = 1;

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanFile {
    /// [`FORMAT`].
    pub format: u32,
    /// The cluster, 32 hexadecimal digits.
    pub cluster: String,
    /// Of the map that the plan was made from.
    pub map_revision: u64,
    /// How many operations may be under way at a time.
    pub max_concurrent: u32,
    /// What is to be done, in this order.
    pub operations: Vec<Planned>,
    /// What cannot be planned.
    pub refused: Vec<String>,
    /// Nodes that are held for alive and said nothing.
    pub silent: Vec<u64>,
    /// The cluster as it was.
    pub before: Figures,
    /// The same once all is done, as predicted.
    pub after: Figures,
}

/// What is done with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A voter more, on `to`.
    Add,
    /// A voter moves, from `from` to `to`.
    Move,
    /// The learner on `from` goes.
    Forget,
    /// The voter on `to` leads.
    Lead,
    /// A second shard begins at `at_base64`.
    Split,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// The shard.
    pub shard: u64,
    /// Its table; the cluster's own shard has none.
    pub table: Option<String>,
    /// What is done.
    pub change: What,
    /// From this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// To this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// A position: a key, or on a hash table an 8-byte big-endian hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_base64: Option<String>,
    /// What asks for it.
    pub rule: String,
    /// Why.
    pub why: String,
    /// The version of the shard that it was made from.
    pub version: u64,
    /// The epoch of its members that it was made from.
    pub epoch: u64,
    /// What it is to change.
    pub predicted: Predicted,
}

/// What an operation is to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicted {
    /// What is counted.
    pub what: String,
    /// Before it.
    pub before: u64,
    /// After it.
    pub after: u64,
}

/// How well a cluster is placed. Percentages are those of the node that has most, of the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Shards.
    pub shards: u64,
    /// Voters that are lost or missing.
    pub lost: u64,
    /// Pairs of voters of one shard in one zone.
    pub zone_pairs: u64,
    /// Replicas on nodes that are being emptied.
    pub marked: u64,
    /// Bytes.
    pub bytes_percent: u64,
    /// Replicas.
    pub replicas_percent: u64,
    /// Leaderships.
    pub leaders_percent: u64,
    /// Load.
    pub load_percent: u64,
}

impl From<PlacementMeasure> for Figures {
    fn from(wire: PlacementMeasure) -> Self {
        let PlacementMeasure { shards, lost, zone_pairs, marked, .. } = wire;
        let PlacementMeasure { bytes_percent, replicas_percent, leaders_percent, load_percent, .. } = wire;
        Self { shards, lost, zone_pairs, marked, bytes_percent, replicas_percent, leaders_percent, load_percent }
    }
}

/// The number of a cluster, as a plan names it.
pub fn cluster_name(cluster: &[u8]) -> String {
    cluster.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl PlanFile {
    /// From a node's answer; `table` names the table of a shard. What this binary does not know is left out.
    pub fn of(reply: PlanRebalanceReply, table: impl Fn(u64) -> Option<String>) -> Self {
        let planned = |wire: PlannedOperation| {
            let (change, from, to, at) = match wire.change? {
                Wire::Add(to) => (What::Add, None, Some(to), None),
                Wire::Move(VoterMove { from, to }) => (What::Move, Some(from), Some(to), None),
                Wire::Forget(node) => (What::Forget, Some(node), None, None),
                Wire::Lead(to) => (What::Lead, None, Some(to), None),
                Wire::Split(at) => (What::Split, None, None, Some(at)),
            };
            Some(Planned {
                shard: wire.shard,
                table: table(wire.shard),
                change,
                from,
                to,
                at_base64: at.map(|at| to_base64(&at)),
                rule: wire.rule,
                why: wire.why,
                version: wire.version,
                epoch: wire.epoch,
                predicted: Predicted { what: wire.what, before: wire.before, after: wire.after },
            })
        };
        Self {
            format: FORMAT,
            cluster: cluster_name(&reply.cluster),
            map_revision: reply.map_revision,
            max_concurrent: reply.max_concurrent,
            operations: reply.operations.into_iter().filter_map(planned).collect(),
            refused: reply.refused,
            silent: reply.silent,
            before: reply.before.map(Figures::from).unwrap_or_default(),
            after: reply.after.map(Figures::from).unwrap_or_default(),
        }
    }

    /// Reads what [`PlanFile`] was printed as.
    ///
    /// # Errors
    /// Of usage: what is wrong with it, and where.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self> {
        let bad = |why: String| {
            let shown = text::path(file);
            let message = format!("{shown} is no plan: {why}; `synod -o json rebalance plan > FILE` makes one");
            CliError::failed("invalid_plan", message).exiting(Exit::Usage).with("file", file).with("why", why)
        };
        let plan: Self = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if plan.format != FORMAT {
            return Err(bad(format!("it has format {}, this binary reads format {FORMAT}", plan.format)));
        }
        if !(1..=AT_ONCE_MAX).contains(&plan.max_concurrent) {
            return Err(bad(format!("max_concurrent is {}, it must be from 1 to {AT_ONCE_MAX}", plan.max_concurrent)));
        }
        for (index, planned) in plan.operations.iter().enumerate() {
            planned.to_wire().map_err(|why| bad(format!("operation {}: {why}", index + 1)))?;
        }
        Ok(plan)
    }
}

impl Planned {
    /// For the cluster.
    ///
    /// # Errors
    /// What it lacks.
    pub fn to_wire(&self) -> std::result::Result<PlannedOperation, String> {
        let node = |name: &str, node: Option<u64>| node.ok_or_else(|| format!("it lacks its field {name}"));
        let change = match self.change {
            What::Add => Wire::Add(node("to", self.to)?),
            What::Move => Wire::Move(VoterMove { from: node("from", self.from)?, to: node("to", self.to)? }),
            What::Forget => Wire::Forget(node("from", self.from)?),
            What::Lead => Wire::Lead(node("to", self.to)?),
            What::Split => {
                let at = self.at_base64.as_ref().ok_or("it lacks its field at_base64")?;
                let at = from_base64("at_base64", at.as_bytes()).map_err(|error| error.message().to_owned())?;
                Wire::Split(at.into())
            }
        };
        if self.version == 0 || self.epoch == 0 {
            return Err("its version and its epoch must not be 0".into());
        }
        Ok(PlannedOperation {
            shard: self.shard,
            version: self.version,
            epoch: self.epoch,
            rule: self.rule.clone(),
            why: self.why.clone(),
            change: Some(change),
            what: self.predicted.what.clone(),
            before: self.predicted.before,
            after: self.predicted.after,
        })
    }

    /// What is done, in words.
    pub fn in_words(&self) -> String {
        let (from, to) = (text::or_dash(self.from), text::or_dash(self.to));
        match self.change {
            What::Add => format!("add a voter on node {to}"),
            What::Move => format!("move the replica of node {from} to node {to}"),
            What::Forget => format!("remove the learner from node {from}"),
            What::Lead => format!("let node {to} lead"),
            What::Split => "split it".to_owned(),
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn wire(shard: u64, change: Wire) -> PlannedOperation {
        PlannedOperation {
            shard,
            version: 2,
            epoch: 3,
            rule: "size balance".into(),
            why: "node 1 has 133 % of the mean".into(),
            change: Some(change),
            what: "percent of the mean".into(),
            before: 133,
            after: 110,
        }
    }

    /// A plan with an operation of each kind, shard 1 first.
    pub fn plan() -> PlanFile {
        let changes = [
            Wire::Move(VoterMove { from: 1, to: 4 }),
            Wire::Lead(2),
            Wire::Forget(3),
            Wire::Split(vec![0, 0xff, b'"'].into()),
            Wire::Add(5),
        ];
        let operations = (1..).zip(changes).map(|(shard, change)| wire(shard, change)).collect();
        let before = PlacementMeasure { replicas_percent: 133, ..PlacementMeasure::default() };
        let reply = PlanRebalanceReply {
            cluster: vec![0xab; 16].into(),
            map_revision: 7,
            operations,
            max_concurrent: 4,
            refused: vec!["no room".into()],
            before: Some(before),
            ..PlanRebalanceReply::default()
        };
        PlanFile::of(reply, |shard| (shard > 1).then(|| "t".to_owned()))
    }

    #[test]
    fn a_plan_that_was_printed_is_read_as_it_was() {
        let plan = plan();
        let printed = crate::cli::escape::json(&plan).unwrap();
        assert!(!printed.contains('\n'));
        let read = PlanFile::parse("p", printed.as_bytes()).unwrap();
        assert_eq!(read, plan);
        let wires: Vec<PlannedOperation> = read.operations.iter().map(|planned| planned.to_wire().unwrap()).collect();
        assert_eq!(wires[0], wire(1, Wire::Move(VoterMove { from: 1, to: 4 })));
        assert_eq!(wires[3].change, Some(Wire::Split(vec![0, 0xff, b'"'].into())));
        assert_eq!((read.cluster.len(), read.before.replicas_percent, read.after.replicas_percent), (32, 133, 0));
    }

    #[test]
    fn what_is_wrong_with_a_plan_is_one_line_and_of_usage() {
        let good = serde_json::to_value(plan()).unwrap();
        let why = |bend: fn(&mut serde_json::Value)| {
            let mut bent = good.clone();
            bend(&mut bent);
            let error = PlanFile::parse("a\nb", bent.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.exit(), error.kind()), (Exit::Usage, "invalid_plan"));
            assert!(!error.message().contains('\n'), "{error}");
            error.message().to_owned()
        };
        assert!(why(|plan| plan["format"] = 2.into()).contains("format 2"));
        assert!(why(|plan| plan["max_concurrent"] = 65.into()).contains("from 1 to 64"));
        assert!(why(|plan| plan["operations"][0]["to"] = serde_json::Value::Null).contains("operation 1: it lacks"));
        assert!(why(|plan| plan["operations"][3]["at_base64"] = "?".into()).contains("operation 4"));
        assert!(why(|plan| plan["operations"][1]["epoch"] = 0.into()).contains("operation 2"));
        assert!(why(|plan| plan["operations"][1]["change"] = "merge".into()).contains("merge"));
        assert!(why(|plan| plan["more"] = 1.into()).contains("more"));
        let cut = &good.to_string()[..100];
        assert!(PlanFile::parse("p", cut.as_bytes()).is_err());
        assert!(PlanFile::parse("p", b"").is_err());
    }
}
