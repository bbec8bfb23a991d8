//! `synod status --watch` in a terminal: what it shows, what its keys do, and the terminal after it.
//!
//! Owns: the claims that the live picture shows the cluster, acts after a yes only, goes on while nodes are down, and gives the terminal
//! back. Must never: know how the picture is drawn; it is read from a screen.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;
use synod_tests::cluster::{Cluster, PATIENCE};
use synod_tests::run::{binary, run, send, until, wait_for};

/// Lines of the terminal.
const LINES: usize = 30;
/// Columns of the terminal.
const COLUMNS: usize = 120;

/// A terminal whose shell runs the picture, and says afterwards what the terminal is like. The terminal is made by `script`, which every
/// Debian has.
struct Terminal {
    child: Child,
    keys: Option<ChildStdin>,
    sent: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Terminal {
    fn open(cluster: &Cluster) -> Terminal {
        let binary = binary().display().to_string();
        let shell = format!(
            "stty rows {LINES} cols {COLUMNS}; before=$(stty -g); \
             sh -c 'echo pid=$$.; exec \"$0\" status --watch' '{binary}'; code=$?; \
             [ \"$before\" = \"$(stty -g)\" ] && echo restored; echo code=$code."
        );
        let mut command = Command::new("script");
        command.args(["-qefc", &shell, "/dev/null"]);
        command.env("SHELL", "/bin/sh").env("TERM", "xterm").env("SYNOD_ENDPOINTS", cluster.endpoints().join(","));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("script is installed (bsdutils)");
        let (keys, mut stdout) = (child.stdin.take(), child.stdout.take().expect("piped"));
        let sent = Arc::new(Mutex::new(Vec::new()));
        let to = sent.clone();
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut bytes) {
                to.lock().expect("no panic").extend_from_slice(&bytes[..read]);
            }
        });
        Terminal { child, keys, sent, reader: Some(reader) }
    }

    fn press(&mut self, keys: &str) {
        let to = self.keys.as_mut().expect("it is open");
        to.write_all(keys.as_bytes()).and_then(|()| to.flush()).expect("it takes keys");
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.sent.lock().expect("no panic")).into_owned()
    }

    /// Waits until a line of the screen has all of these words.
    #[track_caller]
    fn shows(&self, words: &[&str]) {
        let on_screen = || {
            let lines = screen(&self.text());
            lines.iter().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        };
        let shown = until(PATIENCE, &format!("{words:?} on the screen"), on_screen);
        shown.unwrap_or_else(|why| panic!("{why}:\n{}", screen(&self.text()).join("\n")));
    }

    /// The process that draws.
    fn pid(&self) -> u32 {
        let text = self.text();
        let (_, after) = text.split_once("pid=").expect("the shell says it first");
        after.split('.').next().and_then(|pid| pid.parse().ok()).expect("a number")
    }

    /// Waits until the shell has ended, and makes sure that the terminal is what it was and the picture has ended with code 0.
    #[track_caller]
    fn ended_well(mut self) {
        let ended = wait_for(&mut self.child, PATIENCE);
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}: {}", self.text());
        self.reader.take().expect("it was not taken").join().expect("no panic");
        let text = self.text();
        let (_, after) = text.rsplit_once("\u{1b}[?1049l").expect("the alternate screen is left");
        assert!(after.contains("restored") && after.contains("code=0."), "{after:?}");
        assert!(text.contains("\u{1b}[?25h"), "the cursor is shown again");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended. With it ends the terminal, and with that what runs there.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a terminal that was sent this: as much of one as the picture needs.
fn screen(sent: &str) -> Vec<String> {
    let mut cells = vec![vec![' '; COLUMNS]; LINES];
    let (mut x, mut y) = (0, 0);
    let mut letters = sent.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' if letters.next_if_eq(&'[').is_some() => {
                let mut parameters = String::new();
                let last = loop {
                    match letters.next() {
                        Some(letter @ '@'..='~') => break letter,
                        Some(letter) => parameters.push(letter),
                        // The rest has not come yet.
                        None => break ' ',
                    }
                };
                match last {
                    'H' => {
                        let mut places = parameters.split(';').map(|place| place.parse().unwrap_or(1_usize));
                        y = places.next().unwrap_or(1).saturating_sub(1);
                        x = places.next().unwrap_or(1).saturating_sub(1);
                    }
                    'J' => cells.iter_mut().for_each(|line| line.fill(' ')),
                    _ => {}
                }
            }
            '\r' => x = 0,
            '\n' => y += 1,
            _ => {
                if let Some(cell) = cells.get_mut(y).and_then(|line| line.get_mut(x)) {
                    *cell = letter;
                }
                x += 1;
            }
        }
    }
    cells.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn a_screen_is_what_it_was_sent() {
    let sent = "old\u{1b}[?1049h\u{1b}[2J\u{1b}[2;3Hab\u{1b}[7mc\u{1b}[0m\u{1b}[1;1Hx\r\n\u{1b}[2;4HB\u{1b}[";
    assert_eq!(screen(sent)[..3], ["x", "  aBc", ""]);
}

