//! The picture on a screen.
//!
//! Owns: where everything is drawn, and in which colours. Must never: change the state, or fail: what has no room is left out.

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::terminal::Frame;
use ratatui_core::text::Span;

use super::keys::HELP;
use super::model::{FRAME, Mode, PANE_HEAD, Pane, State, View};
use super::rows::{Row, Tone};

/// Columns of a cell, at most, but of the last in its row.
const CELL_MAX: usize = 32;
/// Columns between two cells.
const GAP: usize = 2;
/// Columns in front of rows.
const MARGIN: u16 = 2;
/// Columns in front of what a key does.
const HELP_MARGIN: u16 = 20;

/// Draws everything.
pub fn picture(frame: &mut Frame<'_>, state: &State) {
    let area = frame.area();
    let buffer = frame.buffer_mut();
    let mut page = Page { area, buffer };
    page.line(0, 0, &summary(state), bold());
    if area.height >= FRAME {
        let (text, style) = footer(state);
        page.line(0, area.height - 1, &text, style);
    }
    let last = area.height.saturating_sub(1);
    if state.mode == Mode::Help {
        return help(&mut page, last);
    }
    let mut top = 1;
    for (pane, height) in Pane::ALL.into_iter().zip(state.heights(area.height)) {
        pane_at(&mut page, state, pane, top, height);
        top += height;
    }
}

/// The cells that there are to draw on.
struct Page<'a> {
    area: Rect,
    buffer: &'a mut Buffer,
}

impl Page<'_> {
    /// Writes what has room of a text at a place of the page.
    fn line(&mut self, x: u16, y: u16, text: &str, style: Style) {
        if x < self.area.width && y < self.area.height {
            let room = usize::from(self.area.width - x);
            self.buffer.set_stringn(self.area.x + x, self.area.y + y, text, room, style);
        }
    }

    /// Gives a line a style where nothing is written too.
    fn paint(&mut self, y: u16, style: Style) {
        if y < self.area.height {
            let line = Rect { y: self.area.y + y, height: 1, ..self.area };
            self.buffer.set_style(line, style);
        }
    }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn faint() -> Style {
    Style::new().fg(Color::DarkGray)
}

fn style_of(tone: Tone) -> Style {
    match tone {
        Tone::Plain => Style::new(),
        Tone::Faint => faint(),
        Tone::Warn => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red),
    }
}

