//! Who reads, and who follows the table's tail.
//!
//! Owns: what they wait for, and how far they have come. Must never: know what is right.

use crate::keys::KEYS;
use std::ops::Range;
use synod_cluster::ids::ShardId;
use synod_cluster::overlay::Overlay;

/// A read or a tail that was admitted by a replica, and waits there.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) node: usize,
    pub(crate) shard: ShardId,
    /// The version of the shard that it was routed by.
    pub(crate) version: u64,
    pub(crate) keys: Range<usize>,
    /// A read is answered once this slot is applied.
    pub(crate) slot: u64,
    /// Of a read: so many records of each key must be shown.
    pub(crate) need: Vec<usize>,
    /// Of a read: the whole range is scanned.
    pub(crate) scan: bool,
    /// Of a tail: where its lane ends.
    pub(crate) lane_end: usize,
    /// Of a tail: by key, everything up to this timestamp was given.
    pub(crate) after: Vec<u64>,
}

/// Who reads.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) routes: Overlay,
    pub(crate) asked: Vec<Asked>,
}

/// Who follows the tail.
pub(crate) struct Follower {
    pub(crate) routes: Overlay,
    pub(crate) asked: Vec<Asked>,
    /// Ranges of keys that are asked for one by one.
    pub(crate) lanes: Vec<Range<usize>>,
    /// By key: everything up to this timestamp was given.
    pub(crate) after: Vec<u64>,
    /// By key: so many records were given.
    pub(crate) given: Vec<usize>,
}

impl Follower {
    /// One that has been given nothing.
    pub(crate) fn new() -> Self {
        let lanes = vec![Range { start: 0, end: KEYS }];
        Self { routes: Overlay::default(), asked: Vec::new(), lanes, after: vec![0; KEYS], given: vec![0; KEYS] }
    }
}
