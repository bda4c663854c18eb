//! The job under a steady feed: how soon what is appended can be read back.
//!
//! *Freshness* is measured from outside: from the moment a record of one of the watched symbols is
//! handed to the log until a reader at quorum sees a bar that holds its trades. All trades of a
//! symbol travel in one partition, so that a bar with n trades of a window holds the first n that
//! were appended; the reader asks again and again, and what it adds to the figure is the time of
//! one read.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tapeflow_feed::{Clock, Feed, Message, Shape, Written};
use tapeflow_schemas::{BarKey, Policy, Symbol, WindowSize};
use tokio::runtime::Handle;

use crate::{
    Error,
    backlog::{Lives, Outside, Plan, Spent, committed},
    bar::Bar,
    now_ms, per_second,
    report::rounded,
    target::{Appender, Program, Target},
};

/// The symbols that are watched, by rank: the busiest, and some that trade ever more rarely.
const WATCHED: [usize; 8] = [0, 1, 3, 7, 20, 60, 200, 600];
/// How often records are sent.
const BEAT: Duration = Duration::from_millis(5);
/// How long records wait for others to travel with.
const LINGER: Duration = Duration::from_millis(2);
/// What is appended in the first seconds does not count: connections are made, caches filled.
const WARM_UP: Duration = Duration::from_secs(3);
/// How often bars are read, and the checkpoint.
const READ_EVERY: Duration = Duration::from_millis(5);
const CHECKPOINT_EVERY: Duration = Duration::from_millis(250);
/// How long the job may take to begin, and to catch up once the feed has ended.
const PATIENCE: Duration = Duration::from_secs(300);

/// The figures of a rate.
#[derive(Clone, Debug)]
pub struct Sustained {
    /// Trades a second that were asked for.
    pub asked: u64,
    /// Trades a second that the log took.
    pub reached: f64,
    /// How long the feed lasted.
    pub lasted: Duration,
    /// How soon what was appended could be read back.
    pub freshness: Freshness,
    /// What the job itself said: from append to acknowledgement, the first seconds included, in
    /// seconds. Null if it did not.
    pub own_freshness: Value,
    /// The most messages that were appended and not committed.
    pub largest_lag: u64,
    /// The same when the feed ended.
    pub lag_at_end: u64,
}

/// Percentiles of freshness.
#[derive(Clone, Debug, Default)]
pub struct Freshness {
    /// Ascending.
    sorted: Vec<Duration>,
}

impl Freshness {
    fn new(mut seen: Vec<Duration>) -> Self {
        seen.sort_unstable();
        Self { sorted: seen }
    }

    /// So many in a thousand are at most this.
    #[must_use]
    pub fn at(&self, per_mille: usize) -> Option<Duration> {
        let last = self.sorted.len().checked_sub(1)?;
        self.sorted
            .get(
                (self.sorted.len() * per_mille)
                    .div_ceil(1_000)
                    .saturating_sub(1)
                    .min(last),
            )
            .copied()
    }

    fn percentiles(&self) -> [Option<f64>; 4] {
        [500, 900, 990, 1_000].map(|per_mille| {
            self.at(per_mille)
                .map(|time| rounded(time.as_secs_f64() * 1e3, 1))
        })
    }

    pub(crate) fn json(&self) -> Value {
        let [p50, p90, p99, max] = self.percentiles();
        json!({ "p50": p50, "p90": p90, "p99": p99, "max": max, "samples": self.sorted.len() })
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [Some(p50), Some(p90), Some(p99), Some(max)] = self.percentiles() else {
            return write!(f, "nothing was seen");
        };
        write!(
            f,
            "p50 {p50:.0} ms, p90 {p90:.0} ms, p99 {p99:.0} ms, max {max:.0} ms; {} trades seen \
             by a reader at quorum",
            self.sorted.len()
        )
    }
}

/// Trades of a watched bar were appended: so many by then.
struct Noted {
    key: BarKey,
    trades: u64,
    at: Instant,
}

/// What the feed tells the reader.
#[derive(Default)]
struct Shared {
    noted: Mutex<Vec<Noted>>,
    appended: AtomicU64,
    ended: AtomicBool,
    /// The feed has failed: nothing is to be waited for.
    given_up: AtomicBool,
}

