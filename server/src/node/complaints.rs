//! Complaints about callers, of which each is logged once.
//!
//! Owns: what was logged already. Must never: grow with what strangers do, or keep a new complaint back for ever.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets each complaint into the log once, and few of them altogether, however hard a stranger tries.
#[derive(Debug)]
pub struct Complaints {
    inner: Mutex<(Instant, BTreeSet<String>)>,
}

impl Default for Complaints {
    fn default() -> Self {
        Self { inner: Mutex::new((Instant::now(), BTreeSet::new())) }
    }
}

impl Complaints {
    const MOST: usize = 64;
    const WINDOW: Duration = Duration::from_secs(600);

    /// Whether `what` is to be logged now.
    pub fn is_new(&self, what: &str) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0.elapsed() > Self::WINDOW {
            *inner = (Instant::now(), BTreeSet::new());
        }
        inner.1.len() < Self::MOST && inner.1.insert(what.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_bounded() {
        let complaints = Complaints::default();
        let logged = (0..1000).filter(|i| complaints.is_new(&format!("stranger {i}"))).count();
        assert_eq!(logged, Complaints::MOST);
        assert!(!complaints.is_new("stranger 3"));
    }
}
