//! Owns the terminal: raw mode, the alternate screen and a hidden cursor. Every way out restores
//! it, also a panic of any thread.

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

/// Whether the terminal must be restored. Global, because a process has one terminal and a panic
/// hook has no other state.
static ACQUIRED: AtomicBool = AtomicBool::new(false);

/// The terminal while the console draws on it. Dropping it restores the terminal.
pub(super) struct TerminalGuard(DefaultTerminal);

impl TerminalGuard {
    /// Acquires the terminal. After an error the terminal is as before.
    pub(super) fn acquire() -> io::Result<Self> {
        restore_before_panic_messages();
        enable_raw_mode()?;
        ACQUIRED.store(true, Ordering::Release);
        enter().map(Self).inspect_err(|_| restore())
    }

    /// The terminal to draw on; none once another thread has restored it, because it belongs to the
    /// shell then.
    pub(super) fn terminal(&mut self) -> Option<&mut DefaultTerminal> {
        ACQUIRED.load(Ordering::Acquire).then_some(&mut self.0)
    }
}

impl Drop for TerminalGuard {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether standard output is a terminal that the console can draw on, by the value of `TERM`. On
/// Windows `TERM` is usually unset.
pub(super) fn can_draw(term: Option<&str>) -> bool {
    stdout().is_terminal() && is_drawable(term, cfg!(windows))
}

fn is_drawable(term: Option<&str>, without_term: bool) -> bool {
    term.map_or(without_term, |term| !matches!(term, "" | "dumb"))
}

/// Restores the terminal if the console has acquired it. It continues after an error: a terminal
/// restored in part is better than none. Call it before `std::process::exit`, which drops nothing.
pub fn restore() {
    if ACQUIRED.swap(false, Ordering::AcqRel) {
        let _ = disable_raw_mode();
        // `process::exit` skips the `Drop` of ratatui, which would show the cursor.
        let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    }
}

fn enter() -> io::Result<DefaultTerminal> {
    execute!(stdout(), EnterAlternateScreen)?;
    Terminal::new(CrosstermBackend::new(stdout()))
}

fn restore_before_panic_messages() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
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
