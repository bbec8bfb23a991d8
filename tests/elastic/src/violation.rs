//! What a failed check says.
//!
//! Owns: the value, and the macro that makes it. Must never: decide what is a violation.

use std::fmt;
use synod_engine::StoreError;

/// A broken rule, with what broke it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<StoreError> for Violation {
    fn from(error: StoreError) -> Self {
        Self(format!("a store failed: {error}"))
    }
}

/// The result of whatever may find a violation.
pub(crate) type Check<T = ()> = Result<T, Violation>;

/// Returns a [`Violation`], which must be in scope, from the enclosing function unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $($detail:tt)+) => {
        if !$cond {
            return Err(Violation(format!($($detail)+)));
        }
    };
}
pub(crate) use ensure;
