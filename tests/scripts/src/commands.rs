//! The commands of the scripts.
//!
//! Owns: their names and words. Must never: hold state of its own.
//!
//! | command | does |
//! | --- | --- |
//! | `cluster nodes=3 [learners=1] [outside=1] [first=1] [apply=manual] [outbox=…] [option=…]` | builds nodes 1, 2, …; nothing runs yet |
//! | `replica 2 promised=1.3.3 accepted=… commit=… [members=1.2.3L] … entries` | replaces node 2 by one restarted from this disk |
//! | `tick`, `persist 1 [2]`, `crash`, `restart`, `abstain`, `broken 1 "why"` | one node, its disk; restarted to abstain |
//! | `deliver from=1 to=2 [count=…] [all]`, `drop`, `twice`, `hold 1 2`, `free 1 2`, `cut 1 2`, `heal 1 2`, `queued` | links |
//! | `slow ms=…` | from now on a message with entries takes so long |
//! | `alive 1 2 on`, `down 1`, `up 1` | node 1 hears node 2; everybody hears node 1 no more, again |
//! | `stabilize`, `advance ms=…`, `run ms=…` | all but time; time but no network; both |
//! | `forget 1` | what node 1, which is down, has applied was not flushed |
//! | `dropped 1 to=2` | node 1 learns that the way to node 2 had no room |
//! | `speak 1 2` | node 1 learns that all understand cluster version 2 |
//! | `propose 1 a b`, `read 1 7`, `transfer 1 2`, `campaign 1`, `release 1`, `tell 1`, `begun 1`, `config 1 members=… first=…` | the driver |
//! | `inject 2 from=1 Accept ballot=… …` | a message out of nowhere |
//! | `status 1`, `log 1`, `deadline 1` | shows |

use super::disk::Disk;
use super::format;
use super::parse::{self, Result, Words};
use super::world::World;
use bytes::Bytes;
use synod_paxos::io::{Input, LogReader, Options};
use synod_paxos::types::{Epoch, HardState, Member, MemberRole, Membership, NodeId, ReadId, Slot, WriteSeq};

pub fn run(world: &mut World, name: &str, mut w: Words) -> Result<()> {
    match name {
        "cluster" => cluster(world, &mut w)?,
        "replica" => replica(world, &mut w)?,
        "tick" | "persist" | "crash" | "restart" | "abstain" | "broken" => node(world, name, &mut w)?,
        "deliver" | "drop" | "twice" => queue(world, name, &mut w)?,
        "hold" | "free" | "cut" | "heal" | "queued" => link(world, name, &mut w)?,
        "alive" | "down" | "up" => liveness(world, name, &mut w)?,
        "slow" => world.slow = w.take("ms", 0)? * 1000,
        "stabilize" => world.stabilize()?,
        "advance" => world.advance(w.take("ms", 0)? * 1000 + w.take("us", 0)?, false)?,
        "run" => world.advance(w.take("ms", 0)? * 1000 + w.take("us", 0)?, true)?,
        "forget" => {
            let node = w.next_node()?;
            let disk = &mut world.node(node)?.disk;
            disk.applied = disk.trimmed.slot;
        }
        "dropped" => {
            let (node, to) = (w.next_node()?, NodeId(w.take("to", 0)?));
            world.step(node, Input::Dropped { to })?;
        }
        "speak" => {
            let node = w.next_node()?;
            let version = w.next("a version")?;
            world.replica(node)?.speak(version);
        }
        "random" => world.random = w.rest().first().and_then(|word| word.parse().ok()),
        "options" => world.options = options(&mut w, world.options.clone())?,
        "inject" => {
            let (to, from) = (w.next_node()?, NodeId(w.take("from", 0)?));
            let message = w.message()?;
            world.step(to, Input::Message { from, message })?;
        }
        "propose" | "read" | "transfer" | "campaign" | "release" | "tell" | "begun" | "config" | "applied"
        | "persisted" => driver(world, name, &mut w)?,
        "trim" | "entries" | "status" | "log" | "deadline" => show(world, name, &mut w)?,
        _ => return Err(format!("no command is called {name}").into()),
    }
    w.end()
}

