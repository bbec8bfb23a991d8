//! Simulated clients: what they ask, and how they ask again.
//!
//! Owns: sessions, operations, and what each client knows when it begins one. Must never: know what a node holds; they see
//! a map, answers and silence.
//!
//! What a refusal means and which node is next the production client's own code decides: see `retry`.

use crate::dice::Dice;
use crate::plan::Plan;
use crate::retry::Retry;
use crate::routes::Routes;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use synod_cluster::ids::{ClientId, ClientSeq, NodeId, Offset, ShardId, TableId};
use synod_cluster::system::{Descriptor, SystemState};
use synod_engine::command::{Action, Expect, KeyOp, NewRecord, Op, WriteId, WriteRequest};
use synod_engine::host::{At, Body, Freshness, Read};
use synod_paxos::types::Epoch;

/// Hot keys of a shard.
const KEYS: usize = 16;

/// A shard as clients know it.
#[derive(Clone)]
pub(crate) struct KnownShard {
    pub(crate) shard: ShardId,
    pub(crate) table: TableId,
    pub(crate) version: u64,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) keys: Vec<Bytes>,
}

impl KnownShard {
    /// The tables' shards of a map, with keys for each.
    pub(crate) fn of(map: &SystemState) -> Vec<Self> {
        let mut known: Vec<(Self, &Descriptor)> = Vec::new();
        for d in map.shards.values().filter(|d| d.table != TableId(0)) {
            let voters = d.membership.voters().collect();
            let (shard, table, version) = (d.shard, d.table, d.version);
            known.push((Self { shard, table, version, voters, keys: Vec::new() }, d));
        }
        for n in 0..10_000u32 {
            if known.iter().all(|(shard, _)| shard.keys.len() == KEYS) {
                break;
            }
            let key = Bytes::from(format!("{}{n}", char::from(b'a' + (n % 26) as u8)));
            for (shard, descriptor) in &mut known {
                if shard.keys.len() < KEYS && descriptor.contains(&key) {
                    shard.keys.push(key.clone());
                }
            }
        }
        known.into_iter().map(|(shard, _)| shard).collect()
    }
}

/// One client.
pub(crate) struct Client {
    pub(crate) id: ClientId,
    next_seq: u64,
    outstanding: BTreeSet<u64>,
    /// Whom it believes to lead.
    pub(crate) leaders: BTreeMap<ShardId, NodeId>,
    /// Where it believes keys to be, in a run that splits shards.
    pub(crate) routes: Routes,
    /// Error of its estimate of the cluster's time, µs.
    clock_offset: i64,
}

/// What an operation asks.
#[derive(Clone)]
pub(crate) enum Kind {
    Write(WriteRequest),
    Read { read: Read, freshness: Freshness },
}

impl Kind {
    pub(crate) fn body(&self) -> Body {
        match self {
            Self::Write(request) => Body::Write(request.clone()),
            Self::Read { read, freshness } => Body::Read { read: read.clone(), freshness: *freshness },
        }
    }

    /// Whether the leader has to answer.
    pub(crate) fn is_of_leader(&self) -> bool {
        !matches!(self, Self::Read { freshness: Freshness::Local | Freshness::Stale(_), .. })
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self, Self::Write(_))
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Write(request) => match &request.op {
                Op::System(_) => "system command",
                Op::Write { ops, .. } if ops.len() > 1 => "batch",
                Op::Write { ops, .. } => match (&ops[0].action, ops[0].expect) {
                    (_, Expect::Absent | Expect::Exists | Expect::Next(_)) => "conditional write",
                    (Action::Append(_), _) => "append",
                    (Action::Delete, _) => "delete",
                    (Action::Trim(_), _) => "trim",
                },
            },
            Self::Read { freshness: Freshness::Local, .. } => "local read",
            Self::Read { freshness: Freshness::Stale(_), .. } => "stale read",
            Self::Read { read: Read::Get { .. }, .. } => "get",
            Self::Read { .. } => "range read",
        }
    }
}

/// An operation of a client, from its first attempt to its end.
pub(crate) struct Operation {
    pub(crate) client: usize,
    pub(crate) kind: Kind,
    /// The table; 0 for the metadata.
    pub(crate) table: TableId,
    /// The shard that is asked next, or was asked last.
    pub(crate) shard: ShardId,
    pub(crate) version: Option<u64>,
    /// Of that shard's members, as the client knows them.
    pub(crate) epoch: Epoch,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) deadline: u64,
    pub(crate) retry: Retry,
    /// The attempt under way.
    pub(crate) attempt: Option<u64>,
    pub(crate) attempts: u64,
    pub(crate) done: bool,
    /// Of each key, what was known to be there when the operation began: (first, next).
    pub(crate) known: BTreeMap<Bytes, (u64, u64)>,
}

