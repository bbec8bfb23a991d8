//! Errors on the wire.
//!
//! Owns: kind, words and whether asking again can help, of each refusal as it is sent, and the reading of that. Must never: say of a
//! write that nothing was done where something may have been.

use crate::v1;
use std::time::Duration;
use synod_cluster::decide::Refused;
use synod_cluster::error::Error;
use synod_cluster::refusal::{OVERLOADED, OVERLOADED_AGAIN, ROOM_AGAIN, Refusal};
use v1::error::Kind;

/// An error of the wire.
#[must_use]
pub fn error(kind: Kind, retryable: bool, message: impl Into<String>) -> v1::Error {
    v1::Error { message: message.into(), retryable, kind: Some(kind) }
}

/// A part of a request that makes no sense.
#[must_use]
pub fn invalid(field: &str, why: impl Into<String>) -> v1::Error {
    let why = why.into();
    let message = format!("{field}: {why}");
    error(Kind::InvalidArgument(v1::InvalidArgument { field: field.into(), why }), false, message)
}

/// Too much is waiting; to be asked again after this time.
#[must_use]
pub fn overloaded(retry_after_ms: u32) -> v1::Error {
    error(Kind::Overloaded(v1::Overloaded { retry_after_ms, this_only: false }), true, OVERLOADED)
}

fn ms(pause: Duration) -> u32 {
    u32::try_from(pause.as_millis()).unwrap_or(u32::MAX)
}

/// The refusal of a request that was made for older bounds than are known, with the shards that own what it asks for by now.
#[must_use]
pub fn moved(now: Vec<v1::Shard>) -> v1::Error {
    error(Kind::WrongShard(v1::WrongShard { now }), true, Refusal::WrongShard.to_string())
}

/// The wire's error of a refusal.
#[must_use]
pub fn refusal_error(refusal: &Refusal) -> v1::Error {
    let message = refusal.to_string();
    match refusal {
        Refusal::NotLeader { leader, maybe } => {
            let leader = leader.map_or(0, |n| n.0);
            error(Kind::NotLeader(v1::NotLeader { leader, maybe: *maybe }), true, message)
        }
        Refusal::WrongShard => error(Kind::WrongShard(v1::WrongShard::default()), true, message),
        Refusal::Changing { retry_after_ms } => {
            error(Kind::Changing(v1::Changing { retry_after_ms: *retry_after_ms }), true, message)
        }
        Refusal::Overloaded => overloaded(ms(OVERLOADED_AGAIN)),
        // Not `Unavailable`: that may be said after a write was proposed, so that clients take it for possibly executed.
        Refusal::NoMemory(_) => {
            let full = v1::Overloaded { retry_after_ms: ms(ROOM_AGAIN), this_only: true };
            error(Kind::Overloaded(full), true, message)
        }
        Refusal::TooManyTails { .. } => error(Kind::Unavailable(v1::Unavailable {}), true, message),
        Refusal::Expired { shard_us } => error(Kind::Expired(v1::Expired { shard_time_us: *shard_us }), false, message),
        Refusal::BelowFloor => error(Kind::OutcomeUnknown(v1::OutcomeUnknown {}), false, message),
        Refusal::Trimmed { key, first } => {
            error(Kind::Trimmed(v1::Trimmed { first: first.0, key: key.clone() }), false, message)
        }
        Refusal::DiskFull(_) => error(Kind::DiskFull(v1::DiskFull {}), true, message),
        Refusal::Quarantined(why) => error(Kind::Quarantined(v1::Quarantined { why: why.to_string() }), true, message),
        Refusal::Invalid { field, why } => invalid(field, why.clone()),
        Refusal::WrongEpoch { current, expected } => {
            let epochs = v1::WrongEpoch { current: current.0, expected: expected.0 };
            error(Kind::WrongEpoch(epochs), false, message)
        }
        Refusal::NotReady => error(Kind::Unavailable(v1::Unavailable {}), true, message),
    }
}

