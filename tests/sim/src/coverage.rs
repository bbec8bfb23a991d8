//! What the runs reached.
//!
//! Owns: the counts. Must never: influence a run.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by section and what.
#[derive(Clone, Default)]
pub struct Coverage {
    rows: BTreeMap<(&'static str, &'static str), u64>,
}

impl Coverage {
    /// Counts once.
    pub(crate) fn count(&mut self, section: &'static str, what: &'static str) {
        self.add(section, what, 1);
    }

    /// Counts `by` times.
    pub(crate) fn add(&mut self, section: &'static str, what: &'static str, by: u64) {
        if by > 0 {
            *self.rows.entry((section, what)).or_default() += by;
        }
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        other.rows.iter().for_each(|(row, by)| *self.rows.entry(*row).or_default() += by);
    }

    /// How often.
    #[must_use]
    pub fn of(&self, section: &'static str, what: &'static str) -> u64 {
        self.rows.get(&(section, what)).copied().unwrap_or(0)
    }

    /// Every row of `expected` that was not reached.
    #[must_use]
    pub fn missing(&self, expected: &[(&'static str, &'static str)]) -> Vec<String> {
        expected.iter().filter(|row| !self.rows.contains_key(row)).map(|row| format!("{row:?}")).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut last = "";
        for ((section, what), count) in &self.rows {
            if *section == last {
                write!(f, ", {what} {count}")?;
            } else {
                write!(f, "\n{section}: {what} {count}")?;
            }
            last = section;
        }
        Ok(())
    }
}
