//! The run: callers at work, from the warm-up to the last answer.
//!
//! Owns: the callers' tasks and the sum of what they measured. Must never: let one caller's bookkeeping slow another.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use synod_client::Client;
use tokio::sync::mpsc;

use crate::halt::Halt;
use crate::moment::Moment;
use crate::ops::{Material, Op, Ops, Outcome};
use crate::pace::{Caller, Dispatch, dispatch};
use crate::record::Recorder;
use crate::report::{OpenLoop, Report};
use crate::spec::{BenchSpec, Pace, SpecError, Stop, Workload};
use crate::target::{Table, Target};
use crate::threads::Threads;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError<E: std::error::Error + 'static = synod_client::Error> {
    /// The run cannot be made.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The cluster could not be reached, or a key could not be written before the run.
    #[error(transparent)]
    Client(E),
    /// A caller's task ended early.
    #[error("a caller of the run ended early: {why}")]
    Caller {
        /// What the runtime says.
        why: String,
    },
}

/// What the callers share.
struct Shared {
    halt: Halt,
    spec: BenchSpec,
    material: Material,
    start: Instant,
    /// Operations still to be begun, where the run ends by their number.
    left: AtomicI64,
}

impl Shared {
    /// Whether an operation may begin now.
    fn go_on(&self, now: Instant) -> bool {
        match self.spec.stop {
            _ if self.halt.halted() => false,
            Stop::After(time) => now < self.start + time,
            Stop::Ops(_) if now < self.start => true,
            Stop::Ops(_) => self.left.fetch_sub(1, Ordering::Relaxed) > 0,
        }
    }
}

/// Makes the load of `spec` through the clients that `connect` makes, one for each of its connections, and reports.
///
/// # Errors
/// The spec is refused, a client cannot connect, or the keys cannot be written before the run. Failed operations of the
/// run itself are no error: the report counts them.
pub async fn run<F, C>(connect: F, spec: BenchSpec) -> Result<Report, BenchError>
where
    F: Fn(usize) -> C,
    C: Future<Output = synod_client::Result<Client>>,
{
    run_until(connect, spec, Halt::default()).await
}

/// As [`run`], until `halt` says to end before the time; the report is then marked as cut short.
///
/// # Errors
/// As of [`run`].
pub async fn run_until<F, C>(connect: F, spec: BenchSpec, halt: Halt) -> Result<Report, BenchError>
where
    F: Fn(usize) -> C,
    C: Future<Output = synod_client::Result<Client>>,
{
    spec.check()?;
    let mut tables = Vec::with_capacity(spec.connections);
    for n in 0..spec.connections {
        let client = connect(n).await.map_err(BenchError::Client)?;
        client.table(&spec.table).await.map_err(BenchError::Client)?;
        tables.push(Table::new(client, &spec.table));
    }
    let watched: Option<Client> = tables.first().map(|table| table.client().clone());
    let threads = Arc::new(Threads::default());
    let look = {
        let (threads, runtime) = (Arc::clone(&threads), tokio::runtime::Handle::current());
        move |moment| {
            if let Some(client) = &watched {
                threads.look(moment, runtime.block_on(client.status()));
            }
        }
    };
    let mut report = run_on(tables, spec, halt, look).await?;
    report.threads = threads.spent(report.ops, report.elapsed_s);
    Ok(report)
}

