//! What follows a failed attempt: decided without a clock, a pause or chance of its own.
//!
//! Owns: whether a write may have been executed, which node is asked next and how long is waited before. Must never:
//! report a write as failed that may have been executed. `retry` carries out what is decided here; the whole-node
//! simulation does too, under its own clock.
//!
//! Whether a write may have been executed: an attempt counts as *possibly delivered* once it may have left and was not
//! answered by a refusal that says nothing was executed (`Overloaded`, `Changing`, `WrongShard`, `DiskFull`, `Quarantined`, or a
//! final error). `NotLeader` says itself whether the write had been proposed before the leadership was lost. Once an attempt
//! was possibly delivered, no refusal of a later one says what became of the write: nodes differ in their limits, and a
//! session that has ended no longer has its outcomes.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::refusal::{OVERLOADED, OVERLOADED_AGAIN, ROOM_AGAIN, Refusal};

/// `NotLeader` and `WrongShard` hints followed without a pause before one is made.
const MAX_HOPS: u32 = 3;
/// How long a node that did not answer is passed over, and one whose connection broke.
const SUSPECT_SILENT: Duration = Duration::from_millis(1000);
const SUSPECT_BROKEN: Duration = Duration::from_millis(100);

/// Longest pause before a shard is asked again that stands still.
const CHANGING_MOST: Duration = Duration::from_millis(20);

/// What the map lacks for a call.
#[derive(Clone, Copy, Debug)]
pub enum Missing {
    /// The table.
    Table,
    /// The key's shard.
    Shard,
    /// A voter of it.
    Voter,
}

/// What a server said instead of a result, sorted by what the retry loop does about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Another node leads.
    NotLeader {
        /// Who does, 0 where unknown.
        leader: u64,
        /// The one asked had proposed the write.
        maybe: bool,
    },
    /// The shard map used is not the shard's own.
    WrongShard,
    /// Nothing was done, the server asks for a pause.
    Overloaded {
        /// How long.
        retry_after: Duration,
        /// The server's words.
        why: String,
    },
    /// The shard stands still for a moment, to go into another one. Nothing was done.
    Changing {
        /// How long, about.
        retry_after: Duration,
        /// The server's words.
        why: String,
    },
    /// Asking again, perhaps elsewhere, can help.
    Later(Error),
    /// Asking again cannot help.
    Final(Error),
}

impl From<&Refusal> for Refused {
    fn from(refusal: &Refusal) -> Self {
        let said = refusal.to_string();
        match refusal {
            Refusal::NotLeader { leader, maybe } => {
                Self::NotLeader { leader: leader.map_or(0, |node| node.0), maybe: *maybe }
            }
            Refusal::WrongShard => Self::WrongShard,
            Refusal::Changing { retry_after_ms } => {
                let retry_after = Duration::from_millis(u64::from(*retry_after_ms));
                Self::Changing { retry_after, why: said }
            }
            Refusal::Overloaded => Self::Overloaded { retry_after: OVERLOADED_AGAIN, why: OVERLOADED.into() },
            Refusal::NoMemory(_) => Self::Overloaded { retry_after: ROOM_AGAIN, why: said },
            Refusal::TooManyTails { .. } | Refusal::NotReady => Self::Later(Error::unavailable(said)),
            Refusal::Expired { shard_us } => Self::Final(Error::Expired { shard_time_us: *shard_us }),
            Refusal::BelowFloor => Self::Final(Error::OutcomeUnknown { cause: said }),
            Refusal::Trimmed { key, first } => Self::Final(Error::Trimmed { key: key.clone(), first: first.0 }),
            Refusal::DiskFull(_) => Self::Later(Error::DiskFull { message: said }),
            Refusal::Quarantined(why) => Self::Later(Error::Quarantined { why: why.to_string() }),
            Refusal::Invalid { field, why } => Self::Final(Error::invalid(*field, why.clone())),
            Refusal::WrongEpoch { current, expected } => {
                Self::Final(Error::WrongEpoch { current: current.0, expected: expected.0 })
            }
        }
    }
}

/// How one attempt ended without an answer.
#[derive(Debug)]
pub enum Failure {
    /// The node said why not.
    Refused(Refused),
    /// There was no connection, or it broke; with the reason.
    Broken(String),
    /// No answer within this time.
    Silent(Duration),
}

