//! The terminal, taken for a picture and given back.
//!
//! Owns: raw mode, the alternate screen, and the bytes that show a cell. Must never: leave the terminal otherwise than it was found,
//! however the process ends, as long as it can act at all.

use std::io::{self, Stdout, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::style::{Attribute, Color as Colour, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{
    Clear, ClearType as Region, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{execute, queue};
use ratatui_core::backend::{Backend, ClearType, WindowSize};
use ratatui_core::buffer::Cell;
use ratatui_core::layout::{Position, Size};
use ratatui_core::style::{Color, Modifier};
use ratatui_core::terminal::{Frame, Terminal};

/// Attributes that are shown, and how.
const ATTRIBUTES: [(Modifier, Attribute); 4] = [
    (Modifier::BOLD, Attribute::Bold),
    (Modifier::DIM, Attribute::Dim),
    (Modifier::UNDERLINED, Attribute::Underlined),
    (Modifier::REVERSED, Attribute::Reverse),
];

/// The terminal while the picture has it; given back when this is dropped, and before a panic is told.
pub struct Screen {
    terminal: Terminal<Ansi<Stdout>>,
    taken: Taken,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It cannot be changed or written to.
    pub fn take() -> io::Result<Screen> {
        let taken = Taken::take()?;
        // Dropped on an error, it gives the terminal back.
        let mut terminal = Terminal::new(Ansi::on(io::stdout()))?;
        terminal.hide_cursor()?;
        Ok(Screen { terminal, taken })
    }

    /// Draws what changed.
    ///
    /// # Errors
    /// The terminal cannot be written to.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture).map(drop)
    }

    /// Has everything drawn anew with the next picture.
    ///
    /// # Errors
    /// The terminal cannot be written to.
    pub fn forget(&mut self) -> io::Result<()> {
        self.terminal.clear()
    }

    /// The terminal's lines.
    ///
    /// # Errors
    /// The terminal does not say.
    pub fn lines(&self) -> io::Result<u16> {
        self.terminal.size().map(|size| size.height)
    }

    /// Whether a panic of any thread has given the terminal back.
    pub fn is_lost(&self) -> bool {
        !self.taken.0.load(Ordering::SeqCst)
    }
}

/// Whether the terminal is to be given back.
struct Taken(Arc<AtomicBool>);

impl Taken {
    fn take() -> io::Result<Taken> {
        let taken = Taken(Arc::new(AtomicBool::new(true)));
        give_back_on_panic(taken.0.clone());
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen, Clear(Region::All), Hide)?;
        Ok(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        give_back(&self.0, &mut io::stdout());
    }
}

/// From now on a panic of any thread gives the terminal back first: what it says would vanish with the alternate screen.
fn give_back_on_panic(taken: Arc<AtomicBool>) {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        give_back(&taken, &mut io::stdout());
        told(panic);
    }));
}