/// The first line: the whole cluster.
fn summary(state: &State) -> String {
    let Some(cluster) = state.cluster() else { return "synod: the cluster is asked".to_owned() };
    let count = |pane| state.view(pane).total();
    format!(
        "synod {} version {}: {}, {}, {}, {} s ago",
        cluster.id,
        cluster.version,
        counted(count(Pane::Nodes), "node"),
        counted(count(Pane::Shards), "shard"),
        counted(cluster.running, "running job"),
        state.age().as_secs(),
    )
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The last line: a question, an outcome, trouble, or the keys.
fn footer(state: &State) -> (String, Style) {
    let bad = Style::new().fg(Color::Red);
    match state.mode {
        Mode::Confirm(act) => return (format!("{}? y does it, any other key does not", act.in_words()), bold()),
        Mode::Filter => {
            return (format!("/{}_  Enter keeps it, Esc shows all", state.view(state.focus).filter()), bold());
        }
        Mode::Help => return ("any key goes back".to_owned(), faint()),
        Mode::Normal => {}
    }
    if let Some(notice) = &state.notice {
        return (notice.text.clone(), if notice.bad { bad } else { bold() });
    }
    if let Some(act) = state.acting {
        return (format!("under way: {}", act.in_words()), bold());
    }
    let alarm = state.cluster().and_then(|cluster| cluster.alarm.as_deref());
    if let Some(trouble) = state.trouble().or(alarm) {
        return (trouble.to_owned(), bad);
    }
    let own = match state.focus {
        Pane::Nodes => "",
        Pane::Shards => "  t transfer  x split",
        Pane::Jobs => "  c cancel",
    };
    (format!("q quit  Tab pane  s sort  / filter  ? help{own}"), faint())
}

fn help(page: &mut Page<'_>, end: u16) {
    for (y, (keys, what)) in (2..end).zip(HELP) {
        page.line(MARGIN, y, keys, bold());
        page.line(HELP_MARGIN, y, what, Style::new());
    }
}

fn pane_at(page: &mut Page<'_>, state: &State, pane: Pane, top: u16, height: u16) {
    if height == 0 {
        return;
    }
    let (view, in_front) = (state.view(pane), state.focus == pane);
    page.line(0, top, &title(pane, view, in_front), if in_front { bold() } else { Style::new() });
    if height == 1 {
        return;
    }
    let places = places(pane, view);
    let names = pane.columns().iter().map(|name| name.to_uppercase());
    write_cells(page, top + 1, &places, names, faint().add_modifier(Modifier::UNDERLINED));
    let lines = usize::from(height - PANE_HEAD);
    // The row that is selected stays in the middle, but at both ends.
    let first = view.at().saturating_sub(lines / 2).min(view.count().saturating_sub(lines));
    for (place, (y, row)) in (top + PANE_HEAD..top + height).zip(view.rows().skip(first)).enumerate() {
        row_at(page, y, &places, row);
        if in_front && first + place == view.at() {
            page.line(0, y, ">", bold());
            page.paint(y, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
}

/// What a pane shows, and how.
fn title(pane: Pane, view: &View, in_front: bool) -> String {
    let (column, descending) = view.sorted();
    let name = if in_front { format!("[{}]", pane.name()) } else { format!(" {} ", pane.name()) };
    let count = if view.filter().is_empty() {
        view.total().to_string()
    } else {
        format!("{} of {} with \"{}\"", view.count(), view.total(), view.filter())
    };
    let by = pane.columns().get(column).copied().unwrap_or_default().to_uppercase();
    format!("{name} {count}, by {by}{}", if descending { ", greatest first" } else { "" })
}

/// Where each column begins. All rows count, not only those that are seen: columns stay where they are while one scrolls.
fn places(pane: Pane, view: &View) -> Vec<usize> {
    let mut widths: Vec<usize> = pane.columns().iter().map(|name| name.len()).collect();
    for row in view.rows() {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = (*width).max(wide(&cell.text).min(CELL_MAX));
        }
    }
    let mut next = usize::from(MARGIN);
    let place = |width: usize| {
        let at = next;
        next += width + GAP;
        at
    };
    widths.into_iter().map(place).collect()
}

/// Columns that a text takes.
fn wide(text: &str) -> usize {
    Span::raw(text).width()
}

fn row_at(page: &mut Page<'_>, y: u16, places: &[usize], row: &Row) {
    write_cells(page, y, places, row.cells.iter().map(|cell| &cell.text), style_of(row.tone));
}

/// Writes a text at each place, up to the next place.
fn write_cells(
    page: &mut Page<'_>,
    y: u16,
    places: &[usize],
    texts: impl Iterator<Item = impl AsRef<str>>,
    style: Style,
) {
    for (column, (x, text)) in places.iter().zip(texts).enumerate() {
        let room = places.get(column + 1).map(|next| next - x - GAP);
        let x = u16::try_from(*x).unwrap_or(u16::MAX);
        match room {
            Some(room) if wide(text.as_ref()) > room => page.line(x, y, &cut(text.as_ref(), room), style),
            _ => page.line(x, y, text.as_ref(), style),
        }
    }
}

/// The beginning of a text that has room in so many columns, with a sign that more follows.
fn cut(text: &str, room: usize) -> String {
    let (mut shown, mut taken) = (String::new(), 1);
    for letter in text.chars() {
        taken += wide(letter.encode_utf8(&mut [0; 4]));
        if taken > room {
            break;
        }
        shown.push(letter);
    }
    shown + "…"
}

#[cfg(test)]
mod tests;
