//! Secrets come from files or from the environment, never from a command line, which every user of
//! the machine can read. They do not print.

use std::{env, path::Path};

use tapeflow_schemas::Secret;

use crate::args::errors::Errors;

/// Reads a secret from `file`, or from the first of `variables` that is set. `None` if there is
/// neither, or if the file is at error, which is noted.
pub(crate) fn from(
    flag: &str,
    file: Option<&Path>,
    variables: &[&str],
    errors: &mut Errors,
) -> Option<Secret> {
    let Some(file) = file else {
        return variables
            .iter()
            .find_map(|name| env::var(name).ok())
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
            .map(Secret::new);
    };
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim().is_empty() => {
            errors.add(format!("{flag}: {} is empty", file.display()))
        }
        Ok(text) if text.trim().lines().count() > 1 => {
            errors.add(format!("{flag}: {} has more than one line", file.display()))
        }
        Ok(text) => return Some(Secret::new(text.trim())),
        Err(error) => errors.add(format!("{flag}: cannot read {}: {error}", file.display())),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
