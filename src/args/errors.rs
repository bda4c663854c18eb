//! Collects everything that is wrong with a command line, so that a person corrects it once and not
//! flag by flag.

use std::fmt::Display;

use crate::end::End;

/// What is wrong so far, each with the flag to change.
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<String>);

impl Errors {
    /// Notes one error.
    pub(crate) fn add(&mut self, text: impl Into<String>) {
        self.0.push(text.into());
    }

    /// Reads a flag's value; notes the error under the flag's name if it is none.
    pub(crate) fn read<T, E: Display>(
        &mut self,
        flag: &str,
        text: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        read(text)
            .map_err(|error| self.add(format!("{flag}: {error}")))
            .ok()
    }

    /// The same for a flag that may be absent: `Some(None)` then.
    #[expect(
        clippy::option_option,
        reason = "the outer one is an error, the inner one an absent flag"
    )]
    pub(crate) fn read_option<T, E: Display>(
        &mut self,
        flag: &str,
        text: Option<&str>,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        text.map_or(Some(None), |text| self.read(flag, text, read).map(Some))
    }

    /// The settings, if nothing was wrong; otherwise every error in one message.
    pub(crate) fn settle<T>(self, settings: impl FnOnce() -> Option<T>) -> Result<T, End> {
        match settings() {
            Some(settings) if self.0.is_empty() => Ok(settings),
            _ => Err(End::Input(self.0.join("\n"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_told_at_once() {
        let mut errors = Errors::default();
        let number = |text: &str| text.parse::<u8>();
        let (a, b, c) = (
            errors.read("--a", "x", number),
            errors.read("--b", "7", number),
            errors.read("--c", "999", number),
        );
        let told = errors
            .settle(|| Some((a?, b?, c?)))
            .expect_err("two are wrong")
            .to_string();
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.contains("--a: ") && told.contains("--c: "), "{told}");
    }
}
