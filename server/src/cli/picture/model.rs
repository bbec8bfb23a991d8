//! What the picture shows: the last look, which pane is in front, what is selected, sorted by and filtered.
//!
//! Owns: the state, and how looks and outcomes change it; keys change it in `keys`. Must never: read a clock, a terminal or the cluster, or
//! draw.

use std::cmp::Reverse;
use std::time::Duration;

use super::input::Key;
use super::rows::{self, Cell, JOBS, NODES, Row, SHARDS};
use super::trend::Trend;
use crate::cli::output::json;

/// Lines of the screen beside the panes: the first and the last.
pub const FRAME: u16 = 2;
/// Lines of a pane beside its rows: what it is, and the columns.
pub const PANE_HEAD: u16 = 2;
/// Lines below which only the pane in front is shown.
const ALL_PANES: u16 = 14;

/// A kind of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// The nodes.
    Nodes,
    /// The shards.
    Shards,
    /// The jobs.
    Jobs,
}

impl Pane {
    /// From the top to the bottom.
    pub const ALL: [Self; 3] = [Self::Nodes, Self::Shards, Self::Jobs];

    /// What it shows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Shards => "shards",
            Self::Jobs => "jobs",
        }
    }

    /// Its columns.
    pub fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Nodes => NODES,
            Self::Shards => SHARDS,
            Self::Jobs => JOBS,
        }
    }
}

/// Something that the picture can have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Hand the leadership of this shard to the next of its replicas.
    Transfer(u64),
    /// Split this shard where it is split by default.
    Split(u64),
    /// Cancel this job.
    Cancel(u64),
}

impl Act {
    /// What it is, in words that end a question.
    pub fn in_words(self) -> String {
        match self {
            Self::Transfer(shard) => format!("hand the leadership of shard {shard} to the next of its replicas"),
            Self::Split(shard) => format!("split shard {shard} in the middle"),
            Self::Cancel(job) => format!("cancel job {job}"),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// The cluster was looked at.
    Looked {
        /// What was seen.
        status: Box<json::Status>,
        /// What could not be seen.
        trouble: Option<String>,
    },
    /// The cluster could not be looked at.
    Missed(String),
    /// What came of something that was to be done.
    Acted(Result<String, String>),
    /// The terminal has this many lines.
    Resized(u16),
    /// Time has passed.
    Tick,
}

/// What is to be done after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End.
    Quit,
    /// Draw every cell anew.
    Redraw,
    /// Have the cluster do something.
    Do(Act),
}

/// What the keys are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Moving about.
    #[default]
    Normal,
    /// Typing what the rows of the pane in front are to contain.
    Filter,
    /// Saying whether this is to be done.
    Confirm(Act),
    /// Reading which keys there are.
    Help,
}

/// The last outcome, until the next key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What to tell.
    pub text: String,
    /// Whether something went wrong.
    pub bad: bool,
}

/// The rows of a pane, and which of them are seen how.
#[derive(Clone, Debug, Default)]
pub struct View {
    rows: Vec<Row>,
    /// Places in `rows` that the filter leaves, in their order.
    shown: Vec<usize>,
    /// Place in `shown` of the row that is selected; 0 where there is none.
    at: usize,
    /// Its number.
    selected: Option<u64>,
    /// Whether the same is selected when rows come, go or change places. The first is selected for its place.
    pinned: bool,
    sort: usize,
    descending: bool,
    filter: String,
}

impl View {
    /// The rows that are left, in their order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.shown.iter().filter_map(|index| self.rows.get(*index))
    }

    /// How many are left.
    pub fn count(&self) -> usize {
        self.shown.len()
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.rows.len()
    }

    /// The place of the row that is selected.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The number of the row that is selected.
    pub fn selected(&self) -> Option<u64> {
        self.selected
    }

    /// The column that is sorted by, and whether from the greatest down.
    pub fn sorted(&self) -> (usize, bool) {
        (self.sort, self.descending)
    }

    /// What rows must contain.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// Sorts by the next of so many columns.
    pub fn sort_next(&mut self, columns: usize) {
        self.sort = (self.sort + 1) % columns.max(1);
        self.arrange();
    }

    /// Turns the order round.
    pub fn turn(&mut self) {
        self.descending = !self.descending;
        self.arrange();
    }

    /// Leaves only rows that contain this, in letters of either case.
    pub fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.arrange();
    }

    /// Selects the row at this place, or the last.
    pub fn select(&mut self, at: usize) {
        self.point(at);
        self.pinned = self.at > 0;
    }

    fn point(&mut self, at: usize) {
        self.at = at.min(self.shown.len().saturating_sub(1));
        self.selected = self.shown.get(self.at).and_then(|index| self.rows.get(*index)).map(|row| row.id);
    }

    fn set_rows(&mut self, rows: Vec<Row>) {
        self.rows = rows;
        self.arrange();
    }

    fn arrange(&mut self) {
        let (rows, sort) = (&self.rows, self.sort);
        let wanted = self.filter.to_lowercase();
        let has = |cell: &Cell| cell.text.to_lowercase().contains(&wanted);
        let left = |index: &usize| wanted.is_empty() || rows[*index].cells.iter().any(has);
        self.shown = (0..rows.len()).filter(left).collect();
        let key = |index: &usize| (rows[*index].cells.get(sort).map(|cell| &cell.sort), rows[*index].id);
        if self.descending {
            self.shown.sort_by_key(|index| Reverse(key(index)));
        } else {
            self.shown.sort_by_key(key);
        }
        if !self.pinned {
            return self.point(0);
        }
        let place = self.selected.and_then(|id| self.shown.iter().position(|index| self.rows[*index].id == id));
        // Where the selected row went, the one that took its place is selected.
        self.point(place.unwrap_or(self.at));
    }
}

