//! The processor time of each thread of this process.
//!
//! Owns: how threads are named in metrics and status. Must never: fail where the system does not tell.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};
use std::collections::BTreeMap;
use std::fs;

/// µs of processor time since each thread began, by its name. Threads of one name that are there at the same time are numbered in the
/// order in which they began: of the network's the first ones serve connections, later ones run what blocks and come and go. Empty
/// where the system does not tell.
#[must_use]
pub fn processor_us() -> BTreeMap<String, u64> {
    let mut threads: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let number = task.file_name().to_str().and_then(|number| number.parse().ok());
        let name = fs::read_to_string(task.path().join("comm"));
        // Nanoseconds on a processor, nanoseconds of waiting for one, times it was given one (proc(5), "schedstat").
        let spent = fs::read_to_string(task.path().join("schedstat"));
        let (Some(number), Ok(name), Ok(spent)) = (number, name, spent) else { continue };
        let Some(nanos) = spent.split_whitespace().next().and_then(|nanos| nanos.parse::<u64>().ok()) else { continue };
        threads.entry(name.trim_end().to_owned()).or_default().push((number, nanos / 1000));
    }
    let mut micros = BTreeMap::new();
    for (name, mut alike) in threads {
        alike.sort_unstable();
        match &alike[..] {
            [(_, spent)] => drop(micros.insert(name, *spent)),
            alike => micros.extend(alike.iter().enumerate().map(|(n, (_, spent))| (format!("{name}-{n}"), *spent))),
        }
    }
    micros
}

/// The same as a metric that is read when it is asked for.
pub struct ThreadTimes(GaugeVec);

impl ThreadTimes {
    /// The metric; it is to be registered.
    ///
    /// # Errors
    /// Never, with this name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let opts =
            Opts::new("synod_thread_processor_seconds", "Processor time of each thread since it began, in seconds");
        Ok(Self(GaugeVec::new(opts, &["thread"])?))
    }
}

impl Collector for ThreadTimes {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0.reset();
        for (thread, micros) in processor_us() {
            #[allow(clippy::cast_precision_loss, reason = "spans of more than 2^52 µs are not measured")]
            self.0.with_label_values(&[&thread]).set(micros as f64 / 1e6);
        }
        self.0.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn a_busy_thread_shows_its_time_under_its_name() {
        let thread = std::thread::Builder::new().name("busy-here".into());
        let busy = thread.spawn(|| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(60) {
                std::hint::spin_loop();
            }
            processor_us().get("busy-here").copied()
        });
        let micros = busy.unwrap().join().unwrap();
        assert!(micros.is_some_and(|micros| micros > 1_000), "{micros:?}");
    }
}
