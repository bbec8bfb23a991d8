//! Words of a script, read into ids, entries and messages.
//!
//! Owns: the scripts' syntax. Must never: guess; a word that does not fit is an error.

use bytes::Bytes;
use goldenscript::Argument;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Display;
use std::str::FromStr;
use synod_paxos::message::{Held, Message};
use synod_paxos::types::{
    Ballot, Entry, EntryId, Epoch, Member, MemberRole, Membership, NodeId, Payload, ReadId, Run, Slot,
};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A command's words: named ones, and the others in order. An entry is `slot@origin` (a no-op) or `slot@origin=data`.
pub struct Words {
    named: BTreeMap<String, String>,
    plain: Vec<String>,
    pub entries: Vec<Entry>,
}

impl Words {
    pub fn new(args: &[Argument]) -> Result<Self> {
        let mut words = Self { named: BTreeMap::new(), plain: Vec::new(), entries: Vec::new() };
        for arg in args {
            match arg {
                Argument::Positional(word) if word.contains('@') => words.entries.push(entry(word, None)?),
                Argument::KeyValue(key, value) if key.contains('@') => words.entries.push(entry(key, Some(value))?),
                Argument::Positional(word) => words.plain.push(word.clone()),
                Argument::KeyValue(key, value) => {
                    words.named.insert(key.clone(), value.clone());
                }
                _ => return Err(format!("unknown argument {arg}").into()),
            }
        }
        Ok(words)
    }

    pub fn take_str(&mut self, key: &str) -> Option<String> {
        self.named.remove(key)
    }

    pub fn take<T: FromStr<Err: Display>>(&mut self, key: &str, default: T) -> Result<T> {
        self.named.remove(key).map_or(Ok(default), |word| number(&word))
    }

    pub fn ballot(&mut self, key: &str) -> Result<Option<Ballot>> {
        self.named.remove(key).map(|word| ballot(&word)).transpose()
    }

    fn need_ballot(&mut self, key: &str) -> Result<Ballot> {
        self.ballot(key)?.ok_or_else(|| format!("{key}= is missing").into())
    }

    pub fn id(&mut self, key: &str) -> Result<EntryId> {
        self.named.remove(key).map_or(Ok(EntryId::ZERO), |word| id(&word))
    }

    pub fn slot(&mut self, key: &str) -> Result<Slot> {
        Ok(Slot(self.take(key, 0)?))
    }

    /// The next plain word.
    pub fn next<T: FromStr<Err: Display>>(&mut self, what: &str) -> Result<T> {
        if self.plain.is_empty() {
            return Err(format!("{what} is missing").into());
        }
        number(&self.plain.remove(0))
    }

    pub fn next_node(&mut self) -> Result<NodeId> {
        Ok(NodeId(self.next("a node")?))
    }

    pub fn rest(&mut self) -> Vec<String> {
        std::mem::take(&mut self.plain)
    }

    /// Nothing may be left over.
    pub fn end(&self) -> Result<()> {
        if self.named.is_empty() && self.plain.is_empty() {
            return Ok(());
        }
        Err(format!("not understood: {:?} {:?}", self.named, self.plain).into())
    }