/// A failed attempt.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// The table's name.
    pub table: &'a str,
    /// The shard that was asked.
    pub shard: u64,
    /// Its voters, how many.
    pub voters: usize,
    /// The node that was asked.
    pub node: u64,
    /// Whether it is a write.
    pub write: bool,
    /// Whether the request may have left.
    pub may_have_left: bool,
    /// Whether what is asked for is known by now to be of another shard, or of other bounds or members of this one.
    pub moved: bool,
    /// Whether it is a batch whose keys are of several shards. It is sent only to learn what became of an earlier attempt.
    pub crosses: bool,
}

/// A retry is not begun with less time than this to be answered.
const ATTEMPT_MIN: Duration = Duration::from_millis(20);

/// A pause, before chance has its say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pause {
    span: Duration,
    at_least: Option<Duration>,
}

impl Pause {
    /// How long it is where `left` is the time for it and for the attempt after it, which gets at least half, unless the server
    /// asked for more patience; `jitter` gives a random part between a half and the whole.
    pub fn length(self, left: Duration, mut jitter: impl FnMut(Duration) -> Duration) -> Duration {
        let asked = self.at_least.map(|d| d + jitter(d) / 4).unwrap_or_default();
        jitter(self.span).min(left / 2).max(asked).min(left)
    }
}

/// What is to be believed of a shard's leader from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leader {
    /// What was.
    AsBefore,
    /// It is this node.
    Is(u64),
    /// It is not this node.
    IsNot(u64),
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Another attempt.
    Again {
        /// The shard's leader.
        leader: Leader,
        /// A newer map is to be asked for, without waiting for it.
        nudge: bool,
        /// A pause before, where there is one.
        pause: Option<Pause>,
    },
    /// Another attempt, once a newer map is there.
    LookUp,
    /// None: the call fails with this.
    End(Error),
}

/// The shard's time, µs, where a write that ended so may start anew under another name: its one possible execution was refused
/// for its deadline, by a shard whose time is ahead of the clock that the deadline was made by. Every other ending says nothing,
/// or that the write may have been executed: made anew it might execute a second time.
#[must_use]
pub fn renewal(ended: &Error) -> Option<u64> {
    match ended {
        Error::Expired { shard_time_us } if *shard_time_us > 0 => Some(*shard_time_us),
        _ => None,
    }
}

/// What a call has learnt from its attempts. Times are relative to an origin that the caller chooses.
#[derive(Debug)]
pub struct Progress {
    attempt_timeout: Duration,
    pause: Duration,
    pause_max: Duration,
    /// Which voter is next where no leader is known.
    turn: usize,
    hops: u32,
    suspects: Vec<(u64, Duration)>,
    /// Nodes that let an attempt time out.
    silent: Vec<u64>,
    /// An attempt was possibly delivered.
    maybe: bool,
    /// What was in the way last.
    last: Option<Error>,
    looked_up: bool,
}

impl Progress {
    /// Of a call that begins, with its first attempt's patience, the bounds of its pauses and whose turn it is first.
    #[must_use]
    pub fn new(attempt_timeout: Duration, (pause, pause_max): (Duration, Duration), turn: usize) -> Self {
        Self {
            attempt_timeout,
            pause,
            pause_max,
            turn,
            hops: 0,
            suspects: Vec::new(),
            silent: Vec::new(),
            maybe: false,
            last: None,
            looked_up: false,
        }
    }

    /// Whether the time that is left is too short for another attempt. What it would most likely add is an outcome that nobody
    /// knows, in place of the reason for which the last one was refused.
    #[must_use]
    pub fn is_over(&self, left: Duration) -> bool {
        left.is_zero() || self.last.is_some() && left < ATTEMPT_MIN
    }

