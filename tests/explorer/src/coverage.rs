//! What the schedules reached.
//!
//! Owns: the counts. Must never: influence a schedule.
//!
//! The outcome of a received message is told from outside: by what changed in the replica's status and by what it put out.
//! The first that fits counts, in the order of `outcome`.

use super::expected::EXPECTED;
use std::collections::BTreeMap;
use std::fmt;
use synod_paxos::io::{Input, Output, RoleKind, Status};
use synod_paxos::message::Message;
use synod_paxos::types::{Ballot, MemberRole, NodeId};

/// A replica before a step.
pub struct Glimpse {
    message: Option<(&'static str, synod_paxos::types::NodeId)>,
    /// A read was asked for.
    asks: bool,
    /// The ballot of a `Prepare`.
    prepare: Option<Ballot>,
    status: Status,
    reads: u64,
}

impl Glimpse {
    /// What `input` will meet.
    pub fn of(input: &Input, status: &Status, reads: u64) -> Self {
        let message = match input {
            Input::Message { from, message } => Some((message.name(), *from)),
            _ => None,
        };
        let asks = matches!(input, Input::ReadIndex(_));
        let prepare = match input {
            Input::Message { message: Message::Prepare { ballot, .. }, .. } => Some(*ballot),
            _ => None,
        };
        Self { message, asks, prepare, status: status.clone(), reads }
    }
}

/// Counts by section, what and outcome.
#[derive(Clone, Default)]
pub struct Coverage {
    rows: BTreeMap<(&'static str, &'static str, &'static str), u64>,
}

impl Coverage {
    /// Counts once.
    pub fn count(&mut self, section: &'static str, what: &'static str, outcome: &'static str) {
        self.add(section, what, outcome, 1);
    }

    /// Counts `by` times.
    pub fn add(&mut self, section: &'static str, what: &'static str, outcome: &'static str, by: u64) {
        *self.rows.entry((section, what, outcome)).or_default() += by;
    }

    /// Adds another schedule's counts.
    pub fn merge(&mut self, other: &Self) {
        other.rows.iter().for_each(|(row, by)| *self.rows.entry(*row).or_default() += by);
    }

    /// The expected rows that were not reached.
    pub fn missing(&self) -> Vec<String> {
        EXPECTED.iter().filter(|row| !self.rows.contains_key(row)).map(|row| format!("{row:?}")).collect()
    }

    /// Counts one step.
    pub fn stepped(&mut self, me: NodeId, before: &Glimpse, after: &Status, outputs: &[Output], reads: u64) {
        if let Some((kind, from)) = before.message {
            self.count("received", kind, outcome(&before.status, after, from, outputs));
        }
        if before.status.role != after.role {
            self.count("role", before.status.role.name(), after.role.name());
        }
        if reads > before.reads {
            self.add("path", "log read back", "", reads - before.reads);
        }
        let served = outputs.iter().any(|o| matches!(o, Output::ReadReady { .. }));
        if served && after.role != RoleKind::Leader {
            self.count("event", "read served by a follower", "");
        }
        if before.asks && served && after.membership.quorum() > 1 {
            self.count("event", "read served from a lease", "");
        }
        let low = before.status.promised;
        let votes = before.status.membership.role_of(me) == Some(MemberRole::Voter);
        let above = |ballot: Ballot| ballot.epoch == low.epoch && ballot > low;
        if before.prepare.is_some_and(above) && votes && after.promised == low {
            self.count("event", "promise waits for the end of support", "");
        }
        for output in outputs {
            self.put_out(output);
        }
    }

