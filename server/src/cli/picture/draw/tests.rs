//! Drawn pictures, as text.

use ratatui_core::backend::TestBackend;
use ratatui_core::terminal::Terminal;

use super::*;
use crate::cli::picture::keys::step;
use crate::cli::picture::model::{Act, Event};
use crate::cli::picture::{input::Key, samples};

/// Three shards and a job on 120 columns, without the empty lines above the last.
const LARGE: [&str; 15] = [
    "synod abababab version 3: 3 nodes, 3 shards, 1 running job, 0 s ago",
    " nodes  3, by NODE",
    "  NODE  ADDRESS         STATE  SPEAKS  LEADERS  REPLICAS  SLOTS/S  UPTIME  REASON",
    "  1     127.0.0.1:7401  up     3       1        3         -        1m",
    "  2     127.0.0.1:7402  up     3       1        3         -        2m",
    "  3     127.0.0.1:7403  up     3       1        3         -        3m",
    "[shards] 3, by SHARD",
    "  SHARD  TABLE     BOUNDS          LEADER  REPLICAS (LAG)    LAG  STATE   SLOTS/S  EPOCH.VERSION",
    "> 1      (system)  [first, end)    2       1 (0), 2*, 3 (0)  0    ok      -        1.2",
    "  2      orders    [first, k0003)  3       1 (0), 2 (0), 3*  0    moving  -        1.2",
    "  3      orders    [k0003, k0004)  1       1*, 2 (0), 3 (0)  0    ok      -        1.2",
    " jobs  1, by JOB, greatest first",
    "  JOB  KIND          SHARD  STATE    PROGRESS        STEP     LEFT  WHAT",
    "  7    move_replica  2      running  #####----- 50%  promote  -     node 3 to node 4",
    "q quit  Tab pane  s sort  / filter  ? help  t transfer  x split",
];

/// The same on 80 columns.
const MIDDLE: [&str; 15] = [
    "synod abababab version 3: 3 nodes, 3 shards, 1 running job, 0 s ago",
    " nodes  3, by NODE",
    "  NODE  ADDRESS         STATE  SPEAKS  LEADERS  REPLICAS  SLOTS/S  UPTIME  REASO",
    "  1     127.0.0.1:7401  up     3       1        3         -        1m",
    "  2     127.0.0.1:7402  up     3       1        3         -        2m",
    "  3     127.0.0.1:7403  up     3       1        3         -        3m",
    "[shards] 3, by SHARD",
    "  SHARD  TABLE     BOUNDS          LEADER  REPLICAS (LAG)    LAG  STATE   SLOTS/",
    "> 1      (system)  [first, end)    2       1 (0), 2*, 3 (0)  0    ok      -",
    "  2      orders    [first, k0003)  3       1 (0), 2 (0), 3*  0    moving  -",
    "  3      orders    [k0003, k0004)  1       1*, 2 (0), 3 (0)  0    ok      -",
    " jobs  1, by JOB, greatest first",
    "  JOB  KIND          SHARD  STATE    PROGRESS        STEP     LEFT  WHAT",
    "  7    move_replica  2      running  #####----- 50%  promote  -     node 3 to no",
    "q quit  Tab pane  s sort  / filter  ? help  t transfer  x split",
];

/// The same on 40 columns and 10 lines: only the pane in front has room.
const SMALL: [&str; 10] = [
    "synod abababab version 3: 3 nodes, 3 sha",
    "[shards] 3, by SHARD",
    "  SHARD  TABLE     BOUNDS          LEADE",
    "> 1      (system)  [first, end)    2",
    "  2      orders    [first, k0003)  3",
    "  3      orders    [k0003, k0004)  1",
    "",
    "",
    "",
    "q quit  Tab pane  s sort  / filter  ? he",
];