/// Everything that is drawn.
#[derive(Clone, Debug)]
pub struct State {
    /// What the keys are for.
    pub mode: Mode,
    /// The pane in front.
    pub focus: Pane,
    /// The last outcome.
    pub notice: Option<Notice>,
    /// What is being done and has not ended.
    pub acting: Option<Act>,
    views: [View; 3],
    cluster: Option<Cluster>,
    trouble: Option<String>,
    trend: Trend,
    now: Duration,
    lines: u16,
}

/// What the last look says of the whole.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The beginning of its id.
    pub id: String,
    /// Its version.
    pub version: u32,
    /// Jobs that run.
    pub running: usize,
    /// What is wrong with clocks, and similar words for everybody.
    pub alarm: Option<String>,
    /// When it was looked at.
    pub at: Duration,
}

impl Default for State {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            focus: Pane::Shards,
            notice: None,
            acting: None,
            // Jobs that began last are at the top.
            views: [View::default(), View::default(), View { descending: true, ..View::default() }],
            cluster: None,
            trouble: None,
            trend: Trend::default(),
            now: Duration::ZERO,
            lines: 24,
        }
    }
}

impl State {
    /// The rows of a pane.
    pub fn view(&self, pane: Pane) -> &View {
        &self.views[pane as usize]
    }

    /// The rows of the pane in front.
    pub fn front(&mut self) -> &mut View {
        &mut self.views[self.focus as usize]
    }

    /// What the last look says of the whole; none before the first.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// Why the last look failed, or what it lacks.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Since the last look.
    pub fn age(&self) -> Duration {
        self.cluster.as_ref().map_or(Duration::ZERO, |cluster| self.now.saturating_sub(cluster.at))
    }

    /// Rows of the pane in front that are seen at once; one at least.
    pub fn page(&self) -> usize {
        let lines = self.heights(self.lines)[self.focus as usize];
        usize::from(lines.saturating_sub(PANE_HEAD)).max(1)
    }

    /// Lines that each pane has on a screen of this many.
    pub fn heights(&self, lines: u16) -> [u16; 3] {
        let room = lines.saturating_sub(FRAME);
        let wish =
            |pane: Pane| u16::try_from(self.view(pane).count().max(1)).unwrap_or(u16::MAX).saturating_add(PANE_HEAD);
        let wishes = Pane::ALL.map(wish);
        let mut heights = [0; 3];
        let front = self.focus as usize;
        if room < ALL_PANES {
            heights[front] = room;
            return heights;
        }
        // A quarter for each of the others, the rest for the pane in front; what that leaves is for the others again.
        let mut left = room;
        let mut give = |pane: usize, most: u16| {
            let more = (wishes[pane] - heights[pane]).min(most).min(left);
            heights[pane] += more;
            left -= more;
        };
        let others = [(front + 1) % 3, (front + 2) % 3];
        others.iter().for_each(|pane| give(*pane, room / 4));
        give(front, u16::MAX);
        others.iter().for_each(|pane| give(*pane, u16::MAX));
        heights
    }

    /// Takes the time of what happens next, since the picture began.
    pub fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// Takes the terminal's size.
    pub fn resize(&mut self, lines: u16) {
        self.lines = lines;
    }

    /// Takes a look at the cluster.
    pub fn look(&mut self, status: &json::Status, trouble: Option<String>) {
        self.trend.take(self.now, status);
        self.views[Pane::Nodes as usize].set_rows(rows::nodes(status, &self.trend));
        self.views[Pane::Shards as usize].set_rows(rows::shards(status, &self.trend));
        self.views[Pane::Jobs as usize].set_rows(rows::jobs(status, &self.trend));
        self.cluster = Some(Cluster {
            id: status.cluster.chars().take(8).collect(),
            version: status.version,
            running: status.jobs.iter().filter(|job| rows::runs(job)).count(),
            alarm: status.nodes.iter().flat_map(|node| &node.clock_alarms).next().cloned(),
            at: self.now,
        });
        self.trouble = trouble;
    }

