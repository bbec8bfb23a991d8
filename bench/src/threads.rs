//! What the servers' threads spent while a run was measured.
//!
//! Owns: the difference of two looks at the nodes. Must never: count a thread that began in between, or a process that did.

use crate::moment::Moment;
use crate::report::ThreadLoad;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use synod_client::NodeReport;

/// Processor time, µs, by node and thread.
type Times = BTreeMap<(u64, String), u64>;

/// Two looks.
#[derive(Debug, Default)]
pub(crate) struct Threads(Mutex<(Times, Times)>);

impl Threads {
    /// What the nodes said at a moment of the run.
    pub(crate) fn look(&self, moment: Moment, nodes: Vec<NodeReport>) {
        let told = nodes.into_iter().filter_map(|node| Some((node.id, node.status.ok()?)));
        let times = told.flat_map(|(id, said)| said.threads.into_iter().map(move |t| ((id, t.name), t.processor_us)));
        let times = times.collect();
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match moment {
            Moment::Start => looks.0 = times,
            Moment::End => looks.1 = times,
        }
    }

    /// What each thread spent in between, the busiest first.
    pub(crate) fn spent(&self, ops: u64, elapsed_s: f64) -> Vec<ThreadLoad> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, after) = &*looks;
        let load = |((node, thread), end): (&(u64, String), &u64)| {
            let began = before.get(&(*node, thread.clone()))?;
            #[allow(clippy::cast_precision_loss, reason = "spans of more than 2^52 µs are not measured")]
            let spent = end.checked_sub(*began)? as f64;
            #[allow(clippy::cast_precision_loss, reason = "a run has fewer than 2^52 operations")]
            let us_per_op = if ops == 0 { 0.0 } else { spent / ops as f64 };
            Some(ThreadLoad { node: *node, thread: thread.clone(), us_per_op, busy: spent / 1e6 / elapsed_s })
        };
        let mut loads: Vec<ThreadLoad> = after.iter().filter_map(load).collect();
        loads.sort_by(|a, b| b.busy.total_cmp(&a.busy));
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_client::proto::{NodeStatusReply, ThreadTime};

    fn node(id: u64, threads: &[(&str, u64)]) -> NodeReport {
        let time =
            |(name, processor_us): &(&str, u64)| ThreadTime { name: (*name).into(), processor_us: *processor_us };
        let threads = threads.iter().map(time).collect();
        NodeReport { id, addr: String::new(), status: Ok(NodeStatusReply { threads, ..Default::default() }) }
    }

    #[test]
    fn the_busiest_thread_comes_first_and_one_that_began_meanwhile_is_left_out() {
        let threads = Threads::default();
        threads.look(Moment::Start, vec![node(1, &[("worker-0", 1_000), ("gone", 9)]), node(2, &[("worker-0", 0)])]);
        let later = [("worker-0", 3_001_000), ("new", 99)];
        threads.look(Moment::End, vec![node(1, &later), node(2, &[("worker-0", 1_000_000)])]);
        let spent = threads.spent(1_000_000, 6.0);
        let found: Vec<(u64, &str, f64, f64)> =
            spent.iter().map(|t| (t.node, &*t.thread, t.us_per_op, t.busy)).collect();
        assert_eq!(found, [(1, "worker-0", 3.0, 0.5), (2, "worker-0", 1.0, 1.0 / 6.0)]);
    }
}
