//! Runs a search and says what it found.
//!
//! Owns: limits of time and memory, and the figures. Must never: call a search complete that was stopped.

use crate::bounds::Bounds;
use crate::group::{Action, Group, State};
use crate::tables::Parcel;
use crate::verdict::Wrong;
use stateright::{Checker, HasDiscoveries, Model, Path};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// What a search gave.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name of its bounds.
    pub name: &'static str,
    /// Whether every state was visited.
    pub complete: bool,
    /// Different states.
    pub states: usize,
    /// States reached, each as often as it was.
    pub reached: usize,
    /// The longest path searched.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// What is wrong, with the path to it.
    pub wrong: Option<(Wrong, Vec<String>)>,
    /// What was to happen on some path and did, with the length of one.
    pub happened: Vec<(&'static str, usize)>,
    /// What was to happen and did not.
    pub missing: Vec<&'static str>,
    /// Different states of a node, steps of the core, messages.
    pub parts: (usize, usize, usize),
}

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Shortest paths first, for counterexamples; else deep first, which needs less memory.
    pub shortest: bool,
    /// Stop after so long.
    pub limit: Duration,
    /// Stop at so much memory, bytes.
    pub memory: u64,
}

impl Default for How {
    fn default() -> Self {
        Self { shortest: false, limit: Duration::from_secs(30 * 60), memory: 8 << 30 }
    }
}

/// Searches.
#[must_use]
pub fn search(bounds: Bounds, how: How) -> Found {
    let name = bounds.name;
    let began = Instant::now();
    let builder = Group::new(bounds).checker().finish_when(HasDiscoveries::AnyFailures).threads(1);
    if how.shortest {
        finish(name, builder.spawn_bfs(), began, how)
    } else {
        finish(name, builder.spawn_dfs(), began, how)
    }
}

fn finish(name: &'static str, mut checker: impl Checker<Group>, began: Instant, how: How) -> Found {
    let handles = checker.handles();
    let mut said = Instant::now();
    let mut stopped = false;
    while !handles.iter().all(std::thread::JoinHandle::is_finished) {
        std::thread::sleep(Duration::from_millis(20));
        if said.elapsed() > Duration::from_secs(30) {
            said = Instant::now();
            eprintln!("{}", progress(name, &checker, began));
        }
        if began.elapsed() > how.limit || peak_memory() > how.memory {
            stopped = true;
            break;
        }
    }
    let model = checker.model();
    let paths = if stopped { Default::default() } else { checker.discoveries() };
    let wrong = Wrong::ALL.into_iter().find_map(|wrong| {
        let path = paths.get(wrong.property())?;
        Some((wrong, steps(model, path)))
    });
    let wanted =
        model.properties().into_iter().map(|p| p.name).filter(|n| Wrong::ALL.iter().all(|w| w.property() != *n));
    let (done, missing): (Vec<_>, Vec<_>) = wanted.partition(|name| paths.contains_key(name));
    let happened = done.into_iter().map(|name| (name, paths[name].clone().into_actions().len())).collect();
    let parts = model.look(|t| (t.nodes.len(), t.steps(), t.parcels.len()));
    Found {
        name,
        complete: !stopped && wrong.is_none(),
        states: checker.unique_state_count(),
        reached: checker.state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        wrong,
        happened,
        missing,
        parts,
    }
}

fn progress(name: &str, checker: &impl Checker<Group>, began: Instant) -> String {
    let locals = checker.model().look(|t| t.nodes.len());
    let (states, reached, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
    let (seconds, memory) = (began.elapsed().as_secs(), peak_memory() >> 20);
    format!(
        "{name}: {seconds} s, {states} states, {reached} reached, depth {depth}, {locals} node states, {memory} MiB"
    )
}

/// The path in words.
fn steps(model: &Group, path: &Path<State, Action>) -> Vec<String> {
    path.clone().into_vec().into_iter().filter_map(|(state, action)| Some(step(model, &state, action?))).collect()
}

fn step(model: &Group, state: &State, action: Action) -> String {
    model.look(|tables| match action {
        Action::Deliver(from, to) => {
            let first = tables.first(state.links[usize::from(from)][usize::from(to)]);
            match first.map(|(parcel, _)| &**tables.parcels.get(parcel)) {
                Some(Parcel::Message(message)) => format!("n{} -> n{}: {message:?}", from + 1, to + 1),
                _ => format!("n{} -> n{}: connected anew", from + 1, to + 1),
            }
        }
        Action::Sync(at, count) => format!("n{} syncs {count} writes", at + 1),
        Action::Unheard(at, of) => format!("n{} hears n{} no more", at + 1, of + 1),
        Action::Elect(at) => format!("n{} stands for election", at + 1),
        Action::Tick(at) => format!("n{}'s timers run out", at + 1),
        Action::Propose(at) => format!("n{} proposes", at + 1),
        Action::Change(at) => format!("n{} proposes the next membership", at + 1),
        Action::Crash(at, kept) => format!("n{} crashes and starts again, {kept} unsynced writes kept", at + 1),
        Action::Cut(from, to) => format!("n{} -> n{}: all on its way is lost", from + 1, to + 1),
    })
}

/// The most memory this process had, bytes; 0 where the system does not say.
#[must_use]
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

impl Found {
    /// All of it, for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let how = if self.complete {
            "complete"
        } else if self.wrong.is_some() {
            "WRONG"
        } else {
            "NOT COMPLETE"
        };
        let (locals, core, messages) = self.parts;
        let _ = writeln!(
            text,
            "{}: {how}: {} states, {} reached, depth {}, {:.1} s, {} MiB at most; {locals} node states, {core} steps of \
             the core, {messages} messages",
            self.name,
            self.states,
            self.reached,
            self.depth,
            self.took.as_secs_f64(),
            peak_memory() >> 20,
        );
        for (what, length) in &self.happened {
            let _ = writeln!(text, "    happens (one path of {length} steps): {what}");
        }
        for what in &self.missing {
            let _ = writeln!(text, "    DOES NOT HAPPEN: {what}");
        }
        if let Some((wrong, path)) = &self.wrong {
            let _ = writeln!(text, "    WRONG after {} steps: not so: {}", path.len(), wrong.property());
            path.iter().enumerate().for_each(|(i, step)| {
                let _ = writeln!(text, "    {:>3} {step}", i + 1);
            });
        }
        text
    }
}
