//! When operations succeeded, closely enough to find the longest time without a success.
//!
//! Owns: the first and the last success in each hundredth of a second. Must never: grow with the number of operations.

use crate::report::Gap;

/// Length of a part of a second, µs.
const PART_US: u32 = 10_000;

/// The first and the last success in a part, µs from its beginning.
#[derive(Clone, Copy)]
struct Part {
    /// Which of the second's parts, from 0.
    number: u8,
    first_us: u16,
    last_us: u16,
}

/// The successes of one second, as one caller or all of them saw them: the parts that have one, in order.
#[derive(Default)]
pub(crate) struct Successes(Vec<Part>);

impl Successes {
    /// One more, at this microsecond of the second.
    pub(crate) fn add(&mut self, at_us: u32) {
        let within = (at_us % PART_US) as u16;
        self.note(Part { number: (at_us / PART_US) as u8, first_us: within, last_us: within });
    }

    pub(crate) fn merge(&mut self, other: &Successes) {
        other.0.iter().for_each(|part| self.note(*part));
    }

    fn note(&mut self, more: Part) {
        match self.0.binary_search_by_key(&more.number, |part| part.number) {
            Ok(at) => {
                let part = &mut self.0[at];
                part.first_us = part.first_us.min(more.first_us);
                part.last_us = part.last_us.max(more.last_us);
            }
            Err(at) => self.0.insert(at, more),
        }
    }
}

/// The longest time between a success and the next one. Two in the same part of a second are not told apart, so times below 10 ms
/// may be left out.
pub(crate) fn longest<'a>(seconds: impl Iterator<Item = &'a Successes>) -> Option<Gap> {
    let mut longest: Option<Gap> = None;
    let mut before: Option<u64> = None;
    for (second, successes) in (0_u64..).zip(seconds) {
        let begin = second * 1_000_000;
        for part in &successes.0 {
            let part_us = begin + u64::from(part.number) * u64::from(PART_US);
            if let Some(before) = before {
                let longest_gap_us = part_us + u64::from(part.first_us) - before;
                if longest.is_none_or(|known| longest_gap_us > known.longest_gap_us) {
                    longest = Some(Gap { longest_gap_us, longest_gap_second: before / 1_000_000 });
                }
            }
            before = Some(part_us + u64::from(part.last_us));
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of successes at these microseconds of the run.
    fn seconds(of: &[u64]) -> Vec<Successes> {
        let mut all = Vec::new();
        for at in of {
            let second = (at / 1_000_000) as usize;
            while all.len() <= second {
                all.push(Successes::default());
            }
            all[second].add((at % 1_000_000) as u32);
        }
        all
    }

    fn gap(of: &[u64]) -> Option<(u64, u64)> {
        longest(seconds(of).iter()).map(|gap| (gap.longest_gap_us, gap.longest_gap_second))
    }

    #[test]
    fn the_longest_is_found_across_parts_and_seconds() {
        assert_eq!(gap(&[]), None);
        assert_eq!(gap(&[5]), None);
        assert_eq!(gap(&[9_999, 10_000]), Some((1, 0)));
        assert_eq!(gap(&[0, 999_999, 1_000_000]), Some((999_999, 0)));
        assert_eq!(gap(&[500_000, 1_900_000, 1_905_000, 4_100_000, 4_200_000]), Some((2_195_000, 1)));
        // Of equal ones the first.
        assert_eq!(gap(&[0, 50_000, 100_000]), Some((50_000, 0)));
    }

    #[test]
    fn what_another_caller_saw_shortens_it() {
        let (mut mine, theirs) = (seconds(&[0, 900_000]), seconds(&[400_000, 404_000]));
        mine[0].merge(&theirs[0]);
        let found = longest(mine.iter()).unwrap();
        assert_eq!((found.longest_gap_us, found.longest_gap_second), (496_000, 0));
    }
}
