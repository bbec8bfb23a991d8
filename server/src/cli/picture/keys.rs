//! What events do: the state machine of the picture, `(state, event) -> (state, command)`.
//!
//! Owns: the bindings of keys, and the question before anything is changed in the cluster. Must never: do what it commands.

use super::input::Key;
use super::model::{Act, Command, Event, Mode, Notice, Pane, State};

/// Characters of a filter, at most.
const FILTER_MAX: usize = 100;

/// The keys, for whoever asks.
pub const HELP: [(&str, &str); 11] = [
    ("q, Ctrl-C", "end"),
    ("Tab, Shift-Tab", "next pane, previous pane"),
    ("arrows, j, k", "next row, previous row"),
    ("PageUp, PageDown", "a screen up or down"),
    ("Home, End, g, G", "first row, last row"),
    ("s", "sort by the next column"),
    ("S", "turn the order round"),
    ("/", "show only rows that contain a text; Esc shows all"),
    ("t, x", "on a shard: transfer its leadership to the next replica; split it in the middle"),
    ("c", "on a job: cancel it"),
    ("?", "these keys; Esc goes back"),
];

/// Takes an event.
pub fn step(state: &mut State, event: Event) -> Option<Command> {
    match event {
        Event::Key(key) => press(state, key),
        Event::Looked { status, trouble } => {
            state.look(&status, trouble);
            None
        }
        Event::Missed(why) => {
            state.miss(why);
            None
        }
        Event::Acted(outcome) => {
            state.outcome(outcome);
            None
        }
        Event::Resized(lines) => {
            state.resize(lines);
            None
        }
        Event::Tick => None,
    }
}

fn press(state: &mut State, key: Key) -> Option<Command> {
    state.notice = None;
    match key {
        Key::Interrupt => return Some(Command::Quit),
        Key::Redraw => return Some(Command::Redraw),
        _ => {}
    }
    match state.mode {
        Mode::Normal => normal(state, key),
        Mode::Filter => {
            type_filter(state, key);
            None
        }
        Mode::Confirm(act) => confirm(state, act, key),
        Mode::Help => {
            state.mode = Mode::Normal;
            None
        }
    }
}

fn normal(state: &mut State, key: Key) -> Option<Command> {
    let page = state.page();
    let focus = state.focus as usize;
    let at = state.view(state.focus).at();
    match key {
        Key::Char('q') => return Some(Command::Quit),
        Key::Char('?') => state.mode = Mode::Help,
        Key::Char('/') => state.mode = Mode::Filter,
        Key::Tab => state.focus = Pane::ALL[(focus + 1) % Pane::ALL.len()],
        Key::BackTab => state.focus = Pane::ALL[(focus + Pane::ALL.len() - 1) % Pane::ALL.len()],
        Key::Up | Key::Char('k') => state.front().select(at.saturating_sub(1)),
        Key::Down | Key::Char('j') => state.front().select(at.saturating_add(1)),
        Key::PageUp => state.front().select(at.saturating_sub(page)),
        Key::PageDown => state.front().select(at.saturating_add(page)),
        Key::Home | Key::Char('g') => state.front().select(0),
        Key::End | Key::Char('G') => state.front().select(usize::MAX),
        Key::Char('s') => {
            let columns = state.focus.columns().len();
            state.front().sort_next(columns);
        }
        Key::Char('S') => state.front().turn(),
        Key::Escape => state.front().set_filter(String::new()),
        Key::Char(letter @ ('t' | 'x' | 'c')) => ask(state, letter),
        _ => {}
    }
    None
}

/// Asks whether something is to be done to what is selected.
fn ask(state: &mut State, letter: char) {
    let selected = state.view(state.focus).selected();
    let act = match (state.focus, letter) {
        (Pane::Shards, 't') => selected.map(Act::Transfer),
        (Pane::Shards, 'x') => selected.map(Act::Split),
        (Pane::Jobs, 'c') => selected.map(Act::Cancel),
        (_, 'c') => return refuse(state, "c cancels a job: Tab to the jobs first".to_owned()),
        _ => return refuse(state, format!("{letter} is for a shard: Tab to the shards first")),
    };
    match (act, state.acting) {
        (None, _) => refuse(state, "nothing is selected".to_owned()),
        (Some(_), Some(before)) => refuse(state, format!("wait for what was asked before: {}", before.in_words())),
        (Some(act), None) => state.mode = Mode::Confirm(act),
    }
}

fn refuse(state: &mut State, text: String) {
    state.notice = Some(Notice { text, bad: true });
}

fn confirm(state: &mut State, act: Act, key: Key) -> Option<Command> {
    state.mode = Mode::Normal;
    if matches!(key, Key::Char('y' | 'Y')) {
        state.acting = Some(act);
        return Some(Command::Do(act));
    }
    let text = format!("nothing was done: not asked to {}", act.in_words());
    state.notice = Some(Notice { text, bad: false });
    None
}

