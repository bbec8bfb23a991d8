//! The names of writes: who wrote, which write it is, and below which number outcomes are no longer needed.
//!
//! Owns: the client's id, its sequence numbers and its floor, and the room that a shard has for outcomes. Must never: give a
//! number twice, let the floor pass a write whose caller still waits, or begin a write for whose outcome its shard has no room.
//!
//! Sequence numbers may finish in any order; the floor is the lowest one still outstanding. One slow write holds the floor
//! while thousands of others pass it, and the servers keep an outcome for each; so that this stays bounded without making
//! the others wait, a client whose outstanding numbers span too far takes a new id and leaves the old one to drain.
//!
//! Outcomes of batches are large. All numbers from the floor on, finished or not, hold room at the shard that they were begun
//! for. What a shard keeps of an id lies between the floor that a write named and that write, and each write found room
//! beside all that its floor had not passed: so no shard keeps more than there is room for. Who finds no room waits for the
//! floor to rise. A new id would not help: what a shard keeps of the old one goes only with its deadline.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use synod_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::{Error, Result};
use synod_cluster::outcomes::OUTCOMES_BYTES_MAX;

/// The widest span between the floor and the newest number of one id.
const MAX_SPAN: usize = 32 << 10;

/// Rooms of more shards than this are looked through for those that nobody uses.
const MANY_ROOMS: usize = 4096;

/// The current id of a client.
pub(crate) struct Identity {
    current: Mutex<Arc<Window>>,
    max_span: usize,
    /// Bytes of outcomes that a shard keeps.
    room: usize,
}

/// One id with its numbers.
struct Window {
    client: Bytes,
    seqs: Mutex<Seqs>,
}

/// Numbers from `floor` on, and which of them are done.
struct Seqs {
    floor: u64,
    open: VecDeque<Numbered>,
    /// What is left of the room at each shard, in bytes. Whoever waits is served in turn.
    rooms: HashMap<u64, Arc<Semaphore>>,
}

/// A number that the floor has not passed, with its room.
struct Numbered {
    done: bool,
    _room: Option<OwnedSemaphorePermit>,
}

/// A write's name. Dropping it says that nobody waits for the outcome.
pub(crate) struct Ticket {
    window: Arc<Window>,
    seq: u64,
}

/// Room for an outcome among those of an id.
type Room = (Arc<Window>, OwnedSemaphorePermit);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing below panics while it holds a lock with its data half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Identity {
    pub(crate) fn new() -> Identity {
        Identity::with(MAX_SPAN, OUTCOMES_BYTES_MAX)
    }

    fn with(max_span: usize, room: usize) -> Identity {
        Identity { current: Mutex::new(Window::new()), max_span, room }
    }

    /// Names the next write, once its shard has room for so many bytes of outcome. One that takes more than all the room goes
    /// alone.
    ///
    /// # Errors
    /// [`Error::Unavailable`]: there was no room before the deadline.
    pub(crate) async fn begin(&self, shard: u64, bytes: usize, deadline: Instant) -> Result<Ticket> {
        let needed = u32::try_from(bytes.min(self.room)).unwrap_or(u32::MAX);
        let mut room = None;
        loop {
            let (window, full) = match self.try_begin(shard, needed, room.take()) {
                Ok(ticket) => return Ok(ticket),
                Err(full) => full,
            };
            match timeout_at(deadline, full.acquire_many_owned(needed)).await {
                // Where the id was left meanwhile its room is closed.
                Ok(got) => room = got.ok().map(|permit| (window, permit)),
                Err(_) => return Err(self.no_room(shard)),
            }
        }
    }

    fn no_room(&self, shard: u64) -> Error {
        Error::unavailable(format!(
            "a shard keeps {} bytes of outcomes of a client's writes (fixed), and those that shard {shard} may have to keep took \
             all of it until the deadline: an older write of this client has no answer yet",
            self.room
        ))
    }

    /// Names a write for whose outcome a shard has room, or says where to wait for it.
    fn try_begin(
        &self,
        shard: u64,
        needed: u32,
        room: Option<Room>,
    ) -> std::result::Result<Ticket, (Arc<Window>, Arc<Semaphore>)> {
        let mut current = lock(&self.current);
        self.leave_if_wide(&mut current);
        let mut seqs = lock(&current.seqs);
        let permit = match room.filter(|(window, _)| Arc::ptr_eq(window, &current)) {
            Some((_, permit)) => permit,
            None => {
                let room = seqs.room(shard, self.room);
                match room.clone().try_acquire_many_owned(needed) {
                    Ok(permit) => permit,
                    Err(_) => return Err((current.clone(), room)),
                }
            }
        };
        let seq = seqs.begin(Some(permit));
        drop(seqs);
        Ok(Ticket { window: current.clone(), seq })
    }

    /// Names a change of the metadata: those are few, and their outcomes always have room.
    pub(crate) fn begin_change(&self) -> Ticket {
        let mut current = lock(&self.current);
        self.leave_if_wide(&mut current);
        let seq = lock(&current.seqs).begin(None);
        Ticket { window: current.clone(), seq }
    }

    fn leave_if_wide(&self, current: &mut Arc<Window>) {
        let mut seqs = lock(&current.seqs);
        if seqs.open.len() < self.max_span {
            return;
        }
        // Who waits there for room finds it here.
        seqs.rooms.drain().for_each(|(_, room)| room.close());
        drop(seqs);
        *current = Window::new();
    }
}

impl Window {
    fn new() -> Arc<Window> {
        let client = Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes());
        let seqs = Seqs { floor: 1, open: VecDeque::new(), rooms: HashMap::new() };
        Arc::new(Window { client, seqs: Mutex::new(seqs) })
    }
}

