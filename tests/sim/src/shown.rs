//! What answers have shown of a key, and when.
//!
//! Owns: how far it had come by any time. Must never: go back.

/// How far a key is known to have come: first offset kept, next offset.
pub(crate) type Reach = (u64, u64);

/// Of one key, in order: since when (world time, µs) it was known to have come so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown(Vec<(u64, Reach)>);

impl Shown {
    /// An answer shows so much at `now`.
    pub(crate) fn show(&mut self, now: u64, first: u64, next: u64) {
        let last = self.last();
        let reach = (last.0.max(first), last.1.max(next));
        if reach != last {
            self.0.push((now, reach));
        }
    }

    /// All that was shown.
    pub(crate) fn last(&self) -> Reach {
        self.0.last().map(|(_, reach)| *reach).unwrap_or_default()
    }

    /// What was shown by `at`.
    pub(crate) fn at(&self, at: u64) -> Reach {
        let later = self.0.partition_point(|(since, _)| *since <= at);
        later.checked_sub(1).map(|last| self.0[last].1).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_shown_later_is_not_asked_for() {
        let mut shown = Shown::default();
        assert_eq!((shown.at(9), shown.last()), ((0, 0), (0, 0)));
        shown.show(10, 0, 3);
        shown.show(20, 1, 2);
        shown.show(20, 0, 3);
        shown.show(30, 1, 7);
        assert_eq!(
            [9, 10, 19, 20, 29, 30, 99].map(|at| shown.at(at)),
            [(0, 0), (0, 3), (0, 3), (1, 3), (1, 3), (1, 7), (1, 7)]
        );
        assert_eq!(shown.last(), (1, 7));
    }
}
