//! The names of writes: who wrote, which write it is, and below which number no outcome is needed any more.
//!
//! Owns: the client's id, its sequence numbers and its floor. Must never: give a number twice, or let the floor pass a
//! write whose caller still waits.
//!
//! Sequence numbers may finish in any order; the floor is the lowest one still outstanding. One slow write holds the floor
//! while thousands of others pass it, and the servers keep an outcome for each; so that this stays bounded without making
//! the others wait, a client whose outstanding numbers span too far takes a new id and leaves the old one to drain.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use synod_proto::v1;

/// The widest span between the floor and the newest number of one id.
const MAX_SPAN: usize = 32 << 10;

/// The current id of a client.
pub(crate) struct Identity {
    current: Mutex<Arc<Window>>,
    max_span: usize,
}

/// One id with its numbers.
struct Window {
    client: Bytes,
    seqs: Mutex<Seqs>,
}

/// Numbers from `floor` on, and which of them are done.
struct Seqs {
    floor: u64,
    done: VecDeque<bool>,
}

/// A write's name. Dropping it says that nobody waits for the outcome any more.
pub(crate) struct Ticket {
    window: Arc<Window>,
    seq: u64,
    floor: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing below panics while it holds a lock with its data half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Identity {
    pub(crate) fn new() -> Identity {
        Identity::with_span(MAX_SPAN)
    }

    fn with_span(max_span: usize) -> Identity {
        Identity { current: Mutex::new(Window::new()), max_span }
    }

    /// Names the next write.
    pub(crate) fn begin(&self) -> Ticket {
        let mut current = lock(&self.current);
        loop {
            let mut seqs = lock(&current.seqs);
            if seqs.done.len() < self.max_span {
                let (seq, floor) = seqs.begin();
                drop(seqs);
                return Ticket { window: current.clone(), seq, floor };
            }
            drop(seqs);
            *current = Window::new();
        }
    }
}

impl Window {
    fn new() -> Arc<Window> {
        let client = Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes());
        Arc::new(Window { client, seqs: Mutex::new(Seqs { floor: 1, done: VecDeque::new() }) })
    }
}

impl Seqs {
    fn begin(&mut self) -> (u64, u64) {
        self.done.push_back(false);
        (self.floor + self.done.len() as u64 - 1, self.floor)
    }

    fn finish(&mut self, seq: u64) {
        if let Some(done) = self.done.get_mut((seq - self.floor) as usize) {
            *done = true;
        }
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.floor += 1;
        }
    }
}

impl Ticket {
    /// The name on the wire.
    pub(crate) fn id(&self, deadline_us: u64) -> v1::WriteId {
        v1::WriteId { client: self.window.client.clone(), seq: self.seq, floor: self.floor, deadline_us }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        lock(&self.window.seqs).finish(self.seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(ticket: &Ticket) -> (u64, u64) {
        (ticket.seq, ticket.floor)
    }

    #[test]
    fn the_floor_is_the_lowest_outstanding() {
        let identity = Identity::new();
        let a = identity.begin();
        let b = identity.begin();
        let c = identity.begin();
        assert_eq!([name(&a), name(&b), name(&c)], [(1, 1), (2, 1), (3, 1)]);
        drop(b);
        assert_eq!(name(&identity.begin()), (4, 1));
        drop(a);
        assert_eq!(name(&identity.begin()), (5, 3));
        drop(c);
        assert_eq!(name(&identity.begin()), (6, 6));
    }

    #[test]
    fn a_wide_span_takes_a_new_id() {
        let identity = Identity::with_span(4);
        let slow = identity.begin();
        for _ in 0..3 {
            drop(identity.begin());
        }
        let fresh = identity.begin();
        assert_ne!(fresh.window.client, slow.window.client);
        assert_eq!(name(&fresh), (1, 1));
        drop(slow);
        assert_eq!(name(&identity.begin()), (2, 1));
    }

    #[test]
    fn ids_are_16_bytes() {
        let ticket = Identity::new().begin();
        let id = ticket.id(9);
        assert_eq!((id.client.len(), id.seq, id.deadline_us), (16, 1, 9));
    }

    #[test]
    fn concurrent_writers_never_share_a_number() {
        let identity = Identity::new();
        let seen: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..2000).map(|_| identity.begin().seq).collect::<Vec<_>>())).collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        let distinct: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
        assert_eq!(name(&identity.begin()), (8001, 8001));
    }
}
