//! Faults that the whole-node simulation or the explorer of splits must find. Compiled only in the package that declares the
//! feature `planted`.
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
    /// A node gives up whatever it is asked to.
    NoCustody,
    /// An id that is reserved for a child counts as that of a shard that is gone.
    VanishIgnoresReserved,
    /// The map takes bounds of whatever version.
    MapTakesOlder,
    /// A batch whose keys lie on two shards by now is reported as not written, though an attempt may have been executed.
    CrossShardLies,
    /// A node gives up a replica whose shard is gone from the map, wherever its rows are.
    VanishWithoutCustody,
    /// A shard that went into another one goes from the map before the other has its range there.
    MapTakesHalf,
}

impl Fault {
    /// Those of splits that the explorer of splits finds.
    pub const SPLITS: &[Self] = &[
        Self::NoCustody,
        Self::VanishIgnoresReserved,
        Self::MapTakesOlder,
        Self::CrossShardLies,
        Self::VanishWithoutCustody,
    ];

    /// Every fault of whole nodes.
    pub const ALL: &[Self] = &[Self::CancelForgotten, Self::JobEndsEarly, Self::VanishIgnoresReserved];
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
