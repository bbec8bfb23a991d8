//! What happened, in words.
//!
//! Owns: the lines of a trace and the short form of messages and writes. Must never: show anything that differs between
//! two runs of one seed, such as an address or a time of day.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::rc::Rc;
use synod_paxos::io::{Output, Persist};
use synod_paxos::message::Message;
use synod_paxos::types::{Entry, Payload};

/// The lines of one schedule, or nothing where nobody asked for them.
#[derive(Clone, Default)]
pub struct Trace {
    lines: Option<Rc<RefCell<Vec<String>>>>,
}

impl Trace {
    /// A trace that keeps its lines.
    pub fn kept() -> Self {
        Self { lines: Some(Rc::default()) }
    }

    /// Whether lines are kept: worth asking before building one.
    pub fn on(&self) -> bool {
        self.lines.is_some()
    }

    /// Adds a line, built only where it is kept.
    pub fn line(&self, build: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            lines.borrow_mut().push(build());
        }
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.as_ref().map(|lines| lines.borrow().clone()).unwrap_or_default()
    }
}

/// FNV-1a over lines: equal traces have equal hashes.
pub fn hash(lines: &[String]) -> u64 {
    let bytes = lines.iter().flat_map(|line| line.bytes().chain([b'\n']));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

fn entries(entries: &[Entry]) -> String {
    let mut text = String::from("[");
    for (index, entry) in entries.iter().enumerate() {
        let gap = if index == 0 { "" } else { " " };
        let _ = match &entry.payload {
            Payload::Noop => write!(text, "{gap}{:?}=noop", entry.id),
            Payload::Command(data) => {
                let name: String = data.iter().take_while(|b| **b != b'.').map(|b| char::from(*b)).collect();
                write!(text, "{gap}{:?}={name}", entry.id)
            }
            Payload::Config(m) => write!(text, "{gap}{:?}={}", entry.id, members(m)),
        };
    }
    text + "]"
}

/// A membership in short: epoch, voters, learners in parentheses, first leader.
pub fn members(m: &synod_paxos::types::Membership) -> String {
    let names = m.members.iter().map(|member| match member.role {
        synod_paxos::types::MemberRole::Voter => member.node.to_string(),
        synod_paxos::types::MemberRole::Learner => format!("({})", member.node),
    });
    format!("{}{{{} first {}}}", m.epoch, names.collect::<Vec<_>>().join(" "), m.first_leader)
}

/// A message in short.
pub fn message(message: &Message) -> String {
    match message {
        Message::Fetched { ballot, prev, entries: run, .. } => {
            format!("Fetched {ballot:?} after {prev:?} {}", entries(run))
        }
        Message::Sync { ballot, prev, entries: run, end, commit, .. } => {
            format!("Sync {ballot:?} after {prev:?} {} end {end:?} commit {commit}", entries(run))
        }
        Message::Accept { ballot, prev, entries: run, commit, all_have, .. } => {
            format!("Accept {ballot:?} after {prev:?} {} commit {commit} all_have {all_have}", entries(run))
        }
        Message::Learn { epoch, promised, prev, entries: run, commit } => {
            format!("Learn {epoch} promised {promised:?} after {prev:?} {} commit {commit}", entries(run))
        }
        other => format!("{other:?}"),
    }
}

/// A write in short.
pub fn write(write: &Persist) -> String {
    let mut text = format!("{}", write.seq);
    if let Some(hard) = &write.hard {
        let _ = write!(
            text,
            " promised {:?} accepted {:?} {} from {} hint {} b0_used {}",
            hard.promised,
            hard.accepted,
            members(&hard.membership),
            hard.epoch_start,
            hard.commit_hint,
            hard.b0_used
        );
    }
    if let Some(from) = write.truncate_from {
        let _ = write!(text, " truncate from {from:?}");
    }
    if !write.append.is_empty() {
        let _ = write!(text, " append {}", entries(&write.append));
    }
    text
}

/// An output in short.
pub fn output(output: &Output) -> String {
    match output {
        Output::Send { to, message: m } => format!("send {to:?} {}", message(m)),
        Output::Persist(p) => format!("persist {}", write(p)),
        Output::EpochChanged(m) => format!("EpochChanged {}", members(m)),
        other => format!("{other:?}"),
    }
}
