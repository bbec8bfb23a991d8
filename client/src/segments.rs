//! What a tail has given, as arithmetic on ranges of positions.
//!
//! Owns: the rules by which given records move a tail's segments on. Must never: lower a segment, or leave the ranges the
//! tail began with.

use bytes::Bytes;

use crate::token::{Given, Segment};
use synod_cluster::position::{after, below, lesser_end};

/// Sorted, disjoint segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segments(pub(crate) Vec<Segment>);

impl Segments {
    /// One segment.
    pub(crate) fn whole(from: Bytes, to: Bytes, after_us: u64) -> Segments {
        Segments(vec![Segment { from, to, after_us, given: None }])
    }

    /// The parts that lie in `[from, to)`.
    pub(crate) fn within(&self, from: &Bytes, to: &Bytes) -> Vec<Segment> {
        let first = self.0.partition_point(|s| !s.to.is_empty() && s.to <= *from);
        let inside = self.0[first..].iter().take_while(|s| below(&s.from, to));
        let cut = |s: &Segment| Segment {
            from: (&s.from).max(from).clone(),
            to: lesser_end(&s.to, to).clone(),
            after_us: s.after_us,
            given: s.given,
        };
        inside.map(cut).collect()
    }

    /// Whether every position of `[from, to)` is in a segment.
    pub(crate) fn covers(&self, from: &Bytes, to: &Bytes) -> bool {
        let mut at = from.clone();
        for s in &self.0 {
            if s.from > at {
                break;
            }
            if s.to.is_empty() {
                return true;
            }
            at = at.max(s.to.clone());
        }
        !to.is_empty() && at >= *to
    }

    /// Whether within `[from, to)` everything was given that `ends` names.
    pub(crate) fn reach(&self, ends: &Segments, from: &Bytes, to: &Bytes) -> bool {
        let missing = |s: &Segment| ends.within(&s.from, &s.to).iter().any(|end| s.after_us < end.after_us);
        !self.within(from, to).iter().any(missing)
    }

    /// Everything in `[from, to)` at or below `upto_us` was given.
    pub(crate) fn raise(&mut self, from: &Bytes, to: &Bytes, upto_us: u64) {
        self.change(from, to, |s| {
            if upto_us >= s.after_us {
                s.after_us = upto_us;
                s.given = s.given.filter(|g| g.ts_us > upto_us);
            }
        });
    }

    /// Of the key at `pos` everything below the timestamp of `given` was given, and at it the records up to its offset.
    pub(crate) fn give(&mut self, pos: &Bytes, given: Given) {
        self.raise(pos, &after(pos), given.ts_us.saturating_sub(1));
        self.change(pos, &after(pos), |s| {
            if s.after_us < given.ts_us {
                s.given = Some(given);
            }
        });
    }

    /// Whether the record at `pos` was given already.
    pub(crate) fn was_given(&self, pos: &[u8], offset: u64, ts_us: u64) -> bool {
        let end = self.0.partition_point(|s| s.from.as_ref() <= pos);
        let Some(s) = end.checked_sub(1).and_then(|i| self.0.get(i)).filter(|s| below(pos, &s.to)) else {
            return false;
        };
        ts_us <= s.after_us || s.given.is_some_and(|g| ts_us <= g.ts_us && offset <= g.offset)
    }

    /// Whether some key is given up to a record within a timestamp.
    pub(crate) fn has_given(&self) -> bool {
        self.0.iter().any(|s| s.given.is_some())
    }

