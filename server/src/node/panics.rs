//! What a panic means for the process.
//!
//! Owns: the hook that every panic goes through. Must never: let a node live on without one of its own threads.

/// The threads of the async runtime: a panic there ends one task, and with it one connection or call.
pub const NETWORK_THREAD: &str = "synod-net";

/// From now on a panic of any other thread ends the process, before anything is unwound: what that thread did is half done, and
/// no other goes on with it. A node without its worker or its log writer would look alive and serve nobody.
pub(super) fn end_with_them() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        if name != NETWORK_THREAD {
            tracing::error!("the thread {name:?} panicked: {panic}; the process ends");
            eprintln!("synod: the thread {name:?} panicked: {panic}; the process ends");
            std::process::abort();
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};
    use synod_engine::runner::THREAD;

    /// Names the thread that panics, in a process of its own.
    const PANICS: &str = "SYNOD_TEST_PANICS";

    fn process_whose(thread: &str) -> Output {
        let (_, module) = module_path!().split_once("::").unwrap();
        let test = format!("{module}::a_panic_of_the_worker_ends_the_process_and_one_of_a_connection_does_not");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &test, "--nocapture"]).env(PANICS, thread).output().unwrap()
    }

    #[test]
    fn a_panic_of_the_worker_ends_the_process_and_one_of_a_connection_does_not() {
        if let Ok(name) = std::env::var(PANICS) {
            end_with_them();
            let thread = std::thread::Builder::new().name(name).spawn(|| panic!("by the test")).unwrap();
            assert!(thread.join().is_err());
            return;
        }
        let ended = process_whose(THREAD);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.signal(), Some(6), "{said}");
        assert!(said.contains("synod: the thread \"worker\" panicked") && said.contains("by the test"), "{said}");
        assert!(said.contains("the process ends"), "{said}");
        let lives = process_whose(NETWORK_THREAD);
        assert!(lives.status.success(), "{}", String::from_utf8_lossy(&lives.stderr));
    }
}
