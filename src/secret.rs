//! Secrets come from files or from the environment, never from a command line, which every user of the machine can read. They do not print.

use std::{env, fmt, path::Path};

use crate::args::faults::Faults;

/// A value that must not be shown.
#[derive(Clone)]
pub(crate) struct Secret(String);

impl Secret {
    /// The value, for the one call that needs it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Reads a secret from `file`, or from the first of `variables` that is set. `None` if there is neither, or if the file is at fault, which
/// is noted.
pub(crate) fn from(flag: &str, file: Option<&Path>, variables: &[&str], faults: &mut Faults) -> Option<Secret> {
    let Some(file) = file else {
        return variables
            .iter()
            .find_map(|name| env::var(name).ok())
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .map(Secret);
    };
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => faults.add(format!("{flag}: {} is empty", file.display())),
        Ok(text) if text.trim().lines().count() > 1 => faults.add(format!("{flag}: {} has more than one line", file.display())),
        Ok(text) => return Some(Secret(text.trim().to_owned())),
        Err(fault) => faults.add(format!("{flag}: cannot read {}: {fault}", file.display())),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret("hunter2".into())), "(secret)");
    }
}