impl From<v1::Error> for Refused {
    fn from(wire: v1::Error) -> Self {
        let v1::Error { message, retryable, kind } = wire;
        let sort = |error| if retryable { Refused::Later(error) } else { Refused::Final(error) };
        let Some(kind) = kind else { return sort(Error::Unavailable { why: message }) };
        match kind {
            Kind::NotLeader(e) => Refused::NotLeader { leader: e.leader, maybe: e.maybe },
            Kind::WrongShard(_) => Refused::WrongShard,
            Kind::Overloaded(e) => {
                let retry_after = Duration::from_millis(u64::from(e.retry_after_ms));
                Refused::Overloaded { retry_after, why: message }
            }
            Kind::Changing(e) => {
                Refused::Changing { retry_after: Duration::from_millis(u64::from(e.retry_after_ms)), why: message }
            }
            Kind::TableNotFound(e) => Refused::Final(Error::TableNotFound { table: e.table }),
            Kind::TableExists(e) => Refused::Final(Error::TableExists { table: e.table }),
            Kind::Trimmed(e) => Refused::Final(Error::Trimmed { key: e.key, first: e.first }),
            Kind::CrossShard(_) => Refused::Final(Error::CrossShard),
            Kind::TooLarge(e) => Refused::Final(Error::TooLarge { what: e.what, limit: e.limit, knob: e.knob }),
            Kind::Expired(e) => Refused::Final(Error::Expired { shard_time_us: e.shard_time_us }),
            Kind::OutcomeUnknown(_) => sort(Error::OutcomeUnknown { cause: message }),
            Kind::DiskFull(_) => sort(Error::DiskFull { message }),
            Kind::Quarantined(e) => sort(Error::Quarantined { why: e.why }),
            Kind::InvalidArgument(e) => Refused::Final(Error::InvalidArgument { field: e.field, why: e.why }),
            Kind::ExpectationFailed(e) => {
                Refused::Final(Error::ExpectationFailed { actual: e.actual, op_index: e.op_index })
            }
            Kind::WrongEpoch(e) => Refused::Final(Error::WrongEpoch { current: e.current, expected: e.expected }),
            Kind::JobNotFound(e) => Refused::Final(Error::JobNotFound { job: e.job }),
            Kind::JobConflict(e) => Refused::Final(Error::JobConflict { job: e.job, why: e.why }),
            Kind::OtherCluster(_) => Refused::Later(Error::OtherCluster { why: message }),
            Kind::Unavailable(_) => Refused::Later(Error::Unavailable { why: message }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use synod_cluster::ids::{NodeId, Offset};

    /// Every refusal, but for what of its content makes no difference.
    fn refusals() -> Vec<Refusal> {
        let epoch = |epoch| synod_paxos::types::Epoch(epoch);
        vec![
            Refusal::NotLeader { leader: None, maybe: true },
            Refusal::NotLeader { leader: Some(NodeId(3)), maybe: false },
            Refusal::WrongShard,
            Refusal::Changing { retry_after_ms: 10 },
            Refusal::Overloaded,
            Refusal::NoMemory("no room".into()),
            Refusal::TooManyTails { limit: 3, place: "node", knob: "limits.tails_max" },
            Refusal::Expired { shard_us: 7 },
            Refusal::BelowFloor,
            Refusal::Trimmed { key: Bytes::from_static(b"k"), first: Offset(5) },
            Refusal::DiskFull("little room".into()),
            Refusal::Quarantined("set back".into()),
            Refusal::Invalid { field: "node", why: "no".into() },
            Refusal::WrongEpoch { current: epoch(3), expected: epoch(2) },
            Refusal::NotReady,
        ]
    }

    #[test]
    fn a_client_reads_from_the_wire_what_the_node_refused() {
        for refusal in refusals() {
            assert_eq!(Refused::from(refusal_error(&refusal)), Refused::from(&refusal), "{refusal:?}");
        }
    }
}