impl Shared {
    fn noted(&self) -> MutexGuard<'_, Vec<Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the job over an empty log, feeds so many trades a second for so long, and waits until all
/// of them are committed.
///
/// # Errors
/// It failed, or a person wants it to end.
pub fn sustain(
    program: &Program,
    target: &Target,
    plan: &Plan,
    (rate, duration): (u64, Duration),
    size: WindowSize,
    runtime: &Handle,
    asked: &AtomicBool,
) -> Result<(Spent, Written, Sustained), Error> {
    let mut log = target.appender(plan.partitions, LINGER, runtime)?;
    let mut outside = Outside::new(target, runtime)?;
    let mut job_processes = Lives::telling(program, plan)?;
    await_begin(&mut outside, &mut job_processes, asked)?;
    let shared = Shared::default();
    let (fed, watched, first) = thread::scope(|scope| {
        let watch = scope.spawn(|| Watch::new(&mut outside, &shared).run());
        let fed = Feeding {
            log: &mut log,
            job_processes: &mut job_processes,
            plan,
            size,
            shared: &shared,
            asked,
        }
        .run(rate, WARM_UP + duration);
        shared.given_up.store(fed.is_err(), Ordering::Release);
        shared.ended.store(true, Ordering::Release);
        let watched = watch
            .join()
            .map_err(|_| Error::Failed("the reader panicked".into()))?;
        let fed = fed?;
        let (watched, first) = watched?;
        Ok::<_, Error>((fed, watched, first))
    })?;
    job_processes.must_live()?;
    let own_freshness = job_processes.own_freshness().unwrap_or_default();
    job_processes.ask_to_end();
    let deadline = Instant::now() + PATIENCE;
    while job_processes.look()? {
        if Instant::now() > deadline {
            return Err(Error::Failed(
                "the job does not end though it was asked to".into(),
            ));
        }
        thread::sleep(BEAT);
    }
    let spent =
        job_processes.spent(first.map(|at| at.saturating_duration_since(job_processes.begun)))?;
    let (written, lasted, begun) = fed;
    let counted = watched
        .seen
        .into_iter()
        .filter(|(at, _)| at.saturating_duration_since(begun) >= WARM_UP)
        .map(|(_, time)| time)
        .collect();
    let sustained = Sustained {
        asked: rate,
        reached: per_second(written.trades, lasted),
        lasted,
        freshness: Freshness::new(counted),
        own_freshness,
        largest_lag: watched.largest_lag,
        lag_at_end: watched.lag_at_end,
    };
    Ok((spent, written, sustained))
}

/// Waits until the job has taken its store over.
fn await_begin(
    outside: &mut Outside<'_>,
    job_processes: &mut Lives,
    asked: &AtomicBool,
) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    while outside.checkpoint().is_none() {
        job_processes.must_live()?;
        if asked.load(Ordering::Acquire) {
            return Err(Error::Interrupted);
        }
        if Instant::now() > deadline {
            return Err(Error::Failed("the job does not begin".into()));
        }
        thread::sleep(BEAT);
    }
    Ok(())
}

/// The feed under way.
struct Feeding<'a> {
    log: &'a mut Appender,
    job_processes: &'a mut Lives,
    plan: &'a Plan,
    size: WindowSize,
    shared: &'a Shared,
    asked: &'a AtomicBool,
}

impl Feeding<'_> {
    /// Feeds; what was written, in which time, and when it began.
    fn run(self, rate: u64, duration: Duration) -> Result<(Written, Duration, Instant), Error> {
        let trades = u64::try_from(u128::from(rate) * duration.as_millis() / 1_000)
            .map_err(|error| Error::Refused(error.to_string()))?;
        let shape = Shape {
            trades,
            ..self.plan.shape
        };
        let mut feed = Feed::new(shape, Clock::Wall, self.plan.partitions)?;
        let (begun, mut bar) = (Instant::now(), Bar::new("feeding", trades));
        let mut sums: BTreeMap<BarKey, u64> = BTreeMap::new();
        let watched: BTreeMap<usize, Symbol> = WATCHED
            .into_iter()
            .filter_map(|rank| Some((rank, feed.symbol(rank)?.clone())))
            .collect();
        loop {
            let due = u128::from(rate) * begun.elapsed().as_micros() / 1_000_000;
            while u128::from(feed.written().trades) < due.min(u128::from(trades)) {
                let Some(message) = feed.next(now_ms())? else {
                    break;
                };
                let at = Instant::now();
                self.log.append(&message.record)?;
                self.shared.appended.fetch_add(1, Ordering::AcqRel);
                if let Some(symbol) = watched.get(&message.rank) {
                    self.note(symbol, &message, at, &mut sums);
                }
            }
            self.log.send()?;
            if feed.written().trades >= trades {
                break;
            }
            self.job_processes.must_live()?;
            if self.asked.load(Ordering::Acquire) {
                return Err(Error::Interrupted);
            }
            if bar.is_due() {
                bar.show(
                    feed.written().trades,
                    &format!(", {} MB", self.job_processes.memory_kb() / 1_024),
                );
            }
            thread::sleep(BEAT);
        }
        self.log.flush()?;
        Ok((feed.written(), begun.elapsed(), begun))
    }

    /// Tells the reader what to look for.
    fn note(
        &self,
        symbol: &Symbol,
        message: &Message<'_>,
        at: Instant,
        sums: &mut BTreeMap<BarKey, u64>,
    ) {
        for trade in message.trades {
            let start = self.size.start_of(trade.event_time, symbol.class());
            let key = BarKey {
                symbol: symbol.clone(),
                size: self.size,
                start,
            };
            let sum = sums.entry(key.clone()).or_default();
            *sum += 1;
            self.shared.noted().push(Noted {
                key,
                trades: *sum,
                at,
            });
        }
    }
}

