//! The settings of a job, and the fingerprint of those that decide values.

use std::time::Duration;

use tapeflow_schemas::{Baskets, WindowSize, view::TOP};

use crate::watermark::ALLOWED_LATENESS_MS;

/// The version of the rules that decide values. A change to one of these rules increments this
/// number. That changes every job's fingerprint, so that old and new values never mix in one store.
const RULES: u32 = 1;

/// The settings of one process of a job. They are the same in all processes, except `process`.
#[derive(Clone, Debug)]
pub struct JobConfig {
    /// The job's name.
    pub job: String,
    /// Worker threads in this process.
    pub workers: usize,
    /// Processes in the job.
    pub processes: usize,
    /// The number of this process, from 0.
    pub process: usize,
    /// `host:port` of each process's cluster listener; empty if there is one process.
    pub hosts: Vec<String>,
    /// The window sizes: ascending, without duplicates, at most 16.
    pub sizes: Vec<WindowSize>,
    /// The user's baskets.
    pub baskets: Baskets,
    /// The interval between epochs.
    pub epoch: Duration,
    /// The bars that a worker keeps in memory beyond those it is writing. For each thousand of
    /// them, it also keeps one window of the views.
    pub resident_bars: usize,
    /// Whether the job ends once everything that the log held at the start is committed.
    pub until_end: bool,
    /// Whether the job continues without offsets that the log lost before they were committed.
    /// Without it, the job refuses to start.
    pub accept_loss: bool,
}

impl JobConfig {
    /// The rules and settings that decide values, as the checkpoint stores them. A job refuses a
    /// store whose fingerprint differs.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.rules(&self.baskets.fingerprint())
    }

    /// The fingerprint with the digest of the baskets alone: bounded, for the handshake between
    /// processes, whose lines are.
    #[must_use]
    pub(crate) fn short_fingerprint(&self) -> String {
        self.rules(&self.baskets.digest())
    }

    fn rules(&self, baskets: &str) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(ToString::to_string).collect();
        format!(
            "rules {RULES}; sizes {}; allowed lateness {ALLOWED_LATENESS_MS} ms; views {TOP}; \
             baskets {baskets}",
            sizes.join(",")
        )
    }
}

/// The window sizes in a checkpoint's `fingerprint`; `None` if this binary cannot read it.
#[must_use]
pub fn sizes_of(fingerprint: &str) -> Option<Vec<WindowSize>> {
    part_of(fingerprint, "sizes ")?
        .split(',')
        .map(|size| size.parse().ok())
        .collect()
}

/// The digest of the baskets ([`Baskets::digest`]) in a checkpoint's `fingerprint`; `None` if this
/// binary cannot read it.
#[must_use]
pub fn baskets_of(fingerprint: &str) -> Option<&str> {
    part_of(fingerprint, "baskets ")
}

fn part_of<'a>(fingerprint: &'a str, name: &str) -> Option<&'a str> {
    fingerprint
        .split("; ")
        .find_map(|part| part.strip_prefix(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_of_a_job_with_many_baskets_stays_short() {
        let lines: Vec<String> = (0..200).map(|n| format!("b,SYM{n:03},0.5")).collect();
        let config = JobConfig {
            job: "j".into(),
            workers: 1,
            processes: 2,
            process: 0,
            hosts: Vec::new(),
            sizes: WindowSize::DEFAULTS.to_vec(),
            baskets: Baskets::parse(&lines.join("\n")).expect("baskets"),
            epoch: Duration::from_secs(1),
            resident_bars: 1,
            until_end: false,
            accept_loss: false,
        };
        assert!(
            config.fingerprint().len() > 2_000,
            "the store keeps the members"
        );
        assert!(config.short_fingerprint().len() < 200);
    }
}