/// One attempt.
pub(crate) struct Attempt {
    pub(crate) op: u64,
    /// The shard that it asks, and what the client knows of its bounds and members.
    pub(crate) shard: ShardId,
    pub(crate) version: Option<u64>,
    pub(crate) epoch: Epoch,
    /// By that its keys are of several shards.
    pub(crate) crosses: bool,
    pub(crate) node: NodeId,
    pub(crate) process: u64,
    /// The name that this attempt's write went under.
    pub(crate) id: Option<WriteId>,
}

impl Client {
    pub(crate) fn new(number: u64, dice: &mut Dice) -> Self {
        let clock_offset = dice.between((0, 400_000)) as i64 - 200_000;
        Self {
            id: ClientId(u128::from(number) << 64 | u128::from(dice.word())),
            next_seq: 0,
            outstanding: BTreeSet::new(),
            leaders: BTreeMap::new(),
            routes: Routes::default(),
            clock_offset,
        }
    }

    /// Names a write and keeps its outcome knowable until [`Client::finished`].
    pub(crate) fn name(&mut self, wall_deadline: u64) -> WriteId {
        self.next_seq += 1;
        self.outstanding.insert(self.next_seq);
        let floor = self.outstanding.first().copied().unwrap_or(self.next_seq);
        WriteId {
            client: self.id,
            seq: ClientSeq(self.next_seq),
            floor: ClientSeq(floor),
            deadline_us: wall_deadline.saturating_add_signed(self.clock_offset),
        }
    }

    /// Names a write that starts anew, with a deadline by the shard's time.
    pub(crate) fn rename(&mut self, old: ClientSeq, deadline_us: u64) -> WriteId {
        self.finished(old);
        WriteId { deadline_us, ..self.name(0) }
    }

    pub(crate) fn finished(&mut self, seq: ClientSeq) {
        self.outstanding.remove(&seq.0);
    }
}

/// What one operation will ask of `shard`; `next` is what the client knows of a key's next offset.
pub(crate) fn choose(
    client: &mut Client,
    shard: &KnownShard,
    wall_deadline: u64,
    plan: &Plan,
    dice: &mut Dice,
    next: impl Fn(&Bytes) -> u64,
) -> Kind {
    let key = dice.pick(&shard.keys).expect("every shard has keys");
    match dice.below(100) {
        0..=27 => {
            let at = if dice.chance(700) { At::Newest } else { At::Offset(Offset(dice.below(next(&key) + 2))) };
            Kind::Read { read: Read::Get { key, at }, freshness: Freshness::Linearizable }
        }
        28..=33 => {
            let from = Offset(next(&key).saturating_sub(dice.below(6)));
            Kind::Read { read: Read::Range { key, from, limit: 0 }, freshness: Freshness::Linearizable }
        }
        34..=36 => Kind::Read { read: Read::Get { key, at: At::Newest }, freshness: Freshness::Local },
        37..=43 => {
            let age = if dice.chance(300) { 0 } else { dice.between((1_000, 3_000_000)) };
            Kind::Read { read: Read::Get { key, at: At::Newest }, freshness: Freshness::Stale(age) }
        }
        _ => {
            let count = if dice.chance(150) { dice.between((2, 4)) } else { 1 };
            let mut ops = vec![write_op(key, plan, dice, &next)];
            for _ in 1..count {
                let key = dice.pick(&shard.keys).expect("every shard has keys");
                ops.push(write_op(key, plan, dice, &next));
            }
            let op = Op::Write { table: shard.table, ops };
            Kind::Write(WriteRequest { id: client.name(wall_deadline), op })
        }
    }
}

fn write_op(key: Bytes, plan: &Plan, dice: &mut Dice, next: &impl Fn(&Bytes) -> u64) -> KeyOp {
    let expect = match dice.below(100) {
        0..=9 => Expect::Absent,
        10..=17 => Expect::Exists,
        18..=37 => Expect::Next(Offset(next(&key))),
        _ => Expect::Any,
    };
    let action = match dice.below(100) {
        0..=11 => Action::Delete,
        12..=16 => Action::Trim(Offset(next(&key).saturating_sub(dice.below(8)))),
        _ => {
            let count = if dice.chance(150) { dice.between((2, 3)) } else { 1 };
            let mut record = || {
                let mut value = format!("{:016x}", dice.word()).into_bytes();
                value.resize(dice.below(plan.value_bytes) as usize + 1, b'x');
                NewRecord { headers: Vec::new(), value: value.into() }
            };
            Action::Append((0..count).map(|_| record()).collect())
        }
    };
    KeyOp { key, expect, action }
}

/// The keys that an operation is about.
pub(crate) fn keys_of(kind: &Kind) -> Vec<Bytes> {
    match kind {
        Kind::Write(WriteRequest { op: Op::Write { ops, .. }, .. }) => ops.iter().map(|op| op.key.clone()).collect(),
        Kind::Read { read: Read::Get { key, .. } | Read::Range { key, .. }, .. } => vec![key.clone()],
        _ => Vec::new(),
    }
}