/// What the reader saw.
#[derive(Default)]
struct Watched {
    /// When it was appended, and how long it took to be seen.
    seen: Vec<(Instant, Duration)>,
    largest_lag: u64,
    lag_at_end: u64,
}

/// Reads bars and the checkpoint until all that was appended is committed.
struct Watch<'a, 'b> {
    outside: &'a mut Outside<'b>,
    shared: &'a Shared,
    waiting: BTreeMap<BarKey, VecDeque<(u64, Instant)>>,
    found: Watched,
}

impl<'a, 'b> Watch<'a, 'b> {
    fn new(outside: &'a mut Outside<'b>, shared: &'a Shared) -> Self {
        Self {
            outside,
            shared,
            waiting: BTreeMap::new(),
            found: Watched::default(),
        }
    }

    /// What it saw, and when the first commit was.
    fn run(mut self) -> Result<(Watched, Option<Instant>), Error> {
        let (mut asked_checkpoint, mut first, mut ended) = (Instant::now(), None, None);
        loop {
            self.look()?;
            if first.is_none() || asked_checkpoint.elapsed() >= CHECKPOINT_EVERY {
                asked_checkpoint = Instant::now();
                // Appended first: what comes in between is no lag.
                let (over, appended) = (
                    self.shared.ended.load(Ordering::Acquire),
                    self.shared.appended.load(Ordering::Acquire),
                );
                if let Some(checkpoint) = self.outside.checkpoint() {
                    let committed = committed(&checkpoint);
                    if committed > 0 {
                        first.get_or_insert_with(Instant::now);
                    }
                    let lag = appended.saturating_sub(committed);
                    self.found.largest_lag = self.found.largest_lag.max(lag);
                    if over && ended.is_none() {
                        ended = Some(Instant::now());
                        self.found.lag_at_end = lag;
                    }
                    if over && lag == 0 {
                        self.look()?;
                        return Ok((self.found, first));
                    }
                }
                if self.shared.given_up.load(Ordering::Acquire)
                    || ended.is_some_and(|ended| ended.elapsed() > PATIENCE)
                {
                    return Err(Error::Failed(
                        "the job does not catch up with a feed that has ended".into(),
                    ));
                }
            }
            thread::sleep(READ_EVERY);
        }
    }

    /// Reads the bars that something is waited for in.
    fn look(&mut self) -> Result<(), Error> {
        for noted in self.shared.noted().drain(..) {
            self.waiting
                .entry(noted.key)
                .or_default()
                .push_back((noted.trades, noted.at));
        }
        self.waiting.retain(|_, waiting| !waiting.is_empty());
        let (keys, Some(store)) = (
            self.waiting.keys().cloned().collect::<Vec<_>>(),
            self.outside.store(),
        ) else {
            return Ok(());
        };
        if keys.is_empty() {
            return Ok(());
        }
        // A read that fails is made again at the next turn.
        let Ok(bars) = self.outside.runtime.block_on(store.read_bars(&keys)) else {
            return Ok(());
        };
        let now = Instant::now();
        for (key, bar) in keys.iter().zip(bars) {
            let (trades, Some(waiting)) = (
                bar.map_or(0, |bar| bar.state.totals.of_policy(Policy::All).trades),
                self.waiting.get_mut(key),
            ) else {
                continue;
            };
            while let Some((_, at)) = waiting.pop_front_if(|(sum, _)| *sum <= trades) {
                self.found
                    .seen
                    .push((at, now.saturating_duration_since(at)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_smallest_that_so_many_do_not_exceed() {
        let freshness = Freshness::new((1..=200).rev().map(Duration::from_millis).collect());
        let ms = |per_mille| freshness.at(per_mille).map(|time| time.as_millis());
        assert_eq!(
            [ms(500), ms(900), ms(990), ms(1_000)],
            [Some(100), Some(180), Some(198), Some(200)]
        );
        assert_eq!(freshness.json()["samples"], 200);
        assert_eq!(Freshness::default().at(500), None);
        assert_eq!(Freshness::default().to_string(), "nothing was seen");
    }
}
