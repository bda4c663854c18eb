//! Cycles in which nothing dies: the network between the job and its servers or between its
//! processes, clocks, and what is fed.

use std::time::{Duration, Instant};

use rand::Rng;

use crate::{
    cycle::{Back, Stage},
    fault::{Clocks, Way},
    feed_profile::FeedProfile,
    job::Skew,
    links::Link,
    proxy::{Direction, Harm},
};

/// How wrong a clock is.
const HOUR_S: i64 = 3_600;

impl Stage {
    /// Does it to all of a link or to what one process of several has connected, and mends it; then
    /// the job must go on. One whose connections are slow must go on meanwhile.
    pub(crate) fn network(&mut self, link: Link, way: Way) -> Result<Back, String> {
        // Of two processes the later one connects to the earlier one; process 0 connects to none.
        let processes = self.job_run()?.len();
        let at = self
            .random
            .random_range(usize::from(link == Link::Cluster && processes > 1)..processes);
        let of = if self.random.random_bool(0.5) {
            None
        } else {
            self.job_run()?.worker(at)
        };
        let harm = match way {
            Way::Cut => Harm::Cut,
            Way::HalfOpen if self.random.random_bool(0.5) => Harm::HalfOpen(Direction::ToServer),
            Way::HalfOpen => Harm::HalfOpen(Direction::ToClient),
            Way::Delay => Harm::Delay(Duration::from_millis(self.random.random_range(200..1_500))),
            Way::BlackHole => Harm::BlackHole,
        };
        let (begun, before) = (Instant::now(), self.later_generation()?);
        self.cluster.links.harm(link, harm, of);
        let done = self.under(link, way, begun);
        self.cluster.links.mend(link);
        let back = done?;
        let again = self.caught_up(Instant::now())?;
        let progress = self.later_generation()?;
        // A store or a log that is out of reach stalls a job and must not end it.
        if link != Link::Cluster
            && (back.as_ref().unwrap_or(&again).started || progress.generation != before.generation)
        {
            let job_run = self.job_run()?;
            return Err(format!(
                "{harm:?} of the {}: the job was started again; job run {} ({}) ended with {:?}",
                link.name(),
                job_run.number,
                job_run.shape,
                job_run.codes()
            ));
        }
        Ok(back.unwrap_or(again))
    }

    /// While it lasts; how the job came to commit, if it must meanwhile.
    fn under(&mut self, link: Link, way: Way, begun: Instant) -> Result<Option<Back>, String> {
        match way {
            Way::Delay => {
                let before = self.any_generation()?;
                let back = self.back(before, begun)?;
                self.pass(1_000..5_000);
                return Ok(Some(back));
            }
            // Longer and shorter than the heartbeat between processes bears.
            Way::BlackHole if link == Link::Cluster && self.random.random_bool(0.5) => {
                self.pass(11_000..15_000)
            }
            Way::Cut | Way::HalfOpen | Way::BlackHole => self.pass(500..6_000),
        }
        Ok(None)
    }

    /// Processes whose clocks are an hour ahead, and after them others whose clocks are right, or
    /// an hour behind: the write timestamps must go on growing.
    pub(crate) fn clock(&mut self, clocks: Clocks) -> Result<Back, String> {
        let (process, then) = match clocks {
            Clocks::OfOne => (Some(0), None),
            Clocks::OfAll => (
                None,
                Some(Skew {
                    process: None,
                    seconds: -HOUR_S,
                }),
            ),
        };
        let write_timestamp = self.watch.write_timestamp()?;
        let before = self.later_generation()?;
        self.end_processes();
        self.start_skewed(Some(Skew {
            process,
            seconds: HOUR_S,
        }))?;
        self.back(before, Instant::now())?;
        self.pass(0..2_000);
        let (ahead, before) = (self.watch.write_timestamp()?, self.later_generation()?);
        // Within an hour of an earlier time this was done, write timestamps are as far ahead
        // already, and each only adds one.
        if ahead <= write_timestamp {
            return Err(format!(
                "with clocks an hour ahead the last write timestamp was {ahead}, and before it \
                 {write_timestamp}"
            ));
        }
        if !self.was_ahead && ahead - write_timestamp < HOUR_S * 1_000_000 / 2 {
            return Err(format!(
                "clocks an hour ahead made the write timestamp {ahead} of {write_timestamp}: the \
                 binary does not heed TAPEFLOW_CLOCK_OFFSET_S"
            ));
        }
        self.was_ahead = true;
        self.end_processes();
        self.start_skewed(then)?;
        self.back(before, Instant::now()).map(|back| Back {
            started: true,
            ..back
        })
    }

    /// Lets the feed have its feed profile for a while; then all of it must be committed.
    pub(crate) fn shared_profile(&mut self, feed_profile: FeedProfile) -> Result<Back, String> {
        self.ledger.feed_profile.set(feed_profile);
        self.pass(3_000..5_000);
        self.ledger.feed_profile.set(FeedProfile::Calm);
        self.caught_up(Instant::now())
    }
}
