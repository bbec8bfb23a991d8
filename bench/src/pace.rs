//! The arrivals of an open loop.
//!
//! Owns: the thread that makes arrivals at random times and hands each to a caller with room. Must never: wait for a
//! caller: an arrival that finds none waits in a bounded line, and its latency counts from when it was to begin.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp};
use tokio::sync::mpsc;

use crate::halt::Halt;
use crate::record::Times;
use crate::report::OpenLoop;
use crate::spec::Stop;

/// Most arrivals that wait for a caller.
const LINE_MAX: usize = 1 << 20;
/// How often a waiting line looks for a caller with room.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// A caller as the dispatcher sees it.
pub(crate) struct Caller {
    pub(crate) arrivals: mpsc::Sender<Instant>,
    /// Operations handed over and not ended.
    pub(crate) busy: Arc<AtomicUsize>,
}

/// What the dispatcher does.
pub(crate) struct Dispatch {
    pub(crate) rate_per_s: f64,
    pub(crate) outstanding: usize,
    pub(crate) begin: Instant,
    /// From here on arrivals count.
    pub(crate) start: Instant,
    pub(crate) stop: Stop,
    pub(crate) seed: u64,
    pub(crate) halt: Halt,
}

/// What it found; `kept_up` is still to be judged.
pub(crate) fn dispatch(plan: &Dispatch, callers: &[Caller]) -> OpenLoop {
    let mut found = OpenLoop {
        rate_per_s: plan.rate_per_s,
        offered: 0,
        offered_per_s: 0.0,
        missed: 0,
        kept_up: false,
        lag_p50_us: 0,
        lag_p99_us: 0,
    };
    let Ok(gaps) = Exp::new(plan.rate_per_s) else { return found };
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut next = plan.begin;
    let mut line: VecDeque<Instant> = VecDeque::new();
    let (mut turn, mut lag) = (0, Times::new());
    let over = |next: Instant, offered: u64| match plan.stop {
        _ if plan.halt.halted() => true,
        Stop::After(time) => next >= plan.start + time,
        Stop::Ops(ops) => offered >= ops,
    };
    loop {
        let now = Instant::now();
        while next <= now && !over(next, found.offered) {
            let counts = next >= plan.start;
            found.offered += u64::from(counts);
            if line.len() < LINE_MAX {
                line.push_back(next);
            } else {
                found.missed += u64::from(counts);
            }
            next += Duration::from_secs_f64(gaps.sample(&mut rng));
        }
        while let Some(intended) = line.front().copied() {
            let Some(caller) = with_room(callers, plan.outstanding, &mut turn) else { break };
            caller.busy.fetch_add(1, Ordering::Relaxed);
            if caller.arrivals.try_send(intended).is_err() {
                caller.busy.fetch_sub(1, Ordering::Relaxed);
                break;
            }
            line.pop_front();
            if intended >= plan.start {
                lag.add(intended.elapsed());
            }
        }
        if over(next, found.offered) {
            // With a number of operations to make, what waits is still made; after a time it is not.
            if line.is_empty() || matches!(plan.stop, Stop::After(_)) || plan.halt.halted() {
                break;
            }
        }
        let pause = if line.is_empty() { next.saturating_duration_since(Instant::now()) } else { LOOK_AGAIN };
        std::thread::sleep(pause.min(Duration::from_millis(100)));
    }
    let ended = if plan.halt.halted() { next.min(Instant::now()) } else { next };
    let time = ended.saturating_duration_since(plan.start).as_secs_f64();
    found.offered_per_s = if time > 0.0 { found.offered as f64 / time } else { 0.0 };
    found.missed += line.iter().filter(|intended| **intended >= plan.start).count() as u64;
    if let Some(lag) = lag.latency() {
        (found.lag_p50_us, found.lag_p99_us) = (lag.p50_us, lag.p99_us);
    }
    found
}

/// The next caller in turn that has room.
fn with_room<'a>(callers: &'a [Caller], outstanding: usize, turn: &mut usize) -> Option<&'a Caller> {
    for _ in 0..callers.len() {
        let caller = &callers[*turn % callers.len()];
        *turn = (*turn + 1) % callers.len();
        if caller.busy.load(Ordering::Relaxed) < outstanding {
            return Some(caller);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate_per_s: f64, stop: Stop) -> Dispatch {
        let begin = Instant::now();
        Dispatch { rate_per_s, outstanding: 1, begin, start: begin, stop, seed: 3, halt: Halt::default() }
    }

    fn caller(capacity: usize) -> (Caller, mpsc::Receiver<Instant>) {
        let (arrivals, rx) = mpsc::channel(capacity);
        (Caller { arrivals, busy: Arc::default() }, rx)
    }

    #[test]
    fn arrivals_come_at_the_rate_asked_for() {
        let (caller, mut rx) = caller(100_000);
        let plan = Dispatch { outstanding: 100_000, ..plan(20_000.0, Stop::After(Duration::from_millis(500))) };
        let found = dispatch(&plan, &[caller]);
        assert!((9_500..10_500).contains(&found.offered), "{found:?}");
        assert_eq!(found.missed, 0);
        let mut times = Vec::new();
        while let Ok(at) = rx.try_recv() {
            times.push(at);
        }
        assert!(times.is_sorted() && times.len() as u64 == found.offered);
    }

    #[test]
    fn who_cannot_keep_up_is_found_out() {
        let (caller, _rx) = caller(1);
        let found = dispatch(&plan(1000.0, Stop::After(Duration::from_millis(200))), &[caller]);
        assert!(found.offered > 100 && found.missed == found.offered - 1, "{found:?}");
    }

    #[test]
    fn a_number_of_operations_is_exact() {
        let (caller, mut rx) = caller(100);
        let plan = Dispatch { outstanding: 100, ..plan(50_000.0, Stop::Ops(77)) };
        assert_eq!(dispatch(&plan, &[caller]).offered, 77);
        let mut count = 0;
        while rx.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, 77);
    }
}
