//! Steps on their way from the reading thread to the sender.
//!
//! Owns when steps are handed over: once there are many, at the end of the file, or once the first of them has waited while the
//! input brings no more. Must never change their order, nor hold more than one hand-over beside the bounded channel.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Handover;
use super::source::Step;

/// Steps handed over at once.
const STEPS_AT_ONCE: usize = 256;
/// Bytes of records handed over at once: a hand-over of large records is shorter.
const BYTES_AT_ONCE: usize = 1 << 20;
/// Hand-overs that may wait.
const HANDOVERS: usize = 8;
/// How long a step waits for others: a slow input brings no more for long.
const WAIT: Duration = Duration::from_millis(200);
/// Time between two looks at whether steps have waited.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is not handed over yet, of one pass over the file.
#[derive(Default)]
struct Filling {
    pass: u64,
    steps: Vec<Step>,
    bytes: usize,
    /// When the first of the steps came.
    since: Option<Instant>,
}

impl Filling {
    fn take(&mut self) -> Option<Handover> {
        let Self { pass, steps, .. } = std::mem::take(self);
        (!steps.is_empty()).then_some(Handover::Steps(pass, steps))
    }
}

/// The reading thread's end.
pub struct Giver {
    filling: Arc<Mutex<Filling>>,
    sender: mpsc::Sender<Handover>,
}

/// The sender's end.
pub struct Taker {
    filling: Arc<Mutex<Filling>>,
    receiver: mpsc::Receiver<Handover>,
    looks: Interval,
}

/// Both ends. Within a runtime.
pub fn batches() -> (Giver, Taker) {
    let filling = Arc::<Mutex<Filling>>::default();
    let (sender, receiver) = mpsc::channel(HANDOVERS);
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    (Giver { filling: Arc::clone(&filling), sender }, Taker { filling, receiver, looks })
}

impl Giver {
    /// Adds a step; says whether anybody still takes them.
    pub fn step(&self, pass: u64, step: Step) -> bool {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        filling.pass = pass;
        filling.bytes += step.as_ref().map_or(0, |item| item.value.len());
        filling.since.get_or_insert_with(Instant::now);
        filling.steps.push(step);
        let full = filling.steps.len() >= STEPS_AT_ONCE || filling.bytes >= BYTES_AT_ONCE;
        !full || self.send(&mut filling)
    }

    /// Hands over what there is; says whether anybody still takes it.
    pub fn flush(&self) -> bool {
        self.send(&mut self.filling.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Hands over what there is, and why reading cannot go on.
    pub fn fail(&self, why: super::CliError) {
        if self.flush() {
            // The sender of appends ended first: it has its own reason.
            let _ = self.sender.blocking_send(Handover::Failed(why));
        }
    }

    /// Waits for room with the steps locked, so that nobody takes later ones first.
    fn send(&self, filling: &mut Filling) -> bool {
        filling.take().is_none_or(|handover| self.sender.blocking_send(handover).is_ok())
    }
}

impl Taker {
    /// The next hand-over, or none where there are no more. May be dropped at any time; nothing is lost.
    pub async fn next(&mut self) -> Option<Handover> {
        loop {
            tokio::select! {
                biased;
                handover = self.receiver.recv() => return handover,
                _ = self.looks.tick() => {
                    if let Some(handover) = self.overdue() {
                        return Some(handover);
                    }
                }
            }
        }
    }

    fn overdue(&self) -> Option<Handover> {
        // Where the reader holds the lock it has steps to add, or waits for room.
        let mut filling = match self.filling.try_lock() {
            Ok(filling) => filling,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        // What is in the channel comes first; while the lock is held no more can come there.
        let waited = filling.since.is_some_and(|since| since.elapsed() >= WAIT);
        if waited && self.receiver.is_empty() { filling.take() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::load::source::Item;

    fn give(giver: &Giver, lines: std::ops::Range<u64>) {
        for line in lines {
            assert!(giver.step(1, Ok(Item { line, key: b"k".to_vec(), value: Vec::new() })));
        }
    }

    async fn lines(taker: &mut Taker) -> Vec<u64> {
        match tokio::time::timeout(Duration::from_secs(10), taker.next()).await.expect("in time") {
            Some(Handover::Steps(1, steps)) => steps.into_iter().map(|step| step.unwrap().line).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn few_steps_are_handed_over_while_the_input_brings_no_more() {
        let (giver, mut taker) = batches();
        give(&giver, 1..4);
        assert_eq!(lines(&mut taker).await, [1, 2, 3]);
        give(&giver, 4..5);
        assert_eq!(lines(&mut taker).await, [4]);
        drop(giver);
        assert!(taker.next().await.is_none());
    }

    #[tokio::test]
    async fn a_fast_input_is_handed_over_in_order_and_in_large_pieces() {
        let (giver, mut taker) = batches();
        let last = 100_000;
        let reader = std::thread::spawn(move || {
            give(&giver, 0..last);
            giver.flush()
        });
        let (mut next, mut pieces) = (0, 0);
        while next < last {
            let lines = lines(&mut taker).await;
            assert!(lines.iter().copied().eq(next..next + lines.len() as u64), "from {next}: {lines:?}");
            (next, pieces) = (next + lines.len() as u64, pieces + 1);
        }
        assert!(reader.join().unwrap() && pieces < 1000, "{pieces}");
    }
}