    fn put_out(&mut self, output: &Output) {
        match output {
            Output::Send { message, .. } => {
                self.count("sent", message.name(), "");
                match message {
                    Message::Sync { entries, end, .. } if entries.last().is_some_and(|e| e.id != *end) => {
                        self.count("path", "Sync in chunks", "");
                    }
                    Message::Accept { entries, .. } if entries.is_empty() => self.count("path", "empty Accept", ""),
                    Message::Accept { entries, .. } if entries.len() > 1 => self.count("path", "batched Accept", ""),
                    Message::PreVoteRefused { leader: Some(_), .. } => {
                        self.count("path", "pre-vote refused for a leader", "");
                    }
                    Message::Promise { runs, .. } if runs.len() > 1 => {
                        self.count("path", "Promise of several runs", "")
                    }
                    _ => {}
                }
            }
            Output::Persist(write) => {
                if write.truncate_from.is_some() {
                    self.count("path", "log truncated", "");
                }
                if write.hard.as_ref().is_some_and(|h| h.b0_used) {
                    self.count("path", "B0 used", "");
                }
            }
            Output::TrimTo(_) => self.count("path", "TrimTo", ""),
            _ => {}
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = ("", "");
        for ((section, what, outcome), count) in &self.rows {
            if *section != last.0 {
                write!(f, "\n{section}")?;
            }
            if (*section, *what) == last {
                write!(f, ", {outcome} {count}")?;
            } else {
                let gap = if outcome.is_empty() { "" } else { " " };
                write!(f, "\n  {what}: {outcome}{gap}{count}")?;
            }
            last = (section, what);
        }
        writeln!(f)
    }
}

/// What a received message led to.
fn outcome(before: &Status, after: &Status, from: synod_paxos::types::NodeId, outputs: &[Output]) -> &'static str {
    if before.membership.epoch != after.membership.epoch {
        return "enters an epoch";
    }
    if before.role != after.role {
        return match after.role {
            RoleKind::Follower => "becomes follower",
            RoleKind::Candidate => "becomes candidate",
            RoleKind::Leader => "becomes leader",
            RoleKind::Learner => "becomes learner",
            RoleKind::Removed => "becomes removed",
        };
    }
    if before.accepted != after.accepted {
        return "switches its log";
    }
    if before.promised != after.promised {
        return "promises";
    }
    let answer = outputs.iter().find_map(|output| match output {
        Output::Send { to, message } if *to == from => Some(answers(message)),
        _ => None,
    });
    if let Some(answer) = answer {
        return answer;
    }
    if before.last != after.last {
        return "changes its log";
    }
    if before.commit != after.commit {
        return "moves commit";
    }
    if outputs.iter().any(|o| matches!(o, Output::ReadReady { .. })) {
        return "serves reads";
    }
    if outputs.iter().any(|o| matches!(o, Output::Send { .. })) {
        return "speaks to others";
    }
    if outputs.is_empty() { "silent" } else { "other effects" }
}

fn answers(message: &Message) -> &'static str {
    match message {
        Message::PreVote { .. } => "answers PreVote",
        Message::PreVoteGranted { .. } => "answers PreVoteGranted",
        Message::PreVoteRefused { .. } => "answers PreVoteRefused",
        Message::Confirm { .. } => "answers Confirm",
        Message::Released { .. } => "answers Released",
        Message::Prepare { .. } => "answers Prepare",
        Message::Promise { .. } => "answers Promise",
        Message::Nack { .. } => "answers Nack",
        Message::Fetch { .. } => "answers Fetch",
        Message::Fetched { .. } => "answers Fetched",
        Message::Sync { .. } => "answers Sync",
        Message::Accept { .. } => "answers Accept",
        Message::Accepted { .. } => "answers Accepted",
        Message::Behind { .. } => "answers Behind",
        Message::Learn { .. } => "answers Learn",
        Message::Learned { .. } => "answers Learned",
        Message::ReadProbe { .. } => "answers ReadProbe",
        Message::ReadAck { .. } => "answers ReadAck",
        Message::ReadRequest { .. } => "answers ReadRequest",
        Message::ReadGranted { .. } => "answers ReadGranted",
        Message::TimeoutNow { .. } => "answers TimeoutNow",
        Message::TransferRefused { .. } => "answers TransferRefused",
    }
}