/// Makes the terminal what it was, once: a second time would move the cursor of whoever has it by then.
fn give_back(taken: &AtomicBool, out: &mut impl Write) {
    if taken.swap(false, Ordering::SeqCst) {
        // Where the one fails the other may do; and nobody is left to tell of it.
        let _ = execute!(out, SetAttribute(Attribute::Reset), ResetColor, Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// What a terminal is sent for cells; all of a picture leaves with one write.
struct Ansi<W: Write> {
    to: W,
    pending: Vec<u8>,
}

impl<W: Write> Ansi<W> {
    fn on(to: W) -> Self {
        Self { to, pending: Vec::new() }
    }
}

impl<W: Write> Backend for Ansi<W> {
    type Error = io::Error;

    fn draw<'a, I>(&mut self, content: I) -> io::Result<()>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        let out = &mut self.pending;
        let (mut next, mut look) = (None, None);
        for (x, y, cell) in content {
            if next != Some((x, y)) {
                queue!(out, MoveTo(x, y))?;
            }
            // A wide character takes more: the cell that follows it is then not the next.
            next = Some((x.saturating_add(1), y));
            if look != Some((cell.fg, cell.modifier)) {
                look = Some((cell.fg, cell.modifier));
                queue!(out, SetAttribute(Attribute::Reset), SetForegroundColor(colour(cell.fg)))?;
                for (_, attribute) in ATTRIBUTES.iter().filter(|(modifier, _)| cell.modifier.contains(*modifier)) {
                    queue!(out, SetAttribute(*attribute))?;
                }
            }
            queue!(out, Print(cell.symbol()))?;
        }
        queue!(out, SetAttribute(Attribute::Reset))
    }

    fn hide_cursor(&mut self) -> io::Result<()> {
        queue!(self.pending, Hide)
    }

    fn show_cursor(&mut self) -> io::Result<()> {
        queue!(self.pending, Show)
    }

    /// The cursor is hidden and nobody is told where it is.
    fn get_cursor_position(&mut self) -> io::Result<Position> {
        Ok(Position::ORIGIN)
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> io::Result<()> {
        let Position { x, y } = position.into();
        queue!(self.pending, MoveTo(x, y))
    }

    fn clear(&mut self) -> io::Result<()> {
        self.clear_region(ClearType::All)
    }

    fn clear_region(&mut self, region: ClearType) -> io::Result<()> {
        let region = match region {
            ClearType::All => Region::All,
            ClearType::AfterCursor => Region::FromCursorDown,
            ClearType::BeforeCursor => Region::FromCursorUp,
            ClearType::CurrentLine => Region::CurrentLine,
            ClearType::UntilNewLine => Region::UntilNewLine,
        };
        queue!(self.pending, Clear(region))
    }

    fn size(&self) -> io::Result<Size> {
        size().map(|(width, height)| Size { width, height })
    }

    fn window_size(&mut self) -> io::Result<WindowSize> {
        Ok(WindowSize { columns_rows: self.size()?, pixels: Size { width: 0, height: 0 } })
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.to.write_all(&self.pending);
        self.pending.clear();
        written?;
        self.to.flush()
    }
}

/// The colours that the picture uses; all others are the terminal's own.
fn colour(colour: Color) -> Colour {
    match colour {
        Color::Red => Colour::Red,
        Color::Yellow => Colour::Yellow,
        Color::DarkGray => Colour::DarkGrey,
        _ => Colour::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui_core::style::Style;
    use std::process::Command;

    /// Is set in a process of its own, which panics.
    const PANICS: &str = "SYNOD_TEST_SCREEN_PANICS";

    #[test]
    fn cells_in_a_row_are_moved_to_once() {
        let mut plain = Cell::EMPTY;
        plain.set_symbol("a");
        let mut marked = Cell::EMPTY;
        marked.set_symbol("b").set_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut ansi = Ansi::on(Vec::new());
        ansi.draw([(3, 1, &plain), (4, 1, &plain), (5, 1, &marked), (0, 2, &marked)].into_iter()).unwrap();
        assert!(ansi.to.is_empty(), "nothing leaves before it is whole");
        ansi.flush().unwrap();
        let sent = String::from_utf8(ansi.to).unwrap();
        assert_eq!(sent.matches('H').count(), 2, "{sent:?}");
        assert!(sent.contains("\u{1b}[2;4H") && sent.contains("aa") && sent.contains("\u{1b}[3;1Hb"), "{sent:?}");
        assert_eq!(sent.matches("\u{1b}[7m").count(), 1, "{sent:?}");
        assert!(sent.ends_with("\u{1b}[0m"), "{sent:?}");
    }

    #[test]
    fn the_terminal_is_given_back_once() {
        let (taken, mut sent) = (AtomicBool::new(true), Vec::new());
        give_back(&taken, &mut sent);
        let once = String::from_utf8(sent.clone()).unwrap();
        assert!(once.contains("\u{1b}[?25h") && once.ends_with("\u{1b}[?1049l"), "{once:?}");
        give_back(&taken, &mut sent);
        assert_eq!(sent.len(), once.len());
    }
    #[test]
    fn a_panic_gives_the_terminal_back() {
        if std::env::var_os(PANICS).is_some() {
            give_back_on_panic(Arc::new(AtomicBool::new(true)));
            panic!("by the test");
        }
        let (_, module) = module_path!().split_once("::").unwrap();
        let test = format!("{module}::a_panic_gives_the_terminal_back");
        let mut command = Command::new(std::env::current_exe().unwrap());
        let ended = command.args(["--exact", &test, "--nocapture"]).env(PANICS, "1").output().unwrap();
        let (sent, told) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(!ended.status.success() && told.contains("by the test"), "{told}");
        assert!(sent.contains("\u{1b}[?25h") && sent.contains("\u{1b}[?1049l"), "{sent:?}");
    }
}
