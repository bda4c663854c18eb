//! The one reader of secret files. A secret comes from a file or from the environment, never from
//! the command line, which every user of the machine can read.

use std::{env, fs, path::Path};

use rustix::process::{Resource, Rlimit, setrlimit};
use rustls::pki_types::{
    PrivateKeyDer,
    pem::{self, PemObject},
};
use tapeflow_schemas::Secret;

/// Reads a file of one line, without the white space around it.
///
/// # Errors
/// A message that names the file and not its content.
pub(crate) fn read(file: &Path) -> Result<Secret, String> {
    let text = fs::read_to_string(file)
        .map(Secret::new)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    match text.expose().trim() {
        "" => Err(format!("{} is empty", file.display())),
        line if line.lines().count() > 1 => {
            Err(format!("{} has more than one line", file.display()))
        }
        line => Ok(Secret::new(line)),
    }
}

/// Turns core dumps of this process and its children off: they would hold its secrets. Where the
/// system does not allow that, they stay as they are.
pub(crate) fn keep_out_of_core_dumps() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
}

/// A private key in PEM.
///
/// # Errors
/// A message that names the file and not its content: the parser's own quotes the line that it
/// cannot read.
pub(crate) fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::Io(error) => format!("cannot read {}: {error}", file.display()),
        pem::Error::NoItemsFound => format!("{} holds no private key in PEM", file.display()),
        _ => format!("{} is damaged: it is no private key in PEM", file.display()),
    })
}

/// The secret in an environment variable; `None` if it is not set or empty.
pub(crate) fn in_variable(name: &str) -> Option<Secret> {
    let text = env::var(name).map(Secret::new).ok()?;
    Some(text.expose().trim())
        .filter(|text| !text.is_empty())
        .map(Secret::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }

    #[test]
    fn an_error_about_a_key_quotes_nothing_of_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key.pem");
        for (text, want) in [
            ("hunter2", "holds no private key"),
            ("-----BEGIN PRIVATE KEY-----\nhunter2", "is damaged"),
            ("-----BEGIN hunter2\n", "is damaged"),
            (
                "-----BEGIN PRIVATE KEY-----\n@hunter2@\n-----END PRIVATE KEY-----\n",
                "is damaged",
            ),
        ] {
            fs::write(&file, text).expect("written");
            let error = private_key(&file).expect_err("refused");
            assert!(error.contains(want) && error.contains("key.pem"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
            assert!(!error.contains("104, 117, 110"), "as numbers: {error}");
        }
        let error = private_key(&folder.path().join("absent")).expect_err("refused");
        assert!(error.contains("cannot read"), "{error}");
    }

    #[test]
    fn an_error_names_the_file_and_not_what_it_holds() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        for (text, want) in [
            ("", "is empty"),
            ("hunter2\nhunter3\n", "more than one line"),
        ] {
            fs::write(&file, text).expect("written");
            let error = read(&file).expect_err("refused");
            assert!(error.contains(want) && error.contains("token"), "{error}");
            assert!(!error.contains("hunter"), "{error}");
        }
        fs::write(&file, "hunter2\n").expect("written");
        assert_eq!(read(&file).expect("read").expose(), "hunter2");
    }
}
