//! The window of a load: what has been read and is not acknowledged yet.
//!
//! Owns the order in which records go out: at most one append of a key at a time, so that a key's records are stored in
//! file order, with the records that wait for it gathered into the next append. Bounded by records and by bytes. Must
//! never reorder the records of a key.

use std::collections::{HashMap, VecDeque};

use super::source::Item;

/// What the window may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Appends under way.
    pub appends: usize,
    /// Records read and not under way.
    pub waiting_records: usize,
    /// Bytes of those records.
    pub waiting_bytes: usize,
    /// Records in one append.
    pub append_records: usize,
    /// Bytes in one append, where it has more than one record.
    pub append_bytes: usize,
}

impl Bounds {
    /// Bounds for this many appends under way.
    pub fn new(appends: usize) -> Self {
        Self {
            appends,
            waiting_records: appends.saturating_mul(64).clamp(1_024, 262_144),
            waiting_bytes: 64 << 20,
            append_records: 256,
            append_bytes: 512 << 10,
        }
    }
}

/// One append: records of one key in file order.
#[derive(Debug)]
pub struct Chunk {
    /// The key.
    pub key: Vec<u8>,
    /// The records: pass over the file, line, value.
    pub records: Vec<Pending>,
}

/// A record on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which pass over the file it is from, from 1.
    pub pass: u64,
    /// Its line in the file.
    pub line: u64,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// Records by key, and which keys are under way.
#[derive(Debug)]
pub struct Window {
    bounds: Bounds,
    keys: HashMap<Vec<u8>, Queue>,
    ready: VecDeque<Vec<u8>>,
    flying: usize,
    waiting_records: usize,
    waiting_bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Pending>,
    flying: bool,
}

impl Window {
    /// An empty window.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, keys: HashMap::new(), ready: VecDeque::new(), flying: 0, waiting_records: 0, waiting_bytes: 0 }
    }

    /// Whether another record may be read.
    pub fn has_room(&self) -> bool {
        self.waiting_records < self.bounds.waiting_records && self.waiting_bytes < self.bounds.waiting_bytes
    }

    /// Takes in a record.
    pub fn push(&mut self, pass: u64, item: Item) {
        self.waiting_records += 1;
        self.waiting_bytes += item.value.len();
        let queue = self.keys.entry(item.key.clone()).or_default();
        if !queue.flying && queue.waiting.is_empty() {
            self.ready.push_back(item.key);
        }
        queue.waiting.push_back(Pending { pass, line: item.line, value: item.value });
    }

    /// The next append, where one may start.
    pub fn take(&mut self) -> Option<Chunk> {
        if self.flying >= self.bounds.appends {
            return None;
        }
        let key = self.ready.pop_front()?;
        let queue = self.keys.get_mut(&key)?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(next) = queue.waiting.front() {
            let full = records.len() == self.bounds.append_records
                || !records.is_empty() && bytes + next.value.len() > self.bounds.append_bytes;
            if full {
                break;
            }
            bytes += next.value.len();
            records.extend(queue.waiting.pop_front());
        }
        queue.flying = true;
        self.flying += 1;
        self.waiting_records -= records.len();
        self.waiting_bytes -= bytes;
        Some(Chunk { key, records })
    }

    /// The append of this key has ended.
    pub fn done(&mut self, key: Vec<u8>) {
        self.flying = self.flying.saturating_sub(1);
        let Some(queue) = self.keys.get_mut(&key) else { return };
        queue.flying = false;
        if queue.waiting.is_empty() {
            self.keys.remove(&key);
        } else {
            self.ready.push_back(key);
        }
    }

    /// The first record, in file order, that waits and is not under way: its pass and line.
    pub fn first_waiting(&self) -> Option<(u64, u64)> {
        self.keys.values().filter_map(|queue| queue.waiting.front()).map(|next| (next.pass, next.line)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        Bounds { appends: 2, waiting_records: 5, waiting_bytes: 100, append_records: 3, append_bytes: 20 }
    }

    fn item(line: u64, key: &str, size: usize) -> Item {
        Item { line, key: key.as_bytes().to_vec(), value: vec![b'x'; size] }
    }

    fn lines(chunk: &Chunk) -> Vec<u64> {
        chunk.records.iter().map(|record| record.line).collect()
    }

    #[test]
    fn a_key_has_one_append_under_way_and_what_waits_is_gathered() {
        let mut window = Window::new(bounds());
        window.push(1, item(1, "a", 1));
        let first = window.take().unwrap();
        assert_eq!(lines(&first), [1]);
        for line in 2..=5 {
            window.push(1, item(line, "a", 1));
        }
        assert!(window.take().is_none());
        window.done(first.key);
        let second = window.take().unwrap();
        assert_eq!(lines(&second), [2, 3, 4]);
        assert_eq!(window.first_waiting(), Some((1, 5)));
        window.done(second.key);
        assert_eq!(lines(&window.take().unwrap()), [5]);
    }

    #[test]
    fn appends_and_bytes_are_bounded() {
        let mut window = Window::new(bounds());
        for (line, key) in ["a", "b", "c"].into_iter().enumerate() {
            window.push(1, item(line as u64, key, 1));
        }
        assert!(window.take().is_some() && window.take().is_some());
        assert!(window.take().is_none());

        let mut window = Window::new(bounds());
        for line in 1..=3 {
            window.push(1, item(line, "a", 15));
        }
        assert_eq!(lines(&window.take().unwrap()), [1]);
        window.push(1, item(4, "a", 90));
        assert!(!window.has_room());
    }

    #[test]
    fn a_record_larger_than_an_append_still_goes_out() {
        let mut window = Window::new(bounds());
        window.push(2, item(9, "a", 1_000));
        let chunk = window.take().unwrap();
        assert_eq!((chunk.records[0].pass, lines(&chunk)), (2, vec![9]));
        window.done(chunk.key);
        assert!(window.take().is_none() && window.first_waiting().is_none() && window.has_room());
    }
}
