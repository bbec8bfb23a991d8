//! What happened: a hash of every event, and its words where they are asked for.
//!
//! Owns: the running hash and the lines. Must never: take in anything that differs between two runs of one seed, such as
//! an address or a time of day.

/// The trace of one run.
#[derive(Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// A trace that keeps its lines.
    #[must_use]
    pub fn kept() -> Self {
        Self { lines: Some(Vec::new()), ..Self::default() }
    }

    /// Equal runs have equal hashes.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines, where they are kept.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }

    /// One event: its numbers go into the hash, its words into the lines.
    pub(crate) fn note(&mut self, now: u64, what: &'static str, numbers: &[u64], words: impl FnOnce() -> String) {
        self.events += 1;
        self.fold(now);
        what.bytes().for_each(|byte| self.fold(byte.into()));
        numbers.iter().for_each(|number| self.fold(*number));
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>10.6} {what} {}", now as f64 / 1e6, words()));
        }
    }

    fn fold(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// A hash of bytes, for traces and state hashes: FNV-1a with a finish.
pub(crate) fn hash_bytes(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in part.len().to_le_bytes().iter().chain(part.iter()) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
