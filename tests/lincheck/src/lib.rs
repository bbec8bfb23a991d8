//! Is a history of operations linearizable, key by key?
//!
//! Owns: what an operation on a key means, and the two ways to decide. Must never: know the product's crates, so that it
//! shares none of their mistakes; call a history good because it is too large to decide.
//!
//! Linearizability is local (Herlihy, Wing, "Linearizability: A Correctness Condition for Concurrent Objects", 1990,
//! theorem 1): a history is linearizable if and only if each key's part of it is. So keys are checked one by one.
//!
//! # For a campaign
//!
//! Record with a [`Recorder`], shared by all clients; read every key's whole log at the end (a table that retains all, read
//! after the last operation ended); then [`check`]:
//!
//! ```
//! use synod_lincheck::{Call, Expect, Outcome, Record, Recorder, check, journal};
//!
//! let recorder = Recorder::default();
//! let put = recorder.invoked(1, "a", Call::Append { values: vec!["1#0".into()], expect: Expect::Any });
//! // … the call; on an answer:
//! recorder.returned(put, Outcome::Written { offset: 0 });
//! // One that timed out is never reported as returned, or as `Outcome::Unknown`: both say the same.
//! let lost = recorder.invoked(2, "a", Call::Delete { expect: Expect::Exists });
//! recorder.returned(lost, Outcome::Unknown);
//!
//! let mut history = recorder.finish();
//! history.logs.insert("a".into(), vec![Record::value(0, "1#0"), Record::tombstone(1)]);
//! let report = check(&history);
//! assert!(report.is_linearizable(), "{report}");
//! // Kept beside the logs of a campaign that failed, and checked again later.
//! let mut file = Vec::new();
//! journal::write(&history, &mut file)?;
//! assert_eq!(journal::read(&file[..])?, history);
//! # Ok::<_, synod_lincheck::journal::Error>(())
//! ```
//!
//! What to record: every append, put and delete, and `linearizable` reads (`get`, and `read` of no more than one answer's
//! records: a longer one is several reads). Values must be unique over the whole history; they name the write. Times are of
//! one monotone clock, `invoked` taken before the call and `returned` after it.
//!
//! # The two ways
//!
//! [`search::linearize`] tries the orders that real time allows, with a memory of the states already tried (Wing, Gong,
//! "Testing and Verifying Concurrent Objects", 1993; Lowe, "Testing for Linearizability", 2017). It needs no log, takes
//! exponential time at worst, and is here to check the other one.
//!
//! [`bounded::check_key`] is given the key's committed log and takes time near linear in the operations. It is exact, no
//! approximation, because every record of a key has its offset, offsets are contiguous, and values are unique:
//!
//! - The log *is* the order of the writes that happened. A write that was acknowledged, or whose value stands in the log,
//!   has its place there; a write with unknown outcome whose value does not stand there never happened, and one that was
//!   refused must not stand there. So no order of writes has to be searched for.
//! - Between two records the key is in one state, which the log's prefix names. Every other operation (a read, a refused
//!   condition) saw such a state: mostly one that its answer names (a record's offset, the actual next offset), else any of
//!   a set (an empty answer: any state whose newest record is no value). So each operation has a position or a set of
//!   positions, and a linearization exists if and only if positions can be chosen that never fall where real time rises.
//! - Taken in order of invocation, each operation gets the least position of its set that is not below those of the
//!   operations that had returned before. A lower position is never worse for anybody else: it is the least solution, and
//!   where it does not exist there is none.
//! - Tombstones carry no value. Those that no acknowledged delete claims must be matched with deletes of unknown outcome,
//!   each at most once; which delete fits which tombstone does not depend on the other choices, since a delete without an
//!   answer bounds nobody from below. So a matching in a bipartite graph decides, and is found by augmenting paths.

pub mod bounded;
pub mod explain;
pub mod history;
pub mod journal;
pub mod recorder;
pub mod search;
pub mod simulate;
pub mod state;

pub use bounded::check;
pub use explain::{Report, Violation, Why};
pub use history::{Call, Expect, History, Operation, Outcome, Record, Seen};
pub use recorder::Recorder;
