//! Collects everything that is wrong across flags and in the files they name, so that one message
//! reports it all.

use std::fmt::Display;

use crate::exit::Exit;

/// What is wrong so far, each with the flag to change.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<String>);

impl Errors {
    /// Adds one error; `text` begins with the flag's name.
    pub(crate) fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    /// Adds the error of a result under the flag's name.
    pub(crate) fn keep<T, E: Display>(&mut self, flag: &str, read: Result<T, E>) -> Option<T> {
        read.map_err(|error| self.add(format!("{flag}: {error}")))
            .ok()
    }

    /// The settings if nothing was wrong, otherwise every error in one message.
    pub(crate) fn settle<T>(self, settings: impl FnOnce() -> Option<T>) -> Result<T, Exit> {
        match settings() {
            Some(settings) if self.0.is_empty() => Ok(settings),
            _ => Err(Exit::Input(self.0.join("\n"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_reported_at_once() {
        let mut errors = Errors::default();
        let (a, b, c) = (
            errors.keep("--a", "x".parse::<u8>()),
            errors.keep("--b", "7".parse::<u8>()),
            errors.keep("--c", "999".parse::<u8>()),
        );
        let text = errors
            .settle(|| Some((a?, b?, c?)))
            .expect_err("two are wrong")
            .to_string();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("--a: ") && text.contains("--c: "), "{text}");
    }
}