/// No shard on 80 columns, without the empty lines above the last.
const EMPTY: [&str; 11] = [
    "synod abababab version 3: 3 nodes, 0 shards, 0 running jobs, 0 s ago",
    " nodes  3, by NODE",
    "  NODE  ADDRESS         STATE  SPEAKS  LEADERS  REPLICAS  SLOTS/S  UPTIME  REASO",
    "  1     127.0.0.1:7401  up     3       0        0         -        1m",
    "  2     127.0.0.1:7402  up     3       0        0         -        2m",
    "  3     127.0.0.1:7403  up     3       0        0         -        3m",
    "[shards] 0, by SHARD",
    "  SHARD  TABLE  BOUNDS  LEADER  REPLICAS (LAG)  LAG  STATE  SLOTS/S  EPOCH.VERSI",
    " jobs  0, by JOB, greatest first",
    "  JOB  KIND  SHARD  STATE  PROGRESS  STEP  LEFT  WHAT",
    "q quit  Tab pane  s sort  / filter  ? help  t transfer  x split",
];

/// The 500th of a thousand shards is selected, on 80 columns and 24 lines.
const SCROLLED: [&str; 24] = [
    "synod abababab version 3: 3 nodes, 1000 shards, 0 running jobs, 0 s ago",
    " nodes  3, by NODE",
    "  NODE  ADDRESS         STATE  SPEAKS  LEADERS  REPLICAS  SLOTS/S  UPTIME  REASO",
    "  1     127.0.0.1:7401  up     3       333      1000      -        1m",
    "  2     127.0.0.1:7402  up     3       334      1000      -        2m",
    "  3     127.0.0.1:7403  up     3       333      1000      -        3m",
    "[shards] 1000, by SHARD",
    "  SHARD  TABLE     BOUNDS          LEADER  REPLICAS (LAG)    LAG  STATE  SLOTS/S",
    "  494    orders    [k0494, k0495)  3       1 (0), 2 (0), 3*  0    ok     -",
    "  495    orders    [k0495, k0496)  1       1*, 2 (0), 3 (0)  0    ok     -",
    "  496    orders    [k0496, k0497)  2       1 (0), 2*, 3 (0)  0    ok     -",
    "  497    orders    [k0497, k0498)  3       1 (0), 2 (0), 3*  0    ok     -",
    "  498    orders    [k0498, k0499)  1       1*, 2 (0), 3 (0)  0    ok     -",
    "  499    orders    [k0499, k0500)  2       1 (0), 2*, 3 (0)  0    ok     -",
    "> 500    orders    [k0500, k0501)  3       1 (0), 2 (0), 3*  0    ok     -",
    "  501    orders    [k0501, k0502)  1       1*, 2 (0), 3 (0)  0    ok     -",
    "  502    orders    [k0502, k0503)  2       1 (0), 2*, 3 (0)  0    ok     -",
    "  503    orders    [k0503, k0504)  3       1 (0), 2 (0), 3*  0    ok     -",
    "  504    orders    [k0504, k0505)  1       1*, 2 (0), 3 (0)  0    ok     -",
    "  505    orders    [k0505, k0506)  2       1 (0), 2*, 3 (0)  0    ok     -",
    " jobs  0, by JOB, greatest first",
    "  JOB  KIND  SHARD  STATE  PROGRESS  STEP  LEFT  WHAT",
    "",
    "q quit  Tab pane  s sort  / filter  ? help  t transfer  x split",
];

fn looked(shards: u64, with_job: bool) -> State {
    let mut status = samples::status(shards);
    if with_job {
        status.jobs = vec![samples::job(7, "running", "promote", None)];
    }
    let mut state = State::default();
    state.look(&status, None);
    state
}

