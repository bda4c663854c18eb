//! A text that must not be seen: it prints as `***` and is wiped from memory when dropped.

use std::{fmt, path::Path};

use zeroize::Zeroizing;

/// A token or a password. There is one way to its text, [`Secret::expose`], so that every use can
/// be found.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// Why a file holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretFault {
    /// The file could not be read.
    #[error("cannot read the secret in {path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is empty, or white space.
    #[error("{path} is empty: it should hold the secret on one line")]
    Empty {
        /// The file.
        path: String,
    },
}

impl Secret {
    /// A secret from a text that is already in memory.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret in a file, without the white space around it (editors end files with a line
    /// feed).
    ///
    /// # Errors
    /// [`SecretFault`]; it names the file, never its content.
    pub fn read_file(path: &Path) -> Result<Self, SecretFault> {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map(Zeroizing::new)
            .map_err(|source| SecretFault::Unreadable {
                path: name(),
                source,
            })?;
        match text.trim() {
            "" => Err(SecretFault::Empty { path: name() }),
            secret => Ok(Self::new(secret)),
        }
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
    fn a_secret_is_read_without_its_line_feed_and_never_printed() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), " abc123\n").expect("written");
        let secret = Secret::read_file(file.path()).expect("a secret");
        assert_eq!(secret.expose(), "abc123");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
        assert_eq!(
            secret.scrub("GET /?token=abc123 abc123"),
            "GET /?token=*** ***"
        );
    }

    #[test]
    fn a_missing_or_empty_file_is_named() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let fault = Secret::read_file(file.path())
            .expect_err("empty")
            .to_string();
        assert!(fault.contains("is empty"), "{fault}");
        let fault = Secret::read_file(Path::new("no/such/file"))
            .expect_err("missing")
            .to_string();
        assert!(fault.contains("no/such/file"), "{fault}");
    }
}
