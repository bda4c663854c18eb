//! The settings of a job, and the fingerprint of those that decide values.

use std::time::Duration;

use tapeflow_schemas::{
    Baskets, Horizons, Offset, Partition, Secret, WindowSize, trading_session::Calendar, view::TOP,
};

use crate::{JobError, limits::Limits, watermark::ALLOWED_LATENESS_MS};

/// The version of the rules that decide values. A change to one of these rules increments this
/// number. That changes every job's fingerprint, so that old and new values never mix in one store.
const RULES: u32 = 3;

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
    /// What every process must prove to know before it becomes one of the job's. Without it the
    /// connections between processes are open to everyone who reaches them, and not encrypted. At
    /// least [`MIN_SECRET_CHARS`](crate::MIN_SECRET_CHARS) characters.
    pub secret: Option<Secret>,
    /// The window sizes: ascending, without duplicates, at most 16. If one of them is packed
    /// ([`WindowSize::is_packed`]), one minute is among them.
    pub sizes: Vec<WindowSize>,
    /// How late a trade may be for the bars of a size ([`Horizons::check`]).
    pub horizons: Horizons,
    /// The user's baskets.
    pub baskets: Baskets,
    /// The interval between epochs.
    pub epoch: Duration,
    /// The bars that a worker keeps in memory beyond those it is writing. For every four of them, it
    /// also keeps one rank or sum of views.
    pub resident_bars: usize,
    /// The most symbols that the cell of the view `movers` ranks
    /// ([`tapeflow_schemas::view::MOST_RANKED`], fewer in tests). It decides cost, not values.
    pub most_ranked: usize,
    /// Whether the job ends once everything that the log held at the start is committed.
    pub until_end: bool,
    /// Whether the job continues without offsets that the log lost before they were committed.
    /// Without it, the job refuses to start.
    pub accept_loss: bool,
    /// Batches, by partition and first offset, that the job leaves out if they cannot be read. Of
    /// each partition at most one.
    pub skip_batches: Vec<(Partition, Offset)>,
    /// How much is read, kept and sent at once.
    pub limits: Limits,
}

impl JobConfig {
    /// Whether sizes and horizons fit together. The command line adds a minute that is missing, and
    /// checks the horizons by the name of their flag.
    ///
    /// # Errors
    /// [`JobError::Refused`], with everything that is wrong.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        let mut errors = self.horizons.check(&self.sizes).err().unwrap_or_default();
        if self.sizes.iter().any(|size| size.is_packed())
            && !self.sizes.contains(&WindowSize::MINUTE)
        {
            errors.push(
                "bars shorter than a minute are kept in their minute: add the size 1m".into(),
            );
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(JobError::Refused(errors.join("; ")))
    }

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
        // The calendar decides the values of session bars alone.
        let calendar = if self.sizes.iter().any(|size| size.is_session()) {
            format!("calendar {}; ", Calendar::us_equities().digest())
        } else {
            String::new()
        };
        let horizon = if self.horizons.is_none() {
            String::new()
        } else {
            format!("horizon {}; ", self.horizons)
        };
        format!(
            "rules {RULES}; sizes {}; {horizon}{calendar}allowed lateness {ALLOWED_LATENESS_MS} ms; \
             views {TOP}; baskets {baskets}",
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

/// The horizons in a checkpoint's `fingerprint`; `None` if this binary cannot read them.
#[must_use]
pub fn horizons_of(fingerprint: &str) -> Option<Horizons> {
    part_of(fingerprint, "horizon ").map_or(Some(Horizons::NONE), |part| part.parse().ok())
}

/// The digest of the calendar of trading sessions ([`Calendar::digest`]) in a checkpoint's
/// `fingerprint`; `None` if the job keeps no session bars.
#[must_use]
pub fn calendar_of(fingerprint: &str) -> Option<&str> {
    part_of(fingerprint, "calendar ")
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

    fn config() -> JobConfig {
        let lines: Vec<String> = (0..200).map(|n| format!("b,SYM{n:03},0.5")).collect();
        JobConfig {
            job: "j".into(),
            workers: 1,
            processes: 2,
            process: 0,
            hosts: Vec::new(),
            secret: None,
            sizes: [&WindowSize::DEFAULTS[..], &[WindowSize::SESSION]].concat(),
            horizons: Horizons::NONE,
            baskets: Baskets::parse(&lines.join("\n")).expect("baskets"),
            epoch: Duration::from_secs(1),
            resident_bars: 1,
            most_ranked: 10,
            until_end: false,
            accept_loss: false,
            skip_batches: Vec::new(),
            limits: Limits::default(),
        }
    }

    #[test]
    fn the_handshake_of_a_job_with_many_baskets_stays_short() {
        let config = config();
        assert!(
            config.fingerprint().len() > 2_000,
            "the store keeps the members"
        );
        assert!(config.short_fingerprint().len() < 200);
    }

    #[test]
    fn horizons_are_part_of_the_rules_of_jobs_that_have_some() {
        let mut config = config();
        assert!(!config.fingerprint().contains("horizon"));
        assert_eq!(horizons_of(&config.fingerprint()), Some(Horizons::NONE));
        config.horizons = "1s=7d,1m=2y".parse().expect("horizons");
        assert_eq!(
            horizons_of(&config.fingerprint()).as_ref(),
            Some(&config.horizons)
        );
        assert_eq!(horizons_of("rules 3; horizon soon; views 10"), None);
    }

    #[test]
    fn sizes_and_horizons_that_do_not_fit_together_are_refused_all_at_once() {
        let mut config = config();
        config.check().expect("the defaults");
        config.sizes = vec!["1s".parse().expect("a size")];
        config.horizons = "1h=2d".parse().expect("horizons");
        let error = config.check().expect_err("no minute, no hour").to_string();
        assert!(error.contains("add the size 1m"), "{error}");
        assert!(error.contains("1h is none of the job's sizes"), "{error}");
    }

    #[test]
    fn the_calendar_is_part_of_the_rules_of_jobs_with_session_bars_alone() {
        let mut config = config();
        let own = Calendar::us_equities().digest();
        let with = config.fingerprint();
        assert_eq!(calendar_of(&with), Some(&*own));
        assert_eq!(sizes_of(&with), Some(config.sizes.clone()));
        config.sizes.pop();
        assert_eq!(calendar_of(&config.fingerprint()), None);
    }
}