fn options(w: &mut Words, defaults: Options) -> Result<Options> {
    let lease: u64 = w.take("lease", defaults.support_us / 1000)?;
    Ok(Options {
        jitter_us: w.take("jitter", defaults.jitter_us)?,
        message_bytes: w.take("message_bytes", defaults.message_bytes)?,
        inflight_messages: w.take("inflight_messages", defaults.inflight_messages)?,
        inflight_bytes: w.take("inflight_bytes", defaults.inflight_bytes)?,
        uncommitted_bytes: w.take("uncommitted_bytes", defaults.uncommitted_bytes)?,
        cache_bytes: w.take("cache_bytes", defaults.cache_bytes)?,
        hint_bytes: w.take("hint_bytes", defaults.hint_bytes)?,
        fetch_slots: w.take("fetch_slots", defaults.fetch_slots)?,
        fetch_bytes: w.take("fetch_bytes", defaults.fetch_bytes)?,
        stall_us: w.take("stall", defaults.stall_us)?,
        version: w.take("version", defaults.version)?,
        lease: lease > 0,
        support_us: lease * 1000,
        support_owed_us: w.take("owed", defaults.support_owed_us / 1000)? * 1000,
        drift_ppm: 10_000,
        ..defaults
    })
}

fn cluster(world: &mut World, w: &mut Words) -> Result<()> {
    let (voters, learners, outside) = (w.take("nodes", 3)?, w.take("learners", 0)?, w.take("outside", 0)?);
    let member =
        |n: u64| Member { node: NodeId(n), role: if n <= voters { MemberRole::Voter } else { MemberRole::Learner } };
    let members = (1..=voters + learners).map(member).collect();
    let first_leader = NodeId(w.take("first", 1)?);
    let membership = Membership { epoch: Epoch(1), members, first_leader };
    let manual = w.take_str("apply").is_some_and(|how| how == "manual");
    let outbox = w.take("outbox", usize::MAX)?;
    // Without `lease=` nobody supports anybody, and a replica that begins waits for nothing.
    let options = options(w, Options { lease: false, support_us: 0, notice_us: 5_000, ..Options::default() })?;
    #[cfg(feature = "planted")]
    let options = Options { fault: world.options.fault, ..options };
    *world = World::build(&membership, (1..=voters + learners + outside).map(NodeId), options);
    world.manual_apply = manual;
    world.outbox = outbox;
    Ok(())
}

/// A node as a restart would find it: the fields default to those of a new group. Its first step is made.
fn replica(world: &mut World, w: &mut Words) -> Result<()> {
    let node = w.next_node()?;
    let mut membership = world.node(node)?.disk.hard.membership.clone();
    membership.epoch = Epoch(w.take("epoch", membership.epoch.0)?);
    membership.first_leader = NodeId(w.take("first", membership.first_leader.0)?);
    if let Some(list) = w.take_str("members") {
        membership.members = parse::members(&list)?;
    }
    let initial = HardState::initial(membership);
    let accepted = w.ballot("accepted")?.unwrap_or(initial.accepted);
    let hard = HardState {
        promised: w.ballot("promised")?.unwrap_or(accepted),
        accepted,
        epoch_start: w.slot("start")?,
        commit_hint: w.slot("commit")?,
        b0_used: w.take_str("b0_used").is_none_or(|word| word == "yes"),
        ..initial
    };
    let mut disk = Disk::new(hard);
    disk.trimmed = w.id("trimmed")?;
    disk.applied = w.slot("applied")?.max(disk.trimmed.slot);
    for entry in std::mem::take(&mut w.entries) {
        disk.entries.insert(entry.id.slot, entry);
    }
    world.node(node)?.disk = disk;
    world.start(node)?;
    world.step(node, Input::Tick)
}

fn node(world: &mut World, name: &str, w: &mut Words) -> Result<()> {
    let node = w.next_node()?;
    match name {
        "tick" => world.step(node, Input::Tick),
        "persist" => {
            let count = w.rest().first().map_or(Ok(usize::from(u16::MAX)), |n| n.parse())?;
            world.persist(node, count).map(|_| ())
        }
        "crash" => {
            let found = world.node(node)?;
            found.replica = None;
            found.disk.pending.clear();
            world.links.retain(|(from, to), _| *from != node && *to != node);
            Ok(())
        }
        "restart" | "abstain" => {
            world.start(node)?;
            let found = world.node(node)?;
            found.replica =
                found.replica.take().map(|replica| if name == "abstain" { replica.abstaining() } else { replica });
            world.step(node, Input::Tick)
        }
        _ => {
            world.node(node)?.disk.broken = Some(w.rest().join(" "));
            Ok(())
        }
    }
}

fn queue(world: &mut World, name: &str, w: &mut Words) -> Result<()> {
    let (from, to) = (NodeId(w.take("from", 0)?), NodeId(w.take("to", 0)?));
    let all = w.rest().iter().any(|word| word == "all");
    let waiting = world.links.get(&(from, to)).map_or(0, std::collections::VecDeque::len);
    let count = w.take("count", if all { waiting } else { 1 })?;
    for _ in 0..count {
        let link = world.links.entry((from, to)).or_default();
        let Some(first) = link.front().cloned() else {
            return Err(format!("nothing is on the way from {from} to {to}").into());
        };
        match name {
            "deliver" => {
                world.deliver(from, to)?;
            }
            "drop" => {
                link.pop_front();
                let line = format!("lost {from:?} → {to:?} {}", format::message(&first));
                world.say(&line);
            }
            _ => link.push_front(first),
        }
    }
    Ok(())
}

