//! How many requests a stream may have under way at a node.
//!
//! Owns: the limit, which falls when the node refuses requests as overloaded and grows while it answers them. Must never:
//! limit anything at a node that refuses nothing, or fall to where the node would stand idle.
//!
//! Additive growth in proportion to the limit and multiplicative decrease: Chiu, Jain, "Analysis of the Increase and
//! Decrease Algorithms for Congestion Avoidance in Computer Networks" (1989), as TCP uses it. Without it every request above
//! what the node can do is sent, refused and sent again, and refusing costs the node a good part of executing.

use std::time::{Duration, Instant};

/// The limit falls no lower.
const LEAST: usize = 64;
/// As good as none: a node reads no more of a stream.
const NONE: usize = 1 << 16;
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
}

impl Default for Flow {
    fn default() -> Flow {
        Flow { limit: NONE, under_way: 0, answered: 0, cut_at: None }
    }
}

impl Flow {
    /// Whether another request must wait for an answer first.
    pub(crate) fn is_full(&self) -> bool {
        self.limit < NONE && self.under_way >= self.limit
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

    /// The node refused a request as overloaded: a quarter less than what is under way may be from now on.
    pub(crate) fn refused(&mut self, now: Instant) {
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
        flow.refused(now);
        flow.refused(now + PERIOD / 2);
        assert_eq!(flow.limit, 750);
        assert!(flow.is_full());
        (0..251).for_each(|_| flow.over());
        assert!(!flow.is_full());
        flow.refused(now + PERIOD);
        assert_eq!(flow.limit, 561);
        for n in 2..100 {
            flow.refused(now + PERIOD * n);
        }
        assert_eq!(flow.limit, LEAST);
    }

    #[test]
    fn answers_let_it_grow_until_it_is_none_again() {
        let mut flow = begun(1000);
        flow.refused(Instant::now());
        flow.answered(749);
        assert_eq!(flow.limit, 750);
        flow.answered(1);
        assert_eq!(flow.limit, 797);
        for _ in 0..100 {
            flow.answered(flow.limit);
        }
        assert!(!begun(2 * NONE).is_full() && flow.limit == NONE);
    }
}
