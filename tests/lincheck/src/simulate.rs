//! Histories that are linearizable by construction.
//!
//! Owns: a generator, for tests of the checker and of what stands around it. Must never: be asked to judge.
//!
//! Each operation is executed at one instant between its invocation and its return on a plain map of logs; clients overlap.
//! Some answers are lost: of those operations some are executed, later than any answer could have come, and some never.

use crate::history::{Call, Expect, History, Operation, Outcome, Record, Seen};
use crate::state::holds;
use std::collections::{BTreeMap, BinaryHeap};

/// What is to be generated.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Everything follows from it.
    pub seed: u64,
    /// Operations in all.
    pub operations: usize,
    /// Keys they are spread over.
    pub keys: u64,
    /// Clients, each with one operation at a time.
    pub clients: u64,
    /// Operations of a thousand whose answer is lost.
    pub lost: u64,
}

/// SplitMix64: enough for histories, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next word.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.word() % limit.max(1)
    }
}

/// A linearizable history with its logs.
#[must_use]
pub fn history(shape: Shape) -> History {
    let mut dice = Dice(shape.seed);
    let mut world = World { logs: BTreeMap::new(), values: 0 };
    let mut operations: Vec<Operation> = Vec::with_capacity(shape.operations);
    // Instants at which something is executed, earliest first.
    let mut due: BinaryHeap<std::cmp::Reverse<(u64, usize)>> = BinaryHeap::new();
    let mut free_at: Vec<u64> = (0..shape.clients).map(|_| dice.below(1_000)).collect();
    while operations.len() < shape.operations {
        let client = (0..free_at.len()).min_by_key(|c| free_at[*c]).unwrap_or(0);
        let invoked = free_at[client];
        while due.peek().is_some_and(|next| next.0.0 <= invoked) {
            let Some(std::cmp::Reverse((_, at))) = due.pop() else { break };
            world.execute(&mut operations[at]);
        }
        let key = format!("k{}", dice.below(shape.keys));
        let call = world.call(&key, &mut dice);
        let (wait, rest) = (1 + dice.below(1_000), 1 + dice.below(1_000));
        let mut operation =
            Operation { client: client as u64, key, invoked, returned: None, call, outcome: Outcome::NotExecuted };
        free_at[client] = invoked + wait + rest + 1 + dice.below(200);
        if dice.below(1_000) < shape.lost {
            operation.outcome = Outcome::Unknown;
            if dice.below(2) == 0 {
                due.push(std::cmp::Reverse((invoked + wait + dice.below(5_000), operations.len())));
            }
        } else {
            operation.returned = Some(invoked + wait + rest);
            due.push(std::cmp::Reverse((invoked + wait, operations.len())));
        }
        operations.push(operation);
    }
    while let Some(std::cmp::Reverse((_, at))) = due.pop() {
        world.execute(&mut operations[at]);
    }
    let logs = world.logs.into_iter().map(|(key, log)| {
        let record = |(offset, value)| Record { offset, value };
        (key, (0..).zip(log).map(record).collect())
    });
    History { operations, logs: logs.collect() }
}

struct World {
    logs: BTreeMap<String, Vec<Option<String>>>,
    values: u64,
}

impl World {
    fn value(&mut self) -> String {
        self.values += 1;
        format!("v{}", self.values)
    }

    fn call(&mut self, key: &str, dice: &mut Dice) -> Call {
        // What a client that looked a while ago would expect.
        let next = self.logs.get(key).map_or(0, |log| log.len() as u64);
        let expect = match dice.below(10) {
            0 => Expect::Absent,
            1 => Expect::Exists,
            2 | 3 => Expect::Next(next.saturating_sub(dice.below(2))),
            _ => Expect::Any,
        };
        match dice.below(10) {
            0 => Call::Delete { expect },
            1..=3 => Call::Put { value: self.value(), expect },
            4 | 5 => Call::Append { values: (0..=dice.below(3)).map(|_| self.value()).collect(), expect },
            6 => Call::Read { from: next.saturating_sub(dice.below(4)), limit: 1 + dice.below(4) },
            _ => Call::Get,
        }
    }

    fn execute(&mut self, operation: &mut Operation) {
        let log = self.logs.entry(operation.key.clone()).or_default();
        let next = log.len() as u64;
        let tail: Vec<Option<&str>> = log.last().map(Option::as_deref).into_iter().collect();
        let fits = match operation.expect() {
            Expect::Next(wanted) => wanted == next,
            expect => holds(expect, &tail),
        };
        let outcome = match &operation.call {
            Call::Get => {
                let newest = log.last().and_then(|value| value.clone()).map(|value| Seen { offset: next - 1, value });
                // Every other answer says the next offset too.
                Outcome::Found { newest, next: (operation.invoked.is_multiple_of(2)).then_some(next) }
            }
            Call::Read { from, limit } => {
                let there = (0u64..).zip(log.iter()).skip_while(|(at, _)| at < from).take(*limit as usize);
                Outcome::Records(there.map(|(offset, value)| Record { offset, value: value.clone() }).collect())
            }
            _ if !fits => Outcome::ExpectationFailed { actual: next },
            _ => {
                log.extend(operation.writes().into_iter().map(|value| value.map(str::to_owned)));
                Outcome::Written { offset: next }
            }
        };
        if operation.outcome != Outcome::Unknown {
            operation.outcome = outcome;
        }
    }
}