/// Makes the load of `spec` on any store, through the given connections (the spec's own number of them is not looked at),
/// and reports. `look` is called on a thread of its own.
///
/// # Errors
/// As of [`run`]; no connection is [`SpecError::Zero`].
pub async fn run_on<T: Target>(
    targets: Vec<T>,
    spec: BenchSpec,
    halt: Halt,
    look: impl Fn(Moment) + Send + Sync + 'static,
) -> Result<Report, BenchError<T::Error>> {
    spec.check()?;
    if targets.is_empty() {
        return Err(SpecError::Zero { field: "connections" }.into());
    }
    let spec = BenchSpec { connections: targets.len(), ..spec };
    let material = Material::new(&spec);
    if spec.preload {
        preload(&targets, &spec, &material, &halt).await?;
    }
    let begin = Instant::now();
    let left = match spec.stop {
        Stop::Ops(ops) => AtomicI64::new(i64::try_from(ops).unwrap_or(i64::MAX)),
        Stop::After(_) => AtomicI64::new(0),
    };
    let shared = Arc::new(Shared { halt, start: begin + spec.warmup, left, material, spec });
    let look = Arc::new(look);
    let at_start = tokio::spawn({
        let (look, start) = (look.clone(), shared.start);
        async move {
            tokio::time::sleep_until(start.into()).await;
            // Nothing to do about a look that panicked: the run's own figures stand without it.
            let _ = tokio::task::spawn_blocking(move || look(Moment::Start)).await;
        }
    });
    let (recorder, open) = match shared.spec.pace {
        Pace::Closed => (closed(&shared, &targets).await?, None),
        Pace::Open { rate_per_s } => {
            let (recorder, open) = open(&shared, &targets, rate_per_s, begin).await?;
            (recorder, Some(open))
        }
    };
    at_start.abort();
    let _ = tokio::task::spawn_blocking(move || look(Moment::End)).await;
    Ok(report(&shared.spec, &recorder, open, shared.halt.halted()))
}

/// Writes every key once.
async fn preload<T: Target>(
    targets: &[T],
    spec: &BenchSpec,
    material: &Material,
    halt: &Halt,
) -> Result<(), BenchError<T::Error>> {
    let mut ops = Ops::new(spec, u64::MAX - 1, material.clone());
    let at_once = (spec.clients * spec.outstanding).clamp(64, 1024);
    let mut writes = futures::stream::iter((0..spec.keys).take_while(|_| !halt.halted()))
        .map(|n| {
            let target = &targets[n as usize % targets.len()];
            let (key, value) = ops.preload(n);
            target.put(key, value)
        })
        .buffer_unordered(at_once);
    while let Some(written) = writes.next().await {
        written.map_err(BenchError::Client)?;
    }
    Ok(())
}

type Done = (Instant, Instant, Outcome);

async fn timed<T: Target>(target: &T, op: Op, intended: Instant) -> Done {
    let outcome = op.run(target).await;
    (intended, Instant::now(), outcome)
}

async fn closed<T: Target>(shared: &Arc<Shared>, targets: &[T]) -> Result<Recorder, BenchError<T::Error>> {
    let caller = |n: usize| {
        let (shared, target) = (shared.clone(), targets[n % targets.len()].clone());
        tokio::spawn(async move {
            let spec = &shared.spec;
            let mut recorder = Recorder::new(shared.start);
            let mut ops = Ops::new(spec, n as u64, shared.material.clone());
            if spec.outstanding == 1 {
                // The same without the cost of keeping several under way.
                loop {
                    let now = Instant::now();
                    if !shared.go_on(now) {
                        return recorder;
                    }
                    let (intended, ended, outcome) = timed(&target, ops.next(), now).await;
                    recorder.add(intended, ended, &outcome);
                }
            }
            let mut under_way = FuturesUnordered::new();
            let mut going = true;
            loop {
                while going && under_way.len() < spec.outstanding {
                    let now = Instant::now();
                    going = shared.go_on(now);
                    if going {
                        under_way.push(timed(&target, ops.next(), now));
                    }
                }
                match under_way.next().await {
                    Some((intended, ended, outcome)) => recorder.add(intended, ended, &outcome),
                    None => return recorder,
                }
            }
        })
    };
    let callers: Vec<_> = (0..shared.spec.clients).map(caller).collect();
    gather(shared, callers).await
}