impl Seqs {
    /// The room at a shard, which has so many bytes in all.
    fn room(&mut self, shard: u64, bytes: usize) -> Arc<Semaphore> {
        if self.rooms.len() > MANY_ROOMS {
            self.rooms.retain(|_, room| Arc::strong_count(room) > 1);
        }
        self.rooms.entry(shard).or_insert_with(|| Arc::new(Semaphore::new(bytes))).clone()
    }

    fn begin(&mut self, room: Option<OwnedSemaphorePermit>) -> u64 {
        self.open.push_back(Numbered { done: false, _room: room });
        self.floor + self.open.len() as u64 - 1
    }

    fn finish(&mut self, seq: u64) {
        if let Some(numbered) = self.open.get_mut((seq - self.floor) as usize) {
            numbered.done = true;
        }
        while self.open.pop_front_if(|numbered| numbered.done).is_some() {
            self.floor += 1;
        }
    }
}

impl Ticket {
    /// The name on the wire. The floor is no part of it: each attempt tells the newest.
    pub(crate) fn id(&self, deadline_us: u64) -> v1::WriteId {
        let floor = lock(&self.window.seqs).floor;
        v1::WriteId { client: self.window.client.clone(), seq: self.seq, floor, deadline_us }
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

    const SHARD: u64 = 2;

    fn name(ticket: &Ticket) -> (u64, u64) {
        let id = ticket.id(9);
        (id.seq, id.floor)
    }

    fn begin(identity: &Identity, bytes: usize) -> Option<Ticket> {
        identity.try_begin(SHARD, bytes as u32, None).ok()
    }

    #[test]
    fn the_floor_is_the_lowest_outstanding() {
        let identity = Identity::new();
        let begin = || begin(&identity, 1).unwrap();
        let (a, b, c) = (begin(), begin(), begin());
        assert_eq!([name(&a), name(&b), name(&c)], [(1, 1), (2, 1), (3, 1)]);
        drop(b);
        assert_eq!(name(&begin()), (4, 1));
        drop(a);
        assert_eq!(name(&begin()), (5, 3));
        assert_eq!(name(&c), (3, 3), "a later attempt tells the newest floor");
        drop(c);
        assert_eq!(name(&begin()), (6, 6));
    }

    #[test]
    fn a_wide_span_takes_a_new_id() {
        let identity = Identity::with(4, 100);
        let slow = begin(&identity, 1).unwrap();
        for _ in 0..3 {
            drop(begin(&identity, 1));
        }
        let fresh = begin(&identity, 1).unwrap();
        assert_ne!(fresh.window.client, slow.window.client);
        assert_eq!(name(&fresh), (1, 1));
        drop(slow);
        assert_eq!(name(&begin(&identity, 1).unwrap()), (2, 1));
    }

    #[test]
    fn room_is_held_until_the_floor_has_passed() {
        let identity = Identity::with(100, 100);
        let slow = begin(&identity, 10).unwrap();
        for _ in 0..3 {
            drop(begin(&identity, 30).unwrap());
        }
        assert!(begin(&identity, 1).is_none());
        let other = identity.try_begin(SHARD + 1, 100, None).ok().unwrap();
        let _change = identity.begin_change();
        drop(slow);
        assert_eq!(name(&begin(&identity, 100).unwrap()), (7, 5));
        drop(other);
    }

    #[tokio::test]
    async fn who_waits_for_room_is_served_in_turn_and_under_a_new_id_where_there_is_one() {
        let identity = Arc::new(Identity::with(4, 100));
        let soon = || Instant::now() + std::time::Duration::from_millis(20);
        let slow = identity.begin(SHARD, 1000, soon()).await.unwrap();
        let error = identity.begin(SHARD, 1, soon()).await.err().unwrap();
        assert!(matches!(&error, Error::Unavailable { why } if why.contains("100 bytes")), "{error}");
        let waits = |bytes| {
            let identity = identity.clone();
            tokio::spawn(async move {
                let ticket = identity.begin(SHARD, bytes, Instant::now() + std::time::Duration::from_secs(60)).await;
                name(&ticket.unwrap())
            })
        };
        let (first, second) = (waits(100), waits(1));
        tokio::task::yield_now().await;
        assert!(begin(&identity, 1).is_none(), "nobody overtakes");
        drop(slow);
        assert_eq!((first.await.unwrap(), second.await.unwrap()), ((2, 2), (3, 3)));
        let slow = begin(&identity, 100).unwrap();
        let waits = waits(50);
        tokio::task::yield_now().await;
        let others: Vec<_> = (0..3).map(|_| identity.try_begin(SHARD + 1, 1, None).ok().unwrap()).collect();
        drop(identity.try_begin(SHARD + 1, 1, None).ok().unwrap());
        assert_eq!(waits.await.unwrap(), (2, 2));
        drop((slow, others));
    }

    #[test]
    fn ids_are_16_bytes() {
        let ticket = begin(&Identity::new(), 1).unwrap();
        let id = ticket.id(9);
        assert_eq!((id.client.len(), id.seq, id.deadline_us), (16, 1, 9));
    }

    #[test]
    fn concurrent_writers_never_share_a_number() {
        let identity = Identity::new();
        let seen: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..2000).map(|_| begin(&identity, 64).unwrap().seq).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|w| w.join().unwrap()).collect()
        });
        let distinct: std::collections::HashSet<_> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
        assert_eq!(name(&begin(&identity, 64).unwrap()), (8001, 8001));
    }
}
