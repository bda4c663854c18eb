//! The last warning of a run whose terminal is painted: log lines would disturb the screen, so the
//! view shows the last of them as a line of its state.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::outages::lasted;

/// Characters of a warning that are kept.
const KEPT_CHARS: usize = 200;

/// The last warning and how many there were. The view and the log of the process share it.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Option<Last>>);

#[derive(Debug)]
struct Last {
    text: String,
    at: Instant,
    count: u64,
}

impl Warnings {
    /// Takes in a warning instead of the one before.
    pub fn add(&self, text: &str) {
        let is_cut = text.chars().nth(KEPT_CHARS).is_some();
        let kept = text.chars().take(KEPT_CHARS);
        // Warnings quote errors of servers, which may hold anything.
        let mut text: String = kept.map(|c| if c.is_control() { ' ' } else { c }).collect();
        if is_cut {
            text.push('…');
        }
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = last.as_ref().map_or(0, |last| last.count);
        *last = Some(Last {
            text,
            at: Instant::now(),
            count: count.saturating_add(1),
        });
    }

    /// The line of the state; none before the first warning.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .map(|last| line(&last.text, last.at.elapsed(), last.count))
    }
}

fn line(text: &str, age: Duration, count: u64) -> String {
    let age = lasted(age);
    match count {
        ..=1 => format!("warning, {age} ago: {text}"),
        count => format!("last of {count} warnings, {age} ago: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_warning_is_shown_with_its_age_and_how_many_there_were() {
        let seconds = Duration::from_secs;
        assert_eq!(
            line("store is slow", seconds(75), 1),
            "warning, 1 min 15 s ago: store is slow"
        );
        assert_eq!(
            line("store is slow", seconds(4), 12),
            "last of 12 warnings, 4 s ago: store is slow"
        );
        let warnings = Warnings::default();
        assert_eq!(warnings.line(), None);
        warnings.add("one");
        warnings.add("two");
        assert_eq!(
            warnings.line().as_deref(),
            Some("last of 2 warnings, 0 s ago: two")
        );
    }

    #[test]
    fn a_warning_is_bounded_and_sends_nothing_to_the_terminal_but_text() {
        let warnings = Warnings::default();
        warnings.add(&format!("\u{1b}[2J\n{}", "é".repeat(10_000)));
        let line = warnings.line().expect("a warning");
        assert!(!line.contains(char::is_control), "{line:?}");
        assert!(line.chars().count() < KEPT_CHARS + 40, "{line}");
        assert!(line.ends_with('…'), "{line}");
    }
}