async fn open<T: Target>(
    shared: &Arc<Shared>,
    targets: &[T],
    rate_per_s: f64,
    begin: Instant,
) -> Result<(Recorder, OpenLoop), BenchError<T::Error>> {
    let outstanding = shared.spec.outstanding;
    let (mut seen, mut callers) = (Vec::new(), Vec::new());
    for n in 0..shared.spec.clients {
        let (arrivals, mut rx) = mpsc::channel(outstanding);
        let busy: Arc<AtomicUsize> = Arc::default();
        seen.push(Caller { arrivals, busy: busy.clone() });
        let (shared, target) = (shared.clone(), targets[n % targets.len()].clone());
        callers.push(tokio::spawn(async move {
            let spec = &shared.spec;
            let mut recorder = Recorder::new(shared.start);
            let mut ops = Ops::new(spec, n as u64, shared.material.clone());
            let mut under_way = FuturesUnordered::new();
            let mut open = true;
            while open || !under_way.is_empty() {
                tokio::select! {
                    arrival = rx.recv(), if open => match arrival {
                        Some(intended) => under_way.push(timed(&target, ops.next(), intended)),
                        None => open = false,
                    },
                    Some((intended, ended, outcome)) = under_way.next() => {
                        busy.fetch_sub(1, Ordering::Relaxed);
                        recorder.add(intended, ended, &outcome);
                    }
                }
            }
            recorder
        }));
    }
    let plan = Dispatch {
        rate_per_s,
        outstanding,
        begin,
        start: shared.start,
        stop: shared.spec.stop,
        seed: shared.spec.seed,
        halt: shared.halt.clone(),
    };
    let ended_early = |why: String| BenchError::Caller { why };
    let found =
        tokio::task::spawn_blocking(move || dispatch(&plan, &seen)).await.map_err(|e| ended_early(e.to_string()))?;
    let recorder = gather(shared, callers).await?;
    let kept_up = found.missed == 0 && recorder.errors.is_empty();
    Ok((recorder, OpenLoop { kept_up, ..found }))
}

async fn gather<E: std::error::Error + 'static>(
    shared: &Shared,
    callers: Vec<tokio::task::JoinHandle<Recorder>>,
) -> Result<Recorder, BenchError<E>> {
    let mut sum = Recorder::new(shared.start);
    for caller in callers {
        sum.merge(&caller.await.map_err(|e| BenchError::Caller { why: e.to_string() })?);
    }
    Ok(sum)
}

fn report(spec: &BenchSpec, sum: &Recorder, open: Option<OpenLoop>, interrupted: bool) -> Report {
    let elapsed = match spec.stop {
        Stop::After(time) if !interrupted => sum.last.max(time),
        _ => sum.last.max(Duration::from_micros(1)),
    };
    let elapsed_s = elapsed.as_secs_f64();
    let mixed = spec.workload.mixed();
    Report {
        workload: spec.workload.name(),
        table: spec.table.clone(),
        pace: if open.is_some() { "open" } else { "closed" },
        value_bytes: spec.value_bytes,
        batch: if let Workload::Append { batch } = spec.workload { batch } else { 1 },
        keys: spec.keys,
        distribution: spec.distribution.name(),
        connections: spec.connections,
        clients: spec.clients,
        outstanding: spec.outstanding,
        elapsed_s,
        interrupted,
        ops: sum.ops,
        ops_per_s: sum.ops as f64 / elapsed_s,
        records_per_s: sum.records as f64 / elapsed_s,
        value_bytes_per_s: sum.bytes as f64 / elapsed_s,
        latency: sum.all().latency(),
        gap: sum.gap(),
        reads: sum.reads.latency().filter(|_| mixed),
        writes: sum.writes.latency().filter(|_| mixed),
        errors: sum.errors.clone(),
        failed: sum.failures.latency(),
        open,
        threads: Vec::new(),
        timeline: sum.seconds(),
        curve: sum.all().curve(),
    }
}
