//! The spool of `ingest`: where what was received waits on the disk until Kafka has it.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tapeflow_ingest::spool::{Fsync, SpoolConfig};

use super::{errors::Errors, values};

/// What a spool takes if no size is given: about 24 minutes of 5,000 records a second.
const DEFAULT_SIZE: u64 = 1 << 30;
/// A segment of the smallest spool has room for the records of the largest frame that is usual.
const MIN_SIZE: u64 = 16 << 20;
const MAX_SIZE: u64 = 1 << 44;
const DEFAULT_FSYNC: Fsync = Fsync::Every(Duration::from_secs(1));

/// The spool.
#[derive(Args, Debug)]
#[command(next_help_heading = "Spool")]
pub(crate) struct SpoolArgs {
    /// Directory on a local disk where what was received waits until Kafka has it: nothing of it is
    /// lost when Kafka is away or ingest is killed. What an earlier run left there is sent first.
    /// One process a directory
    #[arg(
        long,
        env = "TAPEFLOW_SPOOL",
        value_name = "DIR",
        conflicts_with = "replay"
    )]
    spool: Option<PathBuf>,
    /// Bound of the spool's files, 16MiB to 16384GiB; when it is reached, the feed is not read
    /// [default: 1GiB]
    #[arg(long, env = "TAPEFLOW_SPOOL_SIZE", value_name = "SIZE", value_parser = size)]
    spool_size: Option<u64>,
    /// When the spool is flushed to its disk: never, always (before Kafka gets a record), or an
    /// interval, 1ms to 1m. A killed process loses nothing with any of them; it is about power
    /// failures [default: 1s]
    #[arg(
        long,
        env = "TAPEFLOW_SPOOL_FSYNC",
        value_name = "never|always|INTERVAL",
        value_parser = fsync
    )]
    spool_fsync: Option<Fsync>,
}

impl SpoolArgs {
    /// The spool, if there is one.
    pub(crate) fn config(self, errors: &mut Errors) -> Option<SpoolConfig> {
        let Some(directory) = self.spool else {
            if self.spool_size.is_some() {
                errors.add("--spool-size: there is no spool; give it with --spool DIR");
            }
            if self.spool_fsync.is_some() {
                errors.add("--spool-fsync: there is no spool; give it with --spool DIR");
            }
            return None;
        };
        Some(SpoolConfig {
            directory,
            size_bytes: self.spool_size.unwrap_or(DEFAULT_SIZE),
            fsync: self.spool_fsync.unwrap_or(DEFAULT_FSYNC),
        })
    }
}

fn size(text: &str) -> Result<u64, String> {
    let size = values::size(text)?;
    if (MIN_SIZE..=MAX_SIZE).contains(&size) {
        Ok(size)
    } else {
        Err(format!("{text} is outside 16MiB to 16384GiB"))
    }
}

fn fsync(text: &str) -> Result<Fsync, String> {
    match text {
        "never" => return Ok(Fsync::Never),
        "always" => return Ok(Fsync::Always),
        _ => {}
    }
    let interval = values::duration(text).map_err(|_| {
        format!("{text:?} is none of never, always and an interval, such as 200ms or 1s")
    })?;
    if (Duration::from_millis(1)..=Duration::from_secs(60)).contains(&interval) {
        Ok(Fsync::Every(interval))
    } else {
        Err(format!("{text} is outside 1ms to 1m"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_intervals_have_bounds_and_words() {
        assert_eq!(size("16MiB"), Ok(16 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for text in ["0", "1MiB", "99999GiB", "much"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(fsync("never"), Ok(Fsync::Never));
        assert_eq!(fsync("always"), Ok(Fsync::Always));
        assert_eq!(fsync("200ms"), Ok(Fsync::Every(Duration::from_millis(200))));
        for text in ["", "0ms", "2m", "sometimes"] {
            assert!(fsync(text).is_err(), "{text}");
        }
    }
}
