//! Holding the terminal: raw mode, the alternate screen and a hidden cursor, all given back on
//! every way out, a panic of any thread included.

use std::{
    io::{self, IsTerminal, stdout},
    panic,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

use ratatui::{
    DefaultTerminal, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::Show,
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};

/// Whether there is something to give back. One flag, because a process has one terminal and a
/// panic hook nothing else to ask.
static HELD: AtomicBool = AtomicBool::new(false);

/// The terminal while the view draws on it. Dropping it gives it back.
pub(super) struct Hold(DefaultTerminal);

impl Hold {
    /// Takes the terminal; on failure it is as it was.
    pub(super) fn take() -> io::Result<Self> {
        give_back_before_panic_messages();
        enable_raw_mode()?;
        HELD.store(true, Ordering::Release);
        enter().map(Self).inspect_err(|_| give_back())
    }

    /// What to draw on; `None` once another thread has given the terminal back, for then it belongs
    /// to the shell.
    pub(super) fn terminal(&mut self) -> Option<&mut DefaultTerminal> {
        HELD.load(Ordering::Acquire).then_some(&mut self.0)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        give_back();
    }
}

/// Whether standard output is a terminal that can be drawn on, by the value of TERM. On Windows
/// nobody sets it.
pub(super) fn can_be_drawn_on(term: Option<&str>) -> bool {
    stdout().is_terminal() && is_drawable(term, cfg!(windows))
}

fn is_drawable(term: Option<&str>, without_term: bool) -> bool {
    term.map_or(without_term, |term| !matches!(term, "" | "dumb"))
}

/// Gives the terminal back if it is held. It goes on after a failure: half a restored terminal is
/// better than none.
pub(crate) fn give_back() {
    if HELD.swap(false, Ordering::AcqRel) {
        let _ = disable_raw_mode();
        // A process that exits runs no `Drop` of ratatui's, so the cursor is ours to show.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    }
}

fn enter() -> io::Result<DefaultTerminal> {
    execute!(stdout(), EnterAlternateScreen)?;
    Terminal::new(CrosstermBackend::new(stdout()))
}

fn give_back_before_panic_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back();
            before(info);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumb_or_unnamed_terminal_is_not_drawn_on() {
        for (term, drawable) in [
            (None, false),
            (Some(""), false),
            (Some("dumb"), false),
            (Some("xterm"), true),
            (Some("linux"), true),
        ] {
            assert_eq!(is_drawable(term, false), drawable, "{term:?}");
        }
        assert!(is_drawable(None, true), "Windows");
    }
}
