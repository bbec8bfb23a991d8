//! Faults that the whole-node simulation must find. Compiled only in the package that declares the feature `planted`.
//!
//! Owns: the list, and which one is planted on this thread. Must never: exist in the shipped crate.

use std::cell::Cell;

/// One deliberate fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A job that is being cancelled goes forward.
    CancelForgotten,
    /// A move ends as done while its learner still catches up.
    JobEndsEarly,
    /// A shard that is in no map, and whose id is reserved, is taken for one that was dropped.
    VanishIgnoresReserved,
}

impl Fault {
    /// Every fault that runs of jobs find.
    pub const ALL: &[Self] = &[Self::CancelForgotten, Self::JobEndsEarly];
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Plants a fault in every node that runs on this thread from now on, or takes it away.
pub fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

/// Whether it is planted here.
pub(crate) fn is_planted(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