    /// Takes that a look failed; what was seen before stays.
    pub fn miss(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// Takes what came of something that was done.
    pub fn outcome(&mut self, outcome: Result<String, String>) {
        self.acting = None;
        let bad = outcome.is_err();
        let (Ok(text) | Err(text)) = outcome;
        self.notice = Some(Notice { text, bad });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::picture::samples;

    fn looked(shards: u64) -> State {
        let mut state = State::default();
        state.look(&samples::status(shards), None);
        state
    }

    fn ids(state: &State) -> Vec<u64> {
        state.view(Pane::Shards).rows().map(|row| row.id).collect()
    }

    #[test]
    fn rows_are_sorted_by_a_column_and_turned_round() {
        let mut state = State::default();
        let mut status = samples::status(12);
        status.shards[4].replicas[0].lag_slots = Some(70);
        status.shards[5].replicas[0].lag_slots = Some(9);
        status.shards[6].replicas.iter_mut().for_each(|replica| replica.lag_slots = None);
        state.look(&status, None);
        assert_eq!(ids(&state), (1..=12).collect::<Vec<_>>());
        // By numbers, not by their digits; the number of the shard decides among equals.
        (0..5).for_each(|_| state.front().sort_next(SHARDS.len()));
        assert_eq!(SHARDS[state.view(Pane::Shards).sorted().0], "lag");
        assert_eq!(ids(&state), [7, 1, 2, 3, 4, 8, 9, 10, 11, 12, 6, 5]);
        state.front().turn();
        assert_eq!(ids(&state), [5, 6, 12, 11, 10, 9, 8, 4, 3, 2, 1, 7]);
        // After the last column the first follows.
        (5..SHARDS.len()).for_each(|_| state.front().sort_next(SHARDS.len()));
        assert_eq!(ids(&state), (1..=12).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_filter_leaves_rows_that_contain_it_in_either_case() {
        let mut state = looked(12);
        state.front().set_filter("SYS".to_owned());
        assert_eq!((ids(&state), state.view(Pane::Shards).total()), (vec![1], 12));
        state.front().set_filter("k0011".to_owned());
        assert_eq!(ids(&state), [10, 11]);
        state.front().set_filter("nowhere".to_owned());
        assert_eq!((ids(&state), state.view(Pane::Shards).selected()), (vec![], None));
        state.front().set_filter(String::new());
        assert_eq!(ids(&state).len(), 12);
    }

    #[test]
    fn the_same_row_stays_selected() {
        let mut state = looked(12);
        state.front().select(4);
        assert_eq!(state.view(Pane::Shards).selected(), Some(5));
        state.front().turn();
        let view = state.view(Pane::Shards);
        assert_eq!((view.at(), view.selected()), (7, Some(5)));
        let mut fewer = samples::status(12);
        fewer.shards.retain(|shard| shard.id != 5);
        state.look(&fewer, None);
        let view = state.view(Pane::Shards);
        assert_eq!((view.at(), view.selected()), (7, Some(4)), "what took its place");
        state.look(&samples::status(0), None);
        assert_eq!(state.view(Pane::Shards).selected(), None);
        state.front().select(usize::MAX);
        assert_eq!(state.view(Pane::Shards).at(), 0);
    }

    #[test]
    fn at_the_top_the_first_row_is_selected_whichever_it_is() {
        let mut state = looked(12);
        state.front().turn();
        let view = state.view(Pane::Shards);
        assert_eq!((view.at(), view.selected()), (0, Some(12)));
        state.front().select(3);
        state.front().turn();
        let view = state.view(Pane::Shards);
        assert_eq!((view.at(), view.selected()), (8, Some(9)));
    }

    #[test]
    fn panes_share_the_lines_there_are() {
        let heights = |shards, focus, lines| State { focus, ..looked(shards) }.heights(lines);
        assert_eq!(heights(3, Pane::Shards, 40), [5, 5, 3]);
        assert_eq!(heights(1_000, Pane::Shards, 40), [5, 30, 3]);
        assert_eq!(heights(1_000, Pane::Nodes, 40), [5, 30, 3]);
        assert_eq!(heights(1_000, Pane::Nodes, 24), [5, 14, 3]);
        assert_eq!(heights(1_000, Pane::Jobs, 10), [0, 0, 8]);
        for lines in 0..60 {
            for focus in Pane::ALL {
                let heights = heights(1_000, focus, lines);
                assert!(heights.iter().sum::<u16>() <= lines.saturating_sub(FRAME), "{lines} {heights:?}");
                assert!(lines < 5 || heights[focus as usize] > PANE_HEAD, "{lines} {heights:?}");
            }
        }
    }

    #[test]
    fn a_look_that_fails_leaves_what_was_seen() {
        let mut state = looked(3);
        state.set_now(Duration::from_secs(5));
        state.miss("nothing listens".to_owned());
        assert_eq!((state.trouble(), state.age()), (Some("nothing listens"), Duration::from_secs(5)));
        assert_eq!(ids(&state).len(), 3);
        state.look(&samples::status(3), None);
        assert_eq!((state.trouble(), state.age()), (None, Duration::ZERO));
    }
}