    /// `verb ballot=… …` as a message.
    pub fn message(&mut self) -> Result<Message> {
        let verb: String = self.next("a message")?;
        let entries = std::mem::take(&mut self.entries);
        let message = match verb.as_str() {
            "PreVote" => Message::PreVote { ballot: self.need_ballot("ballot")?, held: self.held()? },
            "PreVoteGranted" => Message::PreVoteGranted { ballot: self.need_ballot("ballot")? },
            "PreVoteRefused" => Message::PreVoteRefused {
                ballot: self.need_ballot("ballot")?,
                promised: self.need_ballot("promised")?,
                leader: self.ballot("leader")?,
            },
            "Confirm" => Message::Confirm { ballot: self.need_ballot("ballot")? },
            "Released" => Message::Released { ballot: self.need_ballot("ballot")? },
            "Prepare" => Message::Prepare { ballot: self.need_ballot("ballot")?, commit: self.slot("commit")? },
            "Promise" => Message::Promise {
                ballot: self.need_ballot("ballot")?,
                accepted: self.need_ballot("accepted")?,
                commit: self.slot("commit")?,
                last: self.id("last")?,
                runs: self.runs()?,
            },
            "Nack" => Message::Nack { ballot: self.need_ballot("ballot")?, promised: self.need_ballot("promised")? },
            "Fetch" => Message::Fetch {
                ballot: self.need_ballot("ballot")?,
                accepted: self.need_ballot("accepted")?,
                from: self.slot("after")?,
                upto: self.slot("upto")?,
            },
            "Fetched" => Message::Fetched { ballot: self.need_ballot("ballot")?, prev: self.id("prev")?, entries },
            "Sync" => Message::Sync {
                ballot: self.need_ballot("ballot")?,
                prev: self.id("prev")?,
                entries,
                end: self.id("end")?,
                commit: self.slot("commit")?,
            },
            "Accept" => Message::Accept {
                ballot: self.need_ballot("ballot")?,
                prev: self.id("prev")?,
                entries,
                commit: self.slot("commit")?,
                all_have: self.slot("all")?,
            },
            "Accepted" => Message::Accepted {
                ballot: self.need_ballot("ballot")?,
                upto: self.slot("upto")?,
                commit: self.slot("commit")?,
            },
            "Behind" => Message::Behind {
                ballot: self.need_ballot("ballot")?,
                epoch: Epoch(self.take("epoch", 1)?),
                accepted: self.need_ballot("accepted")?,
                commit: self.slot("commit")?,
                last: self.id("last")?,
                runs: self.runs()?,
            },
            "Learn" => Message::Learn {
                epoch: Epoch(self.take("epoch", 1)?),
                promised: self.need_ballot("promised")?,
                prev: self.id("prev")?,
                entries,
                commit: self.slot("commit")?,
            },
            "Learned" => Message::Learned { epoch: Epoch(self.take("epoch", 1)?), commit: self.slot("commit")? },
            "ReadProbe" => Message::ReadProbe { ballot: self.need_ballot("ballot")?, probe: self.take("probe", 1)? },
            "ReadAck" => Message::ReadAck {
                ballot: self.need_ballot("ballot")?,
                probe: self.take("probe", 1)?,
                support: self.take("support", 0)? * 1000,
            },
            "ReadRequest" => {
                Message::ReadRequest { ballot: self.need_ballot("ballot")?, read: ReadId(self.take("read", 1)?) }
            }
            "ReadGranted" => Message::ReadGranted {
                ballot: self.need_ballot("ballot")?,
                read: ReadId(self.take("read", 1)?),
                slot: self.slot("slot")?,
            },
            "TimeoutNow" => Message::TimeoutNow { ballot: self.need_ballot("ballot")? },
            "TransferRefused" => Message::TransferRefused { ballot: self.need_ballot("ballot")? },
            _ => return Err(format!("no message is called {verb}").into()),
        };
        Ok(message)
    }

    /// The log of a candidate, where its accepted ballot is named.
    fn held(&mut self) -> Result<Option<Held>> {
        let Some(accepted) = self.ballot("accepted")? else { return Ok(None) };
        Ok(Some(Held { accepted, last: self.id("last")?, commit: self.slot("commit")? }))
    }

    fn runs(&mut self) -> Result<Vec<Run>> {
        let Some(words) = self.named.remove("runs") else { return Ok(Vec::new()) };
        let run = |word: &str| id(word).map(|id| Run { first: id.slot, origin: id.origin });
        words.split('/').map(run).collect()
    }
}

fn number<T: FromStr<Err: Display>>(word: &str) -> Result<T> {
    word.parse().map_err(|e| format!("{word}: {e}").into())
}

pub fn ballot(word: &str) -> Result<Ballot> {
    let parts: Vec<u64> = word.split('.').map(number).collect::<Result<_>>()?;
    let [epoch, round, node] = parts[..] else { return Err(format!("{word} is no epoch.round.node").into()) };
    Ok(Ballot { epoch: Epoch(epoch), round, node: NodeId(node) })
}

pub fn id(word: &str) -> Result<EntryId> {
    let (slot, origin) = word.split_once('@').ok_or_else(|| format!("{word} is no slot@ballot"))?;
    Ok(EntryId { slot: Slot(number(slot)?), origin: ballot(origin)? })
}

/// `1.2.3L`: voters 1 and 2, learner 3.
pub fn members(word: &str) -> Result<Vec<Member>> {
    let one = |word: &str| {
        let (word, role) = match word.strip_suffix('L') {
            Some(word) => (word, MemberRole::Learner),
            None => (word, MemberRole::Voter),
        };
        Ok(Member { node: NodeId(number(word)?), role })
    };
    word.split('.').map(one).collect()
}

/// Timestamps are the slot, closed the slot before: the scripts look at them only where the core makes them.
fn entry(word: &str, data: Option<&str>) -> Result<Entry> {
    let id = id(word)?;
    let payload = match data {
        None => Payload::Noop,
        Some(data) => match data.strip_prefix("stop/") {
            None => Payload::Command(Bytes::from(command(data))),
            Some(epoch) => {
                let parts: Vec<&str> = epoch.split('/').collect();
                let [epoch, list, first] = parts[..] else {
                    return Err(format!("{data} is no stop/epoch/members/first").into());
                };
                let (epoch, first_leader) = (Epoch(number(epoch)?), NodeId(number(first)?));
                Payload::Config(Membership { epoch, members: members(list)?, first_leader })
            }
        },
    };
    Ok(Entry::new(id, id.slot.0, id.slot.0.saturating_sub(1), payload))
}

/// `x100` is a hundred bytes of x; anything else is itself.
pub fn command(word: &str) -> Vec<u8> {
    match word.strip_prefix('x').and_then(|n| n.parse().ok()) {
        Some(bytes) => vec![b'x'; bytes],
        None => word.as_bytes().to_vec(),
    }
}
