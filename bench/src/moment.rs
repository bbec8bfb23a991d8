//! Moments of a run.
//!
//! Owns: their names. Must never: measure anything.

/// A point of a run at which its surroundings may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The warm-up is over: from here on operations count.
    Start,
    /// The last answer has come.
    End,
}
