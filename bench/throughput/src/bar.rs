//! A bar for a person who waits: on a terminal only, and on standard error, so that what is
//! measured can be piped.

use std::{
    io::{IsTerminal, Write, stderr},
    time::{Duration, Instant},
};

use crate::{grouped, per_second};

/// How often it is drawn anew.
const EVERY: Duration = Duration::from_millis(200);
const CELLS: u64 = 30;

/// How far something has come.
#[derive(Debug)]
pub struct Bar {
    what: &'static str,
    of: u64,
    begun: Instant,
    drawn: Option<Instant>,
    shows: bool,
    colours: bool,
}

impl Bar {
    /// A bar of nothing yet, where standard error is a terminal. Colours unless `NO_COLOR` says
    /// otherwise.
    #[must_use]
    pub fn new(what: &'static str, of: u64) -> Self {
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            what,
            of,
            begun: Instant::now(),
            drawn: None,
            shows: stderr().is_terminal(),
            colours,
        }
    }

    /// Whether anything is drawn, and it is time to draw it anew.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.shows && self.drawn.is_none_or(|drawn| drawn.elapsed() >= EVERY)
    }

    /// So much is done; `more` is shown as it is.
    pub fn show(&mut self, done: u64, more: &str) {
        if self.shows {
            self.drawn = Some(Instant::now());
            // An error is ignored: the terminal may be gone.
            let _ = write!(stderr(), "\r{}\x1b[K", self.line(done, more));
            let _ = stderr().flush();
        }
    }

    fn line(&self, done: u64, more: &str) -> String {
        let done = done.min(self.of);
        let cells = (done * CELLS).checked_div(self.of).unwrap_or(CELLS);
        let cell = |cell| if cell < cells { '#' } else { '.' };
        let cells: String = (0..CELLS).map(cell).collect();
        let (on, off) = if self.colours {
            ("\x1b[36m", "\x1b[0m")
        } else {
            ("", "")
        };
        let rate = grouped(whole(per_second(done, self.begun.elapsed())));
        format!(
            "{:8} {on}{cells}{off} {} of {}, {rate}/s{more}",
            self.what,
            grouped(done),
            grouped(self.of)
        )
    }

    /// Takes it away.
    pub fn end(&mut self) {
        if self.shows && self.drawn.take().is_some() {
            let _ = write!(stderr(), "\r\x1b[K");
            let _ = stderr().flush();
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn whole(rate: f64) -> u64 {
    rate as u64
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_and_bears_no_colours_where_none_are_wanted() {
        let bar = Bar {
            colours: false,
            ..Bar::new("filling", 1_000)
        };
        let line = bar.line(500, ", 20 MB");
        assert!(
            line.contains("###############...............")
                && line.contains("500 of 1,000")
                && line.ends_with(", 20 MB"),
            "{line}"
        );
        assert!(!line.contains('\x1b'));
        assert!(bar.line(5_000, "").contains("1,000 of 1,000"));
        let bar = Bar {
            colours: true,
            of: 0,
            ..bar
        };
        assert!(bar.line(0, "").contains('\x1b'));
    }

    #[test]
    fn nothing_is_drawn_without_a_terminal() {
        let mut bar = Bar {
            shows: false,
            ..Bar::new("filling", 1_000)
        };
        bar.show(1, "");
        assert!(bar.drawn.is_none() && !bar.is_due());
    }
}