fn type_filter(state: &mut State, key: Key) {
    let mut filter = state.view(state.focus).filter().to_owned();
    match key {
        Key::Enter => {
            state.mode = Mode::Normal;
            return;
        }
        Key::Escape => {
            state.mode = Mode::Normal;
            filter.clear();
        }
        Key::Backspace => {
            filter.pop();
        }
        Key::Char(letter) if filter.chars().count() < FILTER_MAX => filter.push(letter),
        _ => return,
    }
    state.front().set_filter(filter);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::picture::samples;

    fn looked(shards: u64) -> State {
        let mut state = State::default();
        let status = Box::new(samples::status(shards));
        assert_eq!(step(&mut state, Event::Looked { status, trouble: None }), None);
        state
    }

    /// Presses keys; gives what the last of them commands.
    fn press_all(state: &mut State, keys: &[Key]) -> Option<Command> {
        keys.iter().fold(None, |_, key| step(state, Event::Key(*key)))
    }

    fn typed(state: &mut State, text: &str) -> Option<Command> {
        press_all(state, &text.chars().map(Key::Char).collect::<Vec<_>>())
    }

    fn selected(state: &State) -> Option<u64> {
        state.view(state.focus).selected()
    }

    #[test]
    fn keys_move_the_selection_and_stop_at_the_ends() {
        let mut state = looked(1_000);
        step(&mut state, Event::Resized(24));
        let page = u64::try_from(state.page()).unwrap();
        for (key, id) in [
            (Key::Up, 1),
            (Key::Down, 2),
            (Key::PageDown, 2 + page),
            (Key::Char('j'), 3 + page),
            (Key::PageUp, 3),
            (Key::PageUp, 1),
            (Key::End, 1_000),
            (Key::Down, 1_000),
            (Key::PageDown, 1_000),
            (Key::Char('k'), 999),
            (Key::Home, 1),
        ] {
            press_all(&mut state, &[key]);
            assert_eq!(selected(&state), Some(id), "{key:?}");
        }
    }

    #[test]
    fn tab_goes_round_the_panes() {
        let mut state = looked(3);
        let mut after = |key| {
            press_all(&mut state, &[key]);
            state.focus
        };
        assert_eq!([Key::Tab, Key::Tab, Key::Tab].map(&mut after), [Pane::Jobs, Pane::Nodes, Pane::Shards]);
        assert_eq!([Key::BackTab, Key::BackTab].map(&mut after), [Pane::Nodes, Pane::Jobs]);
    }

    #[test]
    fn q_and_the_interrupt_end_it() {
        assert_eq!(typed(&mut looked(3), "q"), Some(Command::Quit));
        let mut filtering = looked(3);
        assert_eq!(typed(&mut filtering, "/q"), None);
        assert_eq!((&filtering.mode, filtering.view(Pane::Shards).filter()), (&Mode::Filter, "q"));
        assert_eq!(press_all(&mut filtering, &[Key::Interrupt]), Some(Command::Quit));
    }

    #[test]
    fn a_filter_is_typed_kept_and_dropped() {
        let mut state = looked(12);
        typed(&mut state, "/k001");
        press_all(&mut state, &[Key::Backspace, Key::Char('1'), Key::Char('1'), Key::Enter]);
        assert_eq!((&state.mode, state.view(Pane::Shards).filter()), (&Mode::Normal, "k0011"));
        assert_eq!(state.view(Pane::Shards).count(), 2);
        typed(&mut state, "/x");
        press_all(&mut state, &[Key::Escape]);
        assert_eq!((&state.mode, state.view(Pane::Shards).count()), (&Mode::Normal, 12));
        typed(&mut state, &format!("/{}", "y".repeat(1_000)));
        assert_eq!(state.view(Pane::Shards).filter().len(), FILTER_MAX);
    }

    #[test]
    fn nothing_is_done_without_a_yes() {
        let mut state = looked(3);
        assert_eq!(press_all(&mut state, &[Key::Down, Key::Char('t')]), None);
        assert_eq!(state.mode, Mode::Confirm(Act::Transfer(2)));
        for no in [Key::Char('n'), Key::Escape, Key::Enter, Key::Char('t')] {
            state.mode = Mode::Confirm(Act::Transfer(2));
            assert_eq!(press_all(&mut state, &[no]), None, "{no:?}");
            assert_eq!((&state.mode, state.acting), (&Mode::Normal, None));
            assert!(state.notice.as_ref().unwrap().text.contains("nothing was done"));
        }
        assert_eq!(typed(&mut state, "ty"), Some(Command::Do(Act::Transfer(2))));
        assert_eq!(typed(&mut state, "xy"), None, "one is under way");
        assert!(state.mode == Mode::Normal, "{:?}", state.mode);
        step(&mut state, Event::Acted(Ok("node 3 was asked".to_owned())));
        assert_eq!(state.notice, Some(Notice { text: "node 3 was asked".to_owned(), bad: false }));
        assert_eq!(typed(&mut state, "xy"), Some(Command::Do(Act::Split(2))));
        step(&mut state, Event::Acted(Err("too old".to_owned())));
        assert!(state.notice.as_ref().unwrap().bad);
        press_all(&mut state, &[Key::Up]);
        assert_eq!(state.notice, None, "until the next key");
    }

    #[test]
    fn what_is_selected_decides_what_can_be_done() {
        let mut state = looked(3);
        let refused = |state: &mut State, letter: &str| {
            assert_eq!(typed(state, letter), None);
            assert_eq!(state.mode, Mode::Normal);
            state.notice.take().unwrap().text
        };
        assert!(refused(&mut state, "c").contains("Tab to the jobs"));
        state.focus = Pane::Jobs;
        assert!(refused(&mut state, "t").contains("Tab to the shards"));
        assert!(refused(&mut state, "c").contains("nothing is selected"));
        let mut status = samples::status(3);
        status.jobs = vec![samples::job(7, "running", "promote", None)];
        step(&mut state, Event::Looked { status: Box::new(status), trouble: None });
        assert_eq!(typed(&mut state, "cy"), Some(Command::Do(Act::Cancel(7))));
    }

    #[test]
    fn any_key_leaves_the_help() {
        let mut state = looked(3);
        typed(&mut state, "?");
        assert_eq!(state.mode, Mode::Help);
        assert_eq!(typed(&mut state, "q"), None);
        assert_eq!(state.mode, Mode::Normal);
    }
}