    /// How long the next attempt may take.
    #[must_use]
    pub fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout
    }

    /// Whose turn it is.
    #[must_use]
    pub fn turn(&self) -> usize {
        self.turn
    }

    /// Whether `node` is passed over for now.
    #[must_use]
    pub fn is_suspect(&self, node: u64, now: Duration) -> bool {
        self.suspects.iter().any(|(id, until)| *id == node && now < *until)
    }

    /// The node to ask: the leader, or the next voter in turn. Nodes that just failed are passed over while others are left.
    pub fn choose(&mut self, leader: Option<u64>, voters: &[u64], now: Duration) -> Option<u64> {
        if let Some(leader) = leader.filter(|leader| !self.is_suspect(*leader, now)) {
            return Some(leader);
        }
        let nth = |n: usize| voters.get(n % voters.len().max(1)).copied();
        for _ in 0..voters.len() {
            let node = nth(self.turn)?;
            if !self.is_suspect(node, now) {
                return Some(node);
            }
            self.turn += 1;
        }
        nth(self.turn)
    }

    /// What follows where the map lacks something.
    pub fn missing(&mut self, missing: Missing, table: &str, write: bool) -> Next {
        let what = match missing {
            Missing::Table => return self.look_up_again(table, write),
            Missing::Shard => "shard for the key",
            Missing::Voter => "replica of the key's shard",
        };
        self.last = Some(Error::unavailable(format!("the map has no {what} in table {table:?}")));
        Next::Again { leader: Leader::AsBefore, nudge: true, pause: Some(self.back_off(None)) }
    }

    /// What follows a failed attempt; `known` says whether the map has a node's address.
    pub fn failed(
        &mut self,
        failure: Failure,
        attempt: &Attempt<'_>,
        now: Duration,
        known: impl FnOnce(u64) -> bool,
    ) -> Next {
        let node = attempt.node;
        match failure {
            Failure::Refused(refusal) => self.refused(refusal, attempt, now, known),
            Failure::Broken(why) => {
                self.maybe |= attempt.may_have_left;
                self.suspect(node, now + SUSPECT_BROKEN);
                self.last = Some(Error::unavailable(format!("node {node}: {why}")));
                self.another(attempt)
            }
            Failure::Silent(limit) => {
                self.maybe |= attempt.may_have_left;
                self.suspect(node, now + SUSPECT_SILENT);
                self.silent(node);
                let why = format!("node {node} did not answer within {} ms", limit.as_millis());
                self.last = Some(Error::unavailable(why));
                self.another(attempt)
            }
        }
    }

    fn refused(
        &mut self,
        refusal: Refused,
        attempt: &Attempt<'_>,
        now: Duration,
        known: impl FnOnce(u64) -> bool,
    ) -> Next {
        let (shard, write) = (attempt.shard, attempt.write);
        let as_before = |pause| Next::Again { leader: Leader::AsBefore, nudge: false, pause: Some(pause) };
        match refusal {
            Refused::NotLeader { leader, maybe } => {
                self.maybe |= maybe;
                self.last = Some(Error::unavailable(format!("shard {shard} has no known leader")));
                let usable = leader != 0 && leader != attempt.node && !self.is_suspect(leader, now);
                if !usable || !known(leader) {
                    return self.another(attempt);
                }
                self.hops += 1;
                let pause = (self.hops > MAX_HOPS).then(|| self.back_off(None));
                Next::Again { leader: Leader::Is(leader), nudge: false, pause }
            }
            // No shard executes it, and the one that was asked knows nothing of an earlier attempt.
            Refused::WrongShard if attempt.crosses && !attempt.moved => {
                Next::End(self.settle(write, Error::CrossShard))
            }
            Refused::WrongShard if attempt.moved => {
                self.last = Some(Error::unavailable(format!("the bounds or replicas of shard {shard} are changing")));
                self.hops += 1;
                let pause = (self.hops > MAX_HOPS).then(|| self.back_off(None));
                Next::Again { leader: Leader::AsBefore, nudge: false, pause }
            }
            Refused::WrongShard => {
                self.last = Some(Error::unavailable(format!("the bounds or replicas of shard {shard} are changing")));
                // Its replica may be elsewhere by now, and who is asked again and again where it was learns nothing.
                self.turn += 1;
                let leader = Leader::IsNot(attempt.node);
                Next::Again { leader, nudge: true, pause: Some(self.back_off(None)) }
            }
            Refused::Overloaded { retry_after, why } => {
                self.last = Some(Error::Overloaded { retry_after, why });
                let pause = self.back_off(Some(retry_after));
                // The node knows how long its line is: pauses that grow far beyond leave it idle while calls wait.
                as_before(Pause { span: pause.span.min(4 * retry_after), ..pause })
            }
            // It is over soon, and the same node knows where the shard went: the pause does not grow.
            Refused::Changing { retry_after, why } => {
                self.last = Some(Error::unavailable(why));
                let pause = retry_after.min(CHANGING_MOST);
                as_before(Pause { span: pause, at_least: Some(pause) })
            }
            // Its leader hands over, or gets room again: to ask the others would not help.
            Refused::Later(error @ Error::DiskFull { .. }) => {
                self.last = Some(error);
                as_before(self.back_off(None))
            }
            Refused::Later(error) => {
                let silent = matches!(error, Error::OutcomeUnknown { .. } | Error::Unavailable { .. });
                self.maybe |= attempt.may_have_left && silent;
                self.last = Some(error);
                self.another(attempt)
            }
            // The table may have been made anew under its name since our map.
            Refused::Final(Error::TableNotFound { .. }) => self.look_up_again(attempt.table, write),
            // An outcome: what was stored for the write, whichever attempt made it.
            Refused::Final(error @ Error::ExpectationFailed { .. }) => Next::End(error),
            Refused::Final(error) => Next::End(self.settle(write, error)),
        }
    }

    /// A newer map once, because of a table that seems not to be there.
    fn look_up_again(&mut self, table: &str, write: bool) -> Next {
        if std::mem::replace(&mut self.looked_up, true) {
            return Next::End(self.settle(write, Error::TableNotFound { table: table.into() }));
        }
        Next::LookUp
    }

    /// After a node proved useless for its shard: the next voter, after a pause.
    fn another(&mut self, attempt: &Attempt<'_>) -> Next {
        self.turn += 1;
        let nudge = self.turn.is_multiple_of(attempt.voters.max(1));
        Next::Again { leader: Leader::IsNot(attempt.node), nudge, pause: Some(self.back_off(None)) }
    }

    fn suspect(&mut self, node: u64, until: Duration) {
        self.suspects.retain(|(id, _)| *id != node);
        self.suspects.push((node, until));
    }

    /// A node that was silent before may be slow rather than dead: the next attempt waits twice as long.
    fn silent(&mut self, node: u64) {
        if self.silent.contains(&node) {
            self.attempt_timeout *= 2;
        } else {
            self.silent.push(node);
        }
    }

    /// Pauses grow, and are at least as long as the server asked for.
    fn back_off(&mut self, at_least: Option<Duration>) -> Pause {
        let pause = Pause { span: self.pause, at_least };
        self.pause = (self.pause * 2).min(self.pause_max);
        self.hops = 0;
        pause
    }

    /// The error of a call whose deadline passed.
    pub fn out_of_time(&mut self, write: bool) -> Error {
        let last = self.last.take();
        if write && self.maybe {
            return unknown("the deadline passed without an answer", last.as_ref());
        }
        match last {
            None => Error::unavailable("the deadline passed before a node was reached"),
            Some(Error::OutcomeUnknown { cause }) => Error::Unavailable { why: cause },
            Some(error) => error,
        }
    }

    /// Whether a batch whose keys are of several shards is sent all the same: an earlier attempt may have been executed, when its keys
    /// were of one shard, and the shard of its first key knows. Otherwise the error that ends the call.
    ///
    /// # Errors
    /// [`Error::CrossShard`]: nothing was sent that may have been executed.
    pub fn cross(&self) -> Result<()> {
        if self.maybe { Ok(()) } else { Err(Error::CrossShard) }
    }

    /// The error of a call that cannot go on: for a write that was possibly delivered before, its outcome is unknown, whatever
    /// a later attempt was refused for. What the client itself checks of a request it checks before the first attempt.
    pub fn settle(&self, write: bool, error: Error) -> Error {
        let lies = planted!(CrossShardLies) && matches!(error, Error::CrossShard);
        if write && self.maybe && !lies { unknown("a retry was refused", Some(&error)) } else { error }
    }

    /// [`Progress::settle`] for a result.
    pub fn settled<T>(&self, write: bool, result: Result<T>) -> Result<T> {
        result.map_err(|error| self.settle(write, error))
    }
}

