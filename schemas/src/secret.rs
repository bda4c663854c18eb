//! A text that must not be seen: it prints as `***` and is wiped from memory when dropped.

use std::fmt;

use zeroize::Zeroizing;

/// A token or a password. There is one way to its text, [`Secret::expose`], so that every use can
/// be found.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// A secret from a text that is already in memory.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the moment of its use.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// `text` with every occurrence of the secret replaced by `***`: for messages of libraries,
    /// which may quote what they were given.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        if self.0.is_empty() {
            text.to_owned()
        } else {
            text.replace(self.0.as_str(), "***")
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("abc123");
        assert_eq!(secret.expose(), "abc123");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
        assert_eq!(
            secret.scrub("GET /?token=abc123 abc123"),
            "GET /?token=*** ***"
        );
    }
}
