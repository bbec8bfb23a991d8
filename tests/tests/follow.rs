//! `tail --follow`: it outlasts a cluster that is away, and ends with a signal or with its reader.
//!
//! Owns: the claims that such a tail says when it waits, that it ends with a signal or when its reader goes, that it always
//! prints the place to continue from, and that continued tails give every record once. Must never: end a tail that it did not
//! start.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use synod_tests::alone;
use synod_tests::cluster::Cluster;
use synod_tests::run::{send, wait_for};

const SOON: Duration = Duration::from_secs(20);

/// A tail under way, its lines as they come.
struct Tail {
    child: Child,
    out: Receiver<String>,
    said: Receiver<String>,
}

fn lines(stream: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn spawn(cluster: &Cluster, args: &[&str]) -> (Child, ChildStdout, ChildStderr) {
    let mut command = cluster.command(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let (out, said) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    (child, out, said)
}

impl Tail {
    fn start(cluster: &Cluster, args: &[&str]) -> Tail {
        let (child, out, said) = spawn(cluster, &[&["tail", "t", "-f"], args].concat());
        Tail { child, out: lines(out), said: lines(said) }
    }

    /// The value on the next line of output.
    #[track_caller]
    fn next(&self) -> String {
        let line = self.out.recv_timeout(SOON).expect("a record");
        line.split('\t').nth(3).unwrap_or_else(|| panic!("a value in {line}")).to_owned()
    }

    /// Waits for a line on standard error.
    #[track_caller]
    fn said(&self, word: &str) -> String {
        let until = Instant::now() + SOON;
        loop {
            let line = self.said.recv_timeout(until.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("{word:?} is not said"));
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Exit code, and the token that was said at the end.
    #[track_caller]
    fn ended(mut self) -> (Option<i32>, String) {
        let status = wait_for(&mut self.child, SOON).expect("it ends");
        let token = self.said("token: ");
        (status.code(), token.strip_prefix("token: ").expect("at the beginning").to_owned())
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(cluster: &Cluster, value: &str) {
    cluster.cli(&["append", "t", &format!("key-{value}"), value]).ok();
}

#[test]
fn a_followed_tail_waits_for_its_cluster_and_always_says_where_to_go_on() {
    let _alone = alone();
    let mut cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "hash", "--shards", "3", "--retain", "all"]).ok();
    let tail = Tail::start(&cluster, &["--from", "earliest"]);
    let json = spawn(&cluster, &["-o", "json", "--timeout", "2s", "tail", "t", "--follow"]);
    let mut json = Tail { child: json.0, out: lines(json.1), said: lines(json.2) };
    put(&cluster, "1");
    assert_eq!(tail.next(), "1");

    // All nodes go, for longer than any call takes.
    let away = Instant::now();
    (1..=3).for_each(|number| cluster.kill(number));
    let said = tail.said("waits");
    println!("said after {:?}: {said}", away.elapsed());
    thread::sleep(Duration::from_secs(15).saturating_sub(away.elapsed()));
    assert_eq!(json.child.try_wait().expect("our child"), None, "it waits");
    json.said("\"waiting\"");
    // One that begins now waits too; one whose patience is bounded ends, and names the knob and the place.
    let late = Tail::start(&cluster, &["--from", "latest"]);
    late.said("waits");
    let began = Instant::now();
    let bounded = cluster.cli(&["tail", "t", "-f", "--patience", "2s"]);
    assert!(bounded.code == 1 && began.elapsed() < Duration::from_secs(8), "{:?}: {bounded:?}", began.elapsed());
    assert!(bounded.stderr.contains("--patience") && bounded.stderr.contains("token: earliest"), "{}", bounded.stderr);
    send(late.child.id(), Signal::SIGTERM);
    assert_eq!(late.ended(), (Some(0), "latest".to_owned()));

    (1..=3).for_each(|number| cluster.restart(number));
    cluster.wait_up();
    tail.said("continues");
    put(&cluster, "2");
    assert_eq!(tail.next(), "2");

    // By each signal it ends in order, and what it says goes on where it ended.
    send(json.child.id(), Signal::SIGHUP);
    assert_eq!(wait_for(&mut json.child, SOON).and_then(|status| status.code()), Some(0));
    json.said("\"token\"");
    send(tail.child.id(), Signal::SIGTERM);
    let (code, token) = tail.ended();
    assert_eq!(code, Some(0));
    put(&cluster, "3");
    let tail = Tail::start(&cluster, &["--from", &token]);
    assert_eq!(tail.next(), "3");
    send(tail.child.id(), Signal::SIGINT);
    let (code, token) = tail.ended();
    assert_eq!(code, Some(0));
    let rest = cluster.cli(&["tail", "t", "--from", &token]).ok();
    assert_eq!(rest.stdout, "", "nothing comes twice");
    cluster.cli(&["tail", "t", "--patience", "1s"]).refused(2, &["--follow"]);
    cluster.cli(&["tail", "nope", "-f"]).refused(1, &["\"nope\"", "does not exist"]);
}

#[test]
fn a_quiet_tail_ends_with_its_reader_and_by_a_signal_though_nobody_reads() {
    let _alone = alone();
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "t", "--partition", "range", "--retain", "all"]).ok();
    put(&cluster, "1");
    let (mut child, out, said) = spawn(&cluster, &["tail", "t", "-f"]);
    let said = lines(said);
    let mut reader = BufReader::new(out);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a record");
    thread::sleep(Duration::from_millis(300));
    let gone = Instant::now();
    drop(reader);
    let status = wait_for(&mut child, SOON).expect("it ends with its reader");
    println!("ended {:?} after its reader", gone.elapsed());
    assert_eq!(status.code(), Some(0));
    assert!(gone.elapsed() < Duration::from_secs(3), "{:?}", gone.elapsed());
    let token = said.recv_timeout(SOON).expect("a token");
    put(&cluster, "2");
    let rest = cluster.cli(&["tail", "t", "--from", token.strip_prefix("token: ").expect("a token")]).ok();
    assert!(rest.stdout.lines().count() == 1 && rest.stdout.contains("key-2\t"), "{}", rest.stdout);

    // A reader that is there and takes nothing: more than a pipe holds waits to be written.
    let large = "x".repeat(60_000);
    for key in 0..10 {
        cluster.cli(&["append", "t", &format!("large-{key}"), &large, &large]).ok();
    }
    let (mut child, _out, said) = spawn(&cluster, &["tail", "t", "-f"]);
    let said = lines(said);
    thread::sleep(Duration::from_secs(2));
    send(child.id(), Signal::SIGTERM);
    let ended = wait_for(&mut child, SOON).and_then(|status| status.code());
    if ended.is_none() {
        child.kill().expect("our child");
    }
    assert_eq!(ended, Some(0));
    assert!(said.recv_timeout(SOON).expect("a token").starts_with("token: "));
}
