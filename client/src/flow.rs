//! How many requests a stream may have under way at a node.
//!
//! Owns: the limit, which falls when the node refuses requests as overloaded and grows while it answers them, and the rest
//! that a refusal asks for. Must never: limit anything at a node that refuses nothing, or fall to where the node would stand
//! idle.
//!
//! Additive growth in proportion to the limit and multiplicative decrease: Chiu, Jain, "Analysis of the Increase and
//! Decrease Algorithms for Congestion Avoidance in Computer Networks" (1989), as TCP uses it. Without it every request above
//! what the node can do is sent, refused and sent again, and refusing costs the node a good part of executing. The limit alone
//! does not end that: a refusal makes room for the next request at once. So nothing leaves for as long as the node asked for.

use std::time::{Duration, Instant};

/// The limit falls no lower.
const LEAST: usize = 64;
/// As good as none: a node reads no more of a stream.
const NONE: usize = 1 << 16;
/// No rest is longer: what the node has to do must not run out meanwhile.
const REST_MOST: Duration = Duration::from_millis(100);
/// Refusals of one moment count once.
const PERIOD: Duration = Duration::from_millis(100);

/// The flow of one stream.
#[derive(Debug)]
pub(crate) struct Flow {
    limit: usize,
    under_way: usize,
    /// Answered since the limit last grew.
    answered: usize,
    cut_at: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow { limit: NONE, under_way: 0, answered: 0, cut_at: None, rests_until: None }
    }
}

impl Flow {
    /// Whether another request must wait, for an answer or for the end of a rest.
    pub(crate) fn is_full(&mut self) -> bool {
        self.limit < NONE && (self.under_way >= self.limit || self.rests())
    }

    fn rests(&mut self) -> bool {
        self.rests_until = self.rests_until.filter(|until| Instant::now() < *until);
        self.rests_until.is_some()
    }

    /// When the rest ends that a refusal asked for, if there is one.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        self.rests_until
    }

    /// A request leaves.
    pub(crate) fn begun(&mut self) {
        self.under_way += 1;
    }

    /// One that had left is over, answered or given up by its caller.
    pub(crate) fn over(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// The node answered so many requests, none of them as overloaded: a limit grows by a sixteenth each time as many were
    /// answered as it allows.
    pub(crate) fn answered(&mut self, count: usize) {
        if self.limit >= NONE {
            return;
        }
        self.answered += count;
        if self.answered >= self.limit {
            self.answered = 0;
            self.limit = (self.limit + self.limit / 16 + 1).min(NONE);
        }
    }

    /// The node refused a request as overloaded: for `rest` nothing leaves, and from then on a quarter less than what is
    /// under way may be.
    pub(crate) fn refused(&mut self, now: Instant, rest: Duration) {
        if !rest.is_zero() {
            self.rests_until = self.rests_until.max(Some(now + rest.min(REST_MOST)));
        }
        if self.cut_at.is_some_and(|at| now.duration_since(at) < PERIOD) {
            return;
        }
        self.cut_at = Some(now);
        self.answered = 0;
        self.limit = (self.limit.min(self.under_way) / 4 * 3).max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(count: usize) -> Flow {
        let mut flow = Flow::default();
        (0..count).for_each(|_| flow.begun());
        flow
    }

    #[test]
    fn where_nothing_is_refused_nothing_is_limited() {
        let mut flow = begun(1_000_000);
        assert!(!flow.is_full());
        flow.answered(1_000_000);
        assert!(!flow.is_full());
    }

    #[test]
    fn refusals_of_one_moment_take_a_quarter_once() {
        let (mut flow, now) = (begun(1000), Instant::now());
        flow.refused(now, Duration::ZERO);
        flow.refused(now + PERIOD / 2, Duration::ZERO);
        assert_eq!(flow.limit, 750);
        assert!(flow.is_full());
        (0..251).for_each(|_| flow.over());
        assert!(!flow.is_full());
        flow.refused(now + PERIOD, Duration::ZERO);
        assert_eq!(flow.limit, 561);
        for n in 2..100 {
            flow.refused(now + PERIOD * n, Duration::ZERO);
        }
        assert_eq!(flow.limit, LEAST);
    }

    #[test]
    fn a_refusal_makes_no_room_before_its_rest_is_over() {
        let mut flow = begun(1000);
        let (now, rest) = (Instant::now(), Duration::from_millis(50));
        flow.refused(now, rest);
        (0..1000).for_each(|_| flow.over());
        assert!(flow.is_full());
        std::thread::sleep(rest);
        assert!(!flow.is_full());
        flow.refused(now, Duration::from_secs(9));
        assert_eq!(flow.rests_until(), Some(now + REST_MOST));
    }

    #[test]
    fn answers_let_it_grow_until_it_is_none_again() {
        let mut flow = begun(1000);
        flow.refused(Instant::now(), Duration::ZERO);
        flow.answered(749);
        assert_eq!(flow.limit, 750);
        flow.answered(1);
        assert_eq!(flow.limit, 797);
        for _ in 0..100 {
            flow.answered(flow.limit);
        }
        assert!(!begun(2 * NONE).is_full());
        assert_eq!(flow.limit, NONE);
    }
}