fn drawn(state: &State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| picture(frame, state)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(state: &State, width: u16, height: u16) -> Vec<String> {
    let buffer = drawn(state, width, height);
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

/// Without those that are empty.
fn written(state: &State, width: u16, height: u16) -> Vec<String> {
    lines(state, width, height).into_iter().filter(|line| !line.is_empty()).collect()
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        step(state, Event::Key(Key::Char(key)));
    }
}

#[test]
fn three_shards_on_three_sizes() {
    let state = looked(3, true);
    assert_eq!(written(&state, 120, 40), LARGE);
    assert_eq!(written(&state, 80, 24), MIDDLE);
    assert_eq!(lines(&state, 40, 10), SMALL);
}

#[test]
fn no_shard_leaves_its_place_empty() {
    assert_eq!(written(&looked(0, false), 80, 24), EMPTY);
    assert_eq!(
        lines(&looked(0, false), 40, 10)[1..4],
        ["[shards] 0, by SHARD", "  SHARD  TABLE  BOUNDS  LEADER  REPLICAS", ""]
    );
}

#[test]
fn a_thousand_shards_are_scrolled() {
    let mut state = looked(1_000, false);
    state.front().select(499);
    assert_eq!(lines(&state, 80, 24), SCROLLED);
    // Of forty lines 28 are rows of the shards, the first of them the ninth line.
    for (keys, first, last) in [("g", "> 1 ", "  28 "), ("G", "  973 ", "> 1000 ")] {
        press(&mut state, keys);
        let large = lines(&state, 120, 40);
        assert!(large[8].starts_with(first) && large[35].starts_with(last), "{large:?}");
        assert!(large[36].starts_with(" jobs "), "{large:?}");
    }
    press(&mut state, "g");
    assert_eq!(lines(&state, 40, 10)[3], "> 1      (system)  [first, end)    2");
}

#[test]
fn nothing_panics_at_any_size() {
    let three = looked(3, true);
    for (width, height) in (1..=130).flat_map(|width| (1..=45).map(move |height| (width, height))) {
        drawn(&three, width, height);
    }
    for shards in [0, 3, 1_000] {
        for keys in ["", "?", "/kx", "t", "sS", "G"] {
            let mut state = looked(shards, shards > 0);
            press(&mut state, keys);
            for width in [1, 2, 3, 5, 8, 20, 40, 80, 300] {
                for height in (1..=16).chain([24, 40, 100]) {
                    drawn(&state, width, height);
                }
            }
        }
    }
}

#[test]
fn the_last_line_has_what_matters_most() {
    let last = |state: &State| lines(state, 120, 24).pop().unwrap();
    let mut state = looked(3, true);
    assert!(last(&state).ends_with("? help  t transfer  x split"));
    state.miss("no node answers".to_owned());
    assert_eq!(last(&state), "no node answers");
    press(&mut state, "t");
    let asked = "hand the leadership of shard 1 to the next of its replicas? y does it, any other key does not";
    assert_eq!(last(&state), asked);
    press(&mut state, "y");
    assert!(last(&state).starts_with("under way: hand the leadership of shard 1"));
    step(&mut state, Event::Acted(Ok("node 3 was asked to lead shard 1".to_owned())));
    assert_eq!(last(&state), "node 3 was asked to lead shard 1");
    press(&mut state, "/k00");
    assert_eq!(last(&state), "/k00_  Enter keeps it, Esc shows all");
    step(&mut state, Event::Key(Key::Enter));
    assert_eq!(state.mode, Mode::Normal);
    let titles = lines(&state, 120, 24);
    assert!(titles.iter().any(|line| line == "[shards] 2 of 3 with \"k00\", by SHARD"), "{titles:?}");
    state.focus = Pane::Jobs;
    press(&mut state, "c");
    assert_eq!(state.mode, Mode::Confirm(Act::Cancel(7)));
}

#[test]
fn help_names_every_key() {
    let mut state = looked(3, true);
    press(&mut state, "?");
    let shown = lines(&state, 120, 24);
    for (keys, what) in HELP {
        assert!(shown.iter().any(|line| line.contains(keys) && line.ends_with(what)), "{keys}: {shown:?}");
    }
}

#[test]
fn what_is_wrong_is_red_and_what_is_selected_reversed() {
    let mut status = samples::status(3);
    status.shards[2].leader = None;
    let mut state = State::default();
    state.look(&status, None);
    let buffer = drawn(&state, 80, 24);
    // The rows of the shards are lines 8 to 10.
    assert!(
        buffer[(40, 8)].modifier.contains(Modifier::REVERSED) && !buffer[(40, 9)].modifier.contains(Modifier::REVERSED)
    );
    assert_eq!((buffer[(2, 9)].fg, buffer[(2, 10)].fg), (Color::Reset, Color::Red));
}

#[test]
fn wide_and_long_texts_stay_in_their_columns() {
    assert_eq!((cut("abcdef", 4), cut("東京東京", 4)), ("abc…".to_owned(), "東…".to_owned()));
    let mut status = samples::status(3);
    status.shards[1].table = Some("東京".repeat(30));
    let mut state = State::default();
    state.look(&status, None);
    let shown = lines(&state, 120, 24);
    assert!(shown[9].contains("…   [first, k0003)"), "{}", shown[9]);
}