#[test]
fn the_picture_shows_the_cluster_and_hands_a_leadership_over_after_a_yes() {
    let cluster = Cluster::start();
    cluster.cli(&["table", "create", "orders", "--partition", "range", "--split-at", "m", "--retain", "all"]).ok();
    let before = cluster.wait_up();
    let shard = before.shards_of("orders")[1]["id"].as_u64().expect("a number");
    let leader = before.leader_addr(shard).expect("it is led");

    let mut terminal = Terminal::open(&cluster);
    terminal.shows(&["synod", "3 nodes, 3 shards, 0 running jobs"]);
    terminal.shows(&["(system)", "[first, end)", "ok"]);
    terminal.shows(&["orders", "[first, m)", "ok"]);
    terminal.shows(&["orders", "[m, end)", "ok"]);
    (1..=3).for_each(|number| terminal.shows(&[&cluster.addr(number), "up"]));

    terminal.press("/[m");
    terminal.shows(&["[shards] 1 of 3 with \"[m\""]);
    terminal.press("\r");
    terminal.shows(&["q quit"]);
    let question = format!("hand the leadership of shard {shard}");
    terminal.press("t");
    terminal.shows(&[&question, "y does it"]);
    terminal.press("n");
    terminal.shows(&["nothing was done"]);
    assert_eq!(cluster.wait_up().leader_addr(shard), Some(leader.clone()));
    terminal.press("t");
    terminal.shows(&[&question, "y does it"]);
    terminal.press("y");
    terminal.shows(&["was asked to lead", &format!("shard {shard}")]);
    cluster.wait_status("another node leads", |status| status.leader_addr(shard).is_some_and(|now| now != leader));

    terminal.press("x");
    terminal.shows(&[&format!("split shard {shard}"), "y does it"]);
    terminal.press("n");
    terminal.shows(&["nothing was done: not asked to split"]);
    terminal.press("\u{1b}");
    terminal.shows(&["[shards] 3, by SHARD"]);
    terminal.press("\t");
    terminal.shows(&["[jobs] 0"]);
    terminal.press("q");
    terminal.ended_well();
}

#[test]
fn nodes_that_are_down_are_told_of_and_keys_go_on() {
    let mut cluster = Cluster::start();
    let mut terminal = Terminal::open(&cluster);
    terminal.shows(&["3 nodes, 1 shard,"]);
    cluster.kill(3);
    terminal.shows(&[&cluster.addr(3), "down"]);
    (1..=2).for_each(|number| cluster.kill(number));
    terminal.press("?");
    terminal.shows(&["next pane, previous pane"]);
    terminal.press("?");
    // What was seen last stays, and the last line says why there is nothing newer.
    terminal.shows(&["nothing listens"]);
    terminal.shows(&[&cluster.addr(1)]);
    (1..=3).for_each(|number| cluster.restart(number));
    terminal.shows(&["q quit"]);
    terminal.shows(&[&cluster.addr(3), "up"]);
    send(terminal.pid(), Signal::SIGTERM);
    terminal.ended_well();
}

#[test]
fn an_interrupt_ends_it_too() {
    let cluster = Cluster::start();
    let mut terminal = Terminal::open(&cluster);
    terminal.shows(&["3 nodes, 1 shard,"]);
    terminal.press("\u{3}");
    terminal.ended_well();
}

#[test]
fn without_a_terminal_one_line_says_what_to_use_instead() {
    let words = ["--watch", "standard output is not a terminal", "watch -n1 synod status"];
    run(&["status", "--watch"]).refused(2, &words);
    let refused = run(&["-o", "json", "status", "--watch"]);
    assert_eq!((refused.code, &refused.error()["field"]), (2, &"--watch".into()));
}
