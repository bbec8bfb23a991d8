//! What a failed check says.
//!
//! Owns: the [`Violation`] type and the `ensure!` macro that every check uses. Must never: decide what is a violation.

use std::fmt;

/// A broken invariant, with every operand of the failed comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant; a stable short name, led by its number in `docs/guarantees.md` where it has one.
    pub invariant: &'static str,
    /// The operands.
    pub detail: String,
}

impl Violation {
    /// A violation of `invariant`.
    pub fn new(invariant: &'static str, detail: impl Into<String>) -> Self {
        Self { invariant, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// The result of a check.
pub type Check = Result<(), Violation>;

/// Returns a [`Violation`], which must be in scope, from the enclosing function unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $invariant:expr, $($detail:tt)+) => {
        if !$cond {
            return Err(Violation::new($invariant, format!($($detail)+)));
        }
    };
}
pub(crate) use ensure;