fn unknown(what: &str, last: Option<&Error>) -> Error {
    let cause = match last {
        None => what.to_string(),
        Some(Error::OutcomeUnknown { cause }) => cause.clone(),
        Some(last) => format!("{what} ({})", last.cause()),
    };
    Error::OutcomeUnknown { cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(5);
    const VOTERS: [u64; 3] = [1, 2, 3];

    fn progress() -> Progress {
        let ms = Duration::from_millis;
        Progress::new(ms(1000), (ms(5), ms(500)), 0)
    }

    fn at(node: u64) -> Attempt<'static> {
        Attempt {
            table: "t",
            shard: 7,
            voters: 3,
            node,
            write: true,
            may_have_left: true,
            moved: false,
            crosses: false,
        }
    }

    fn fail(progress: &mut Progress, failure: Failure, node: u64) -> Next {
        progress.failed(failure, &at(node), NOW, |_| true)
    }

    fn overloaded(ms: u64) -> Refused {
        Refused::Overloaded { retry_after: Duration::from_millis(ms), why: "full".into() }
    }

    fn changing(ms: u64) -> Refused {
        Refused::Changing { retry_after: Duration::from_millis(ms), why: "it is being merged".into() }
    }

    #[test]
    fn a_shard_that_stands_still_is_asked_again_at_the_same_node_after_a_pause_that_does_not_grow() {
        let mut progress = progress();
        for asked in [10, 10, 10, 5_000] {
            let most = Duration::from_millis(asked.min(20));
            let next = fail(&mut progress, Failure::Refused(changing(asked)), 1);
            let Next::Again { leader: Leader::AsBefore, nudge: false, pause: Some(pause) } = next else {
                panic!("{next:?}")
            };
            assert_eq!(pause, Pause { span: most, at_least: Some(most) });
        }
        assert_eq!((progress.turn(), progress.is_suspect(1, NOW)), (0, false));
        assert!(matches!(progress.out_of_time(true), Error::Unavailable { .. }));
    }

    #[test]
    fn the_last_attempt_has_time_to_be_answered() {
        let (ms, whole) = (Duration::from_millis, |d| d);
        let mut progress = progress();
        assert!(!progress.is_over(ms(1)), "the first attempt is made however little time there is");
        let full = Error::DiskFull { message: "low".into() };
        let next = fail(&mut progress, Failure::Refused(Refused::Later(full)), 1);
        let Next::Again { pause: Some(_), .. } = next else { panic!("{next:?}") };
        let pause = Pause { span: ms(400), at_least: None };
        assert_eq!(pause.length(ms(1000), whole), ms(400));
        assert_eq!(pause.length(ms(100), whole), ms(50));
        let asked = Pause { span: ms(5), at_least: Some(ms(80)) };
        assert_eq!((asked.length(ms(1000), whole), asked.length(ms(90), whole)), (ms(100), ms(90)));
        assert!(!progress.is_over(ms(20)) && progress.is_over(ms(19)));
        assert!(matches!(progress.out_of_time(true), Error::DiskFull { .. }));
    }

    #[test]
    fn only_what_may_have_been_proposed_makes_an_outcome_unknown() {
        let refused = |refusal| Failure::Refused(refusal);
        let unavailable = Error::unavailable("starting");
        let quarantined = Error::Quarantined { why: "set back".into() };
        for (failure, unknown) in [
            (Failure::Broken("reset".into()), true),
            (Failure::Silent(Duration::from_secs(1)), true),
            (refused(Refused::NotLeader { leader: 2, maybe: true }), true),
            (refused(Refused::NotLeader { leader: 2, maybe: false }), false),
            (refused(Refused::WrongShard), false),
            (refused(overloaded(20)), false),
            (refused(changing(10)), false),
            (refused(Refused::Later(unavailable)), true),
            (refused(Refused::Later(quarantined)), false),
        ] {
            let (mut progress, said) = (progress(), format!("{failure:?}"));
            assert!(matches!(fail(&mut progress, failure, 1), Next::Again { .. }), "{said}");
            let late = Error::Expired { shard_time_us: 7 };
            let large = Error::TooLarge { what: "the batch".into(), limit: 7, knob: "limits.batch_bytes_max".into() };
            for error in [late, large, Error::invalid("ops", "bad"), Error::CrossShard] {
                let end = fail(&mut progress, refused(Refused::Final(error.clone())), 1);
                let Next::End(end) = end else { panic!("{said}: {end:?}") };
                assert_eq!(matches!(end, Error::OutcomeUnknown { .. }), unknown, "{said}: {end:?}");
                // Only what cannot have been executed starts anew.
                let anew = (error.code() == "expired" && !unknown).then_some(7);
                assert_eq!(renewal(&end), anew, "{said}: {end:?}");
            }
            let late = progress.out_of_time(true);
            assert_eq!(matches!(late, Error::OutcomeUnknown { .. }), unknown, "{said}: {late:?}");
        }
    }

    #[test]
    fn a_hint_is_followed_at_once_but_not_for_ever() {
        let mut progress = progress();
        for hop in 1..=4u64 {
            let next = fail(&mut progress, Failure::Refused(Refused::NotLeader { leader: 9, maybe: false }), hop);
            let Next::Again { leader, pause, .. } = next else { panic!("{next:?}") };
            assert_eq!((leader, pause.is_some()), (Leader::Is(9), hop == 4));
        }
    }

    #[test]
    fn who_has_no_replica_any_more_is_not_asked_again_at_once() {
        let mut progress = progress();
        let node = progress.choose(Some(1), &VOTERS, NOW);
        assert_eq!(node, Some(1));
        let next = fail(&mut progress, Failure::Refused(Refused::WrongShard), 1);
        assert!(matches!(next, Next::Again { leader: Leader::IsNot(1), nudge: true, pause: Some(_) }), "{next:?}");
        assert_eq!(progress.choose(None, &VOTERS, NOW), Some(2));
    }

    #[test]
    fn news_of_a_shard_is_followed_at_once_but_not_for_ever_and_says_nothing_of_the_write() {
        let mut progress = progress();
        let moved = Attempt { moved: true, ..at(1) };
        let mut refuse =
            |attempt: &Attempt<'_>| progress.failed(Failure::Refused(Refused::WrongShard), attempt, NOW, |_| true);
        for hop in 1..=4 {
            let next = refuse(&moved);
            let Next::Again { leader: Leader::AsBefore, nudge: false, pause } = next else { panic!("{next:?}") };
            assert_eq!(pause.is_some(), hop == 4, "{hop}");
        }
        let next = refuse(&at(1));
        assert!(matches!(next, Next::Again { nudge: true, pause: Some(_), .. }), "{next:?}");
        assert!(matches!(progress.out_of_time(true), Error::Unavailable { .. }));
    }

    #[test]
    fn a_batch_over_two_shards_is_sent_only_to_learn_what_became_of_an_earlier_attempt() {
        let mut progress = progress();
        assert_eq!(progress.cross(), Err(Error::CrossShard));
        fail(&mut progress, Failure::Refused(Refused::WrongShard), 1);
        assert_eq!(progress.cross(), Err(Error::CrossShard), "what was refused was not executed");
        fail(&mut progress, Failure::Broken("reset".into()), 1);
        assert_eq!(progress.cross(), Ok(()));
        let mut refuse = |moved| {
            let attempt = Attempt { crosses: true, moved, ..at(1) };
            progress.failed(Failure::Refused(Refused::WrongShard), &attempt, NOW, |_| true)
        };
        assert!(
            matches!(refuse(true), Next::Again { pause: None, .. }),
            "the shard of its first key is another by now"
        );
        let next = refuse(false);
        assert!(matches!(next, Next::End(Error::OutcomeUnknown { .. })), "{next:?}");
    }

    #[test]
    fn who_failed_is_passed_over_while_others_are_left() {
        let mut progress = progress();
        assert_eq!(progress.choose(Some(2), &VOTERS, NOW), Some(2));
        let next = fail(&mut progress, Failure::Silent(Duration::from_secs(1)), 2);
        assert!(matches!(next, Next::Again { leader: Leader::IsNot(2), .. }));
        assert_eq!(progress.choose(Some(2), &VOTERS, NOW), Some(3));
        fail(&mut progress, Failure::Broken("reset".into()), 3);
        assert_eq!(progress.choose(None, &VOTERS, NOW), Some(1));
        fail(&mut progress, Failure::Broken("reset".into()), 1);
        assert!(progress.choose(None, &VOTERS, NOW).is_some(), "somebody is asked all the same");
        assert_eq!(progress.choose(Some(1), &VOTERS, NOW + Duration::from_millis(100)), Some(1));
    }

    #[test]
    fn a_node_silent_twice_gets_more_time_and_pauses_grow_to_their_bound() {
        let mut progress = progress();
        for _ in 0..2 {
            fail(&mut progress, Failure::Silent(Duration::from_secs(1)), 2);
        }
        assert_eq!(progress.attempt_timeout(), Duration::from_secs(2));
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            let Next::Again { pause: Some(pause), .. } = fail(&mut progress, Failure::Broken(String::new()), 2) else {
                panic!("a pause follows")
            };
            let length = pause.length(Duration::MAX, |span| span);
            assert!(length >= last && length <= Duration::from_millis(500));
            last = length;
        }
        assert_eq!(last, Duration::from_millis(500));
        let refused = Failure::Refused(overloaded(2_000));
        let Next::Again { pause: Some(pause), .. } = fail(&mut progress, refused, 2) else { panic!() };
        assert!(pause.length(Duration::MAX, |span| span) >= Duration::from_secs(2));
    }

    #[test]
    fn a_table_is_looked_up_once() {
        let mut progress = progress();
        assert_eq!(progress.missing(Missing::Table, "t", true), Next::LookUp);
        let gone = Next::End(Error::TableNotFound { table: "t".into() });
        assert_eq!(progress.missing(Missing::Table, "t", true), gone);
    }
}
