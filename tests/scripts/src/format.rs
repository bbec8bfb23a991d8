//! One compact line for each thing that a replica puts out.
//!
//! Owns: the words of the golden files. Must never: leave out a field that a row of the tables names.

use synod_paxos::io::{Output, Persist, Status};
use synod_paxos::message::Message;
use synod_paxos::types::{Entry, HardState, MemberRole, Membership, NodeId, Payload, Run};

pub fn members(m: &Membership) -> String {
    let one = |m: &synod_paxos::types::Member| match m.role {
        MemberRole::Voter => format!("{}", m.node),
        MemberRole::Learner => format!("{}L", m.node),
    };
    m.members.iter().map(one).collect::<Vec<_>>().join(".")
}

fn membership(m: &Membership) -> String {
    format!("{} of {} first {}", m.epoch, members(m), m.first_leader)
}

pub fn entry(e: &Entry) -> String {
    match &e.payload {
        Payload::Noop => format!("{:?}", e.id),
        Payload::Command(data) if data.len() > 12 => format!("{:?}={} bytes", e.id, data.len()),
        Payload::Command(data) => format!("{:?}={}", e.id, String::from_utf8_lossy(data)),
        Payload::Config(m) => format!("{:?}=epoch {}", e.id, membership(m)),
    }
}

fn entries(entries: &[Entry]) -> String {
    let all: Vec<String> = entries.iter().map(entry).collect();
    format!("[{}]", all.join(", "))
}

fn runs(runs: &[Run]) -> String {
    let all: Vec<String> = runs.iter().map(|r| format!("{}@{:?}", r.first, r.origin)).collect();
    format!("[{}]", all.join(", "))
}

fn node(n: Option<NodeId>) -> String {
    n.map_or("none".into(), |n| format!("{n:?}"))
}

pub fn message(m: &Message) -> String {
    match m {
        Message::PreVote { ballot, held: None } => format!("PreVote {ballot:?}"),
        Message::PreVote { ballot, held: Some(h) } => {
            format!("PreVote {ballot:?} accepted {:?} last {:?} commit {}", h.accepted, h.last, h.commit)
        }
        Message::PreVoteGranted { ballot } => format!("PreVoteGranted {ballot:?}"),
        Message::PreVoteRefused { ballot, promised, leader } => {
            let leader = leader.map_or(String::new(), |b| format!(" leader {b:?}"));
            format!("PreVoteRefused {ballot:?} promised {promised:?}{leader}")
        }
        Message::Confirm { ballot } => format!("Confirm {ballot:?}"),
        Message::Released { ballot } => format!("Released {ballot:?}"),
        Message::Prepare { ballot, commit } => format!("Prepare {ballot:?} commit {commit}"),
        Message::Promise { ballot, accepted, commit, last, runs: r } => {
            format!("Promise {ballot:?} accepted {accepted:?} commit {commit} last {last:?} runs {}", runs(r))
        }
        Message::Nack { ballot, promised } => format!("Nack {ballot:?} promised {promised:?}"),
        Message::Fetch { ballot, accepted, from, upto } => {
            format!("Fetch {ballot:?} accepted {accepted:?} ({from}, {upto}]")
        }
        Message::Fetched { ballot, prev, entries: e } => format!("Fetched {ballot:?} prev {prev:?} {}", entries(e)),
        Message::Sync { ballot, prev, entries: e, end, commit } => {
            format!("Sync {ballot:?} prev {prev:?} {} end {end:?} commit {commit}", entries(e))
        }
        Message::Accept { ballot, prev, entries: e, commit, all_have } => {
            format!("Accept {ballot:?} prev {prev:?} {} commit {commit} all {all_have}", entries(e))
        }
        Message::Accepted { ballot, upto, commit } => format!("Accepted {ballot:?} upto {upto} commit {commit}"),
        Message::Behind { ballot, epoch, accepted, commit, last, runs: r } => {
            let runs = runs(r);
            format!("Behind {ballot:?} epoch {epoch} accepted {accepted:?} commit {commit} last {last:?} runs {runs}")
        }
        Message::Learn { epoch, promised, prev, entries: e, commit } => {
            format!("Learn epoch {epoch} promised {promised:?} prev {prev:?} {} commit {commit}", entries(e))
        }
        Message::Learned { epoch, commit } => format!("Learned epoch {epoch} commit {commit}"),
        Message::ReadProbe { ballot, probe } => format!("ReadProbe {ballot:?} #{probe}"),
        Message::ReadAck { ballot, probe, support: 0 } => format!("ReadAck {ballot:?} #{probe}"),
        Message::ReadAck { ballot, probe, support } => {
            format!("ReadAck {ballot:?} #{probe} support {} ms", support / 1000)
        }
        Message::ReadRequest { ballot, read } => format!("ReadRequest {ballot:?} {read}"),
        Message::ReadGranted { ballot, read, slot } => format!("ReadGranted {ballot:?} {read} at {slot}"),
        Message::TimeoutNow { ballot } => format!("TimeoutNow {ballot:?}"),
        Message::TransferRefused { ballot } => format!("TransferRefused {ballot:?}"),
    }
}

fn hard(h: &HardState) -> String {
    let used = if h.b0_used { " b0-used" } else { "" };
    let (epoch, start) = (h.membership.epoch, h.epoch_start);
    format!("hard(epoch {epoch}@{start} p {:?} a {:?} commit {}{used})", h.promised, h.accepted, h.commit_hint)
}

fn persist(w: &Persist) -> String {
    let mut parts = Vec::new();
    if let Some(h) = &w.hard {
        parts.push(hard(h));
    }
    if let Some(from) = w.truncate_from {
        parts.push(format!("cut {from}.."));
    }
    if !w.append.is_empty() {
        parts.push(format!("+ {}", entries(&w.append)));
    }
    format!("write {:?} {}", w.seq, parts.join(" "))
}

/// One line, without the sender.
pub fn output(output: &Output) -> String {
    match output {
        Output::Send { to, message: m } => format!("→ {to:?} {}", message(m)),
        Output::Persist(w) => persist(w),
        Output::Committed(slot) => format!("committed {slot}"),
        Output::RoleChanged { role: r, ballot, leader } => {
            format!("role {} {ballot:?} leader {}", r.name(), node(*leader))
        }
        Output::Proposed { first, ballot } => format!("proposed {first}@{ballot:?}"),
        Output::Refused { why, read } => {
            format!("refused {why:?}{}", read.map_or(String::new(), |r| format!(" read {r}")))
        }
        Output::ReadReady { reads, slot } => format!("read-ready {reads:?} at {slot}"),
        Output::EpochChanged(m) => format!("epoch {}", membership(m)),
        Output::NeedSnapshot { to } => format!("need-snapshot for {to:?}"),
        Output::TrimTo(slot) => format!("trim-to {slot}"),
        Output::Fatal(why) => format!("FATAL {why}"),
    }
}

pub fn status(s: &Status) -> String {
    let acked: Vec<String> = s.progress.iter().map(|(n, slot)| format!("{n:?}:{slot}")).collect();
    let acked = if acked.is_empty() { String::new() } else { format!(" acked {}", acked.join(" ")) };
    format!(
        "{} p {:?} a {:?} leader {} commit {}/{} last {:?} durable {} applied {} epoch {} of {}{acked}",
        s.role.name(),
        s.promised,
        s.accepted,
        node(s.leader),
        s.committed_durable,
        s.commit,
        s.last,
        s.durable,
        s.applied,
        s.membership.epoch,
        members(&s.membership),
    )
}