    /// Applies `change` to the parts in `[from, to)`, cutting at its ends and joining what is alike afterwards.
    fn change(&mut self, from: &Bytes, to: &Bytes, change: impl Fn(&mut Segment)) {
        if !to.is_empty() && from >= to {
            return;
        }
        let mut out: Vec<Segment> = Vec::with_capacity(self.0.len() + 2);
        let mut push = |s: Segment| match out.last_mut() {
            Some(last)
                if last.to == s.from && last.after_us == s.after_us && last.given.is_none() && s.given.is_none() =>
            {
                last.to = s.to;
            }
            _ => out.push(s),
        };
        for s in self.0.drain(..) {
            let overlaps = below(&s.from, to) && below(from, &s.to);
            if !overlaps {
                push(s);
                continue;
            }
            if s.from < *from {
                push(Segment { to: from.clone(), ..s.clone() });
            }
            let mut inner =
                Segment { from: (&s.from).max(from).clone(), to: lesser_end(&s.to, to).clone(), ..s.clone() };
            change(&mut inner);
            let end = inner.to.clone();
            push(inner);
            if end != s.to {
                push(Segment { from: end, ..s });
            }
        }
        self.0 = out;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn b(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn show(s: &Segments) -> Vec<String> {
        let text = |b: &Bytes| String::from_utf8_lossy(b).replace('\0', "0");
        let part = |s: &Segment| {
            let given = s.given.map(|g| format!(" given {}@{}", g.offset, g.ts_us)).unwrap_or_default();
            format!("{}..{}={}{given}", text(&s.from), text(&s.to), s.after_us)
        };
        s.0.iter().map(part).collect()
    }

    #[test]
    fn raising_cuts_and_joins() {
        let mut s = Segments::whole(b(""), b(""), 0);
        s.raise(&b("d"), &b("m"), 5);
        assert_eq!(show(&s), ["..d=0", "d..m=5", "m..=0"]);
        s.raise(&b("f"), &b("p"), 3);
        assert_eq!(show(&s), ["..d=0", "d..m=5", "m..p=3", "p..=0"]);
        s.raise(&b(""), &b(""), 5);
        assert_eq!(show(&s), ["..=5"]);
        s.raise(&b("x"), &b("a"), 9);
        assert_eq!(show(&s), ["..=5"]);
    }

    #[test]
    fn it_stays_in_its_range() {
        let mut s = Segments::whole(b("d"), b("m"), 1);
        s.raise(&b(""), &b(""), 2);
        assert_eq!(show(&s), ["d..m=2"]);
        s.raise(&b("m"), &b(""), 7);
        s.raise(&b(""), &b("d"), 7);
        assert_eq!(show(&s), ["d..m=2"]);
        assert!(s.covers(&b("e"), &b("m")) && s.covers(&b("d"), &b("f")));
        assert!(!s.covers(&b("c"), &b("f")) && !s.covers(&b("e"), &b("n")) && !s.covers(&b("e"), &b("")));
    }

    #[test]
    fn a_key_given_in_part() {
        let mut s = Segments::whole(b(""), b(""), 10);
        s.give(&b("k"), Given { offset: 4, ts_us: 20 });
        assert_eq!(show(&s), ["..k=10", "k..k0=19 given 4@20", "k0..=10"]);
        assert!(s.has_given());
        assert!(s.was_given(b"k", 4, 20) && s.was_given(b"k", 2, 19) && s.was_given(b"z", 0, 10));
        assert!(!s.was_given(b"k", 5, 20) && !s.was_given(b"k", 4, 21) && !s.was_given(b"z", 0, 11));
        s.raise(&b(""), &b(""), 19);
        assert_eq!(show(&s), ["..k=19", "k..k0=19 given 4@20", "k0..=19"]);
        s.raise(&b(""), &b(""), 20);
        assert_eq!(show(&s), ["..=20"]);
        s.give(&b("k"), Given { offset: 9, ts_us: 20 });
        assert_eq!(show(&s), ["..=20"]);
    }

    #[test]
    fn parts_within() {
        let mut s = Segments::whole(b(""), b(""), 0);
        s.raise(&b("d"), &b("m"), 5);
        let cut = Segments(s.within(&b("e"), &b("z")));
        assert_eq!(show(&cut), ["e..m=5", "m..z=0"]);
        assert_eq!(show(&Segments(s.within(&b("m"), &b("")))), ["m..=0"]);
        assert_eq!(show(&Segments(s.within(&b(""), &b("d")))), ["..d=0"]);
    }
}