fn link(world: &mut World, name: &str, w: &mut Words) -> Result<()> {
    if name == "queued" {
        let lines: Vec<String> = world
            .links
            .iter()
            .flat_map(|((from, to), q)| q.iter().map(move |m| format!("{from:?} → {to:?} {}", format::message(m))))
            .collect();
        lines.iter().for_each(|line| world.say(line));
        return Ok(());
    }
    let (a, b) = (w.next_node()?, w.next_node()?);
    match name {
        "hold" => _ = world.held.insert((a, b)),
        "free" => _ = world.held.remove(&(a, b)),
        "cut" => {
            for ends in [(a, b), (b, a)] {
                world.links.remove(&ends);
                world.cut.insert(ends);
            }
        }
        _ => {
            for (from, to) in [(a, b), (b, a)] {
                world.cut.remove(&(from, to));
                hears(world, to, from, true)?;
            }
        }
    }
    Ok(())
}

fn hears(world: &mut World, node: NodeId, peer: NodeId, alive: bool) -> Result<()> {
    if world.node(node)?.replica.is_none() {
        return Ok(());
    }
    world.step(node, Input::PeerLiveness { node: peer, alive })
}

fn liveness(world: &mut World, name: &str, w: &mut Words) -> Result<()> {
    let node = w.next_node()?;
    if name == "alive" {
        let (peer, on) = (w.next_node()?, w.next::<String>("on or off")?);
        return hears(world, node, peer, on == "on");
    }
    let others: Vec<NodeId> = world.nodes.keys().copied().filter(|n| *n != node).collect();
    for other in others {
        hears(world, other, node, name == "up")?;
    }
    Ok(())
}

fn driver(world: &mut World, name: &str, w: &mut Words) -> Result<()> {
    let node = w.next_node()?;
    let input = match name {
        "propose" => {
            let ts = w.take("ts", 0)?;
            let commands = w.rest().iter().map(|c| (ts, Bytes::from(parse::command(c)))).collect();
            Input::Propose { commands }
        }
        "read" => Input::ReadIndex(ReadId(w.next("a read")?)),
        "transfer" => Input::TransferTo(w.next_node()?),
        "campaign" => Input::Campaign,
        "release" => Input::Release,
        "tell" => Input::Tell,
        "begun" => Input::Begun,
        "applied" => Input::Applied(Slot(w.next("a slot")?)),
        "persisted" => Input::Persisted(WriteSeq(w.next("a write")?)),
        _ => {
            let current = world.replica(node)?.status().membership;
            let epoch = Epoch(w.take("id", current.epoch.next().0)?);
            let list = w.take_str("members").ok_or("members= is missing")?;
            let first_leader = NodeId(w.take("first", node.0)?);
            let membership = Membership { epoch, members: parse::members(&list)?, first_leader };
            Input::ChangeConfig { membership, ts: w.take("ts", 0)? }
        }
    };
    world.step(node, input)
}

fn show(world: &mut World, name: &str, w: &mut Words) -> Result<()> {
    let node = w.next_node()?;
    let line = match name {
        "trim" => {
            let slot = Slot(w.next("a slot")?);
            world.replica(node)?.trimmed(slot);
            world.node(node)?.disk.trim(slot);
            return Ok(());
        }
        "entries" => {
            let (after, upto) = (Slot(w.next("a slot")?), Slot(w.next("a slot")?));
            let found = world.node(node)?;
            let replica = found.replica.as_ref().ok_or("the node is down")?;
            let entries = replica.entries_to_apply(&found.disk, after, upto, usize::MAX)?;
            let show = |e: &synod_paxos::types::Entry| format!("{} ts {} closed {}", format::entry(e), e.ts, e.closed);
            entries.iter().map(show).collect::<Vec<_>>().join("\n")
        }
        "status" => format!("{node:?} {}", format::status(&world.replica(node)?.status())),
        "log" => {
            let disk = &world.node(node)?.disk;
            let entries = disk.entries(disk.trimmed.slot, Slot(u64::MAX - 1), usize::MAX)?;
            let all: Vec<String> = entries.iter().map(format::entry).collect();
            format!("{node:?} on disk after {:?}: {}", disk.trimmed, all.join(", "))
        }
        _ => {
            let now = world.now;
            match world.replica(node)?.deadline() {
                Some(at) => format!("{node:?} deadline in {} us", at.0.saturating_sub(now)),
                None => format!("{node:?} no deadline"),
            }
        }
    };
    world.say(&line);
    Ok(())
}
