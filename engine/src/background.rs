//! Work that nobody waits for.
//!
//! Owns: the priority of its threads. Must never: lower the priority of a thread that a worker or a full disk may come to wait for: nobody
//! can give such a thread the usual priority back in time.

/// The nice value of these threads (sched(7)): one of them gets about a third of what a usual thread gets where all cores are busy, so that
/// it goes on at any load.
const NICE: i32 = 5;

/// Lowers the priority of the calling thread. Without the right to do so it stays as it is: priorities are no promise.
pub fn lower_priority() {
    // Linux takes a thread for a process here (setpriority(2), "C library/kernel differences").
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!("the priority of a thread in the background could not be lowered: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_of_low_priority_lowers_no_other() {
        let nice = || std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // Field 19 (proc(5)), counted after the name in parentheses, which is field 2.
        let nice = move || nice().rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse::<i32>().unwrap();
        let before = nice();
        let lowered = std::thread::spawn(move || {
            lower_priority();
            nice()
        });
        assert_eq!(lowered.join().unwrap(), before.max(NICE));
        assert_eq!(nice(), before);
    }
}
