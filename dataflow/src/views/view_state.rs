//! The view state: a keyed operator that owns the views of its windows and makes them follow the
//! changed bars.
//!
//! All changes of a window go to one worker, which knows the window's views: from memory, or from
//! the store when the window is touched for the first time. A change costs what it touches: no bar
//! of another symbol is read, except in a recount ([`super::recount`]).
//!
//! Times are processed strictly in order, each when the input frontier has passed it. Like a bar,
//! each view that a time has changed is written once, at the epoch's write timestamp. In the replay
//! every view of a touched window is written, because its earlier write may have reached only one
//! replica. A stored view may already contain replayed epochs: its own epoch says which
//! ([`WindowViews::apply`]).
//!
//! A time may touch any number of windows: one record can have a window for each of its trades. So
//! its windows are processed in pieces, and a piece waits until the store has acknowledged most of
//! what was written before it. A window may leave memory once all its writes are acknowledged, also
//! in the middle of a time, which touches it once.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
};

use tapeflow_protocol::{Checkpoint, EpochWrites};
use tapeflow_schemas::{
    BarKey, Baskets, View, ViewKey, ViewState, ViewWrite, WindowSize, WindowStart, WriteTimestamp,
};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        ProbeHandle, StreamVec,
        channels::pact::Exchange,
        operators::{Capability, generic::operator::Operator},
    },
    scheduling::{Activator, SyncActivator},
};

use super::{
    changes::{Change, Window},
    recount::{Later, Recount},
    window_change::{self, Weights, WindowChange},
    window_views::{Applied, Stored, WindowViews},
};
use crate::{
    epoch_timestamps::SharedEpochTimestamps,
    failure::{Failure, JobError},
    hash::Map,
    limits::Limits,
    metrics::Metrics,
    operators::acknowledged::{Acknowledged, acknowledged_epoch},
    store_io::{StoreIo, StoreReader},
};

pub(crate) struct ViewSettings {
    pub(crate) baskets: Rc<Baskets>,
    pub(crate) limits: Limits,
    pub(crate) io: StoreIo,
    pub(crate) timestamps: SharedEpochTimestamps,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
    /// The probe behind the sink.
    pub(crate) acknowledged_up_to: ProbeHandle<u64>,
    pub(crate) acknowledged: Acknowledged,
    /// The most symbols that the cell of `movers` ranks.
    pub(crate) most_ranked: usize,
    /// The ranks and sums kept in memory beyond those of windows whose writes are not acknowledged.
    pub(crate) ranks_kept: usize,
}

/// What a window takes in memory beside its ranks and sums, in ranks.
const RANKS_PER_WINDOW: usize = 3;

/// Builds the operator. The activator wakes it after a new write timestamp.
pub(crate) fn build<'scope>(
    changes: StreamVec<'scope, u64, Rc<Vec<Change>>>,
    settings: ViewSettings,
) -> (StreamVec<'scope, u64, EpochWrites>, Activator) {
    let scope = changes.scope();
    let mut activator = None;
    let slot = &mut activator;
    let weights = Rc::new(Weights::of(&settings.baskets));
    let writes = window_change::build(changes, Rc::clone(&weights))
        .unary_frontier::<CapacityContainerBuilder<Vec<EpochWrites>>, _, _, _>(
            Exchange::new(WindowChange::route),
            "view state",
            |_capability, info| {
                *slot = Some(scope.activator_for(Rc::clone(&info.address)));
                let wake = scope.worker().sync_activator_for(info.address.to_vec());
                let mut states = ViewStates::new(settings, weights, wake);
                move |(input, frontier), output| {
                    input.for_each_stamp(|capability, data| {
                        if let Some(capability) = capability.retain_least(0) {
                            data.flat_map(|container| container.drain(..))
                                .for_each(|change| states.receive(&capability, change));
                        }
                    });
                    states.receive_acknowledged();
                    let complete = |time: &u64| !frontier.less_equal(time);
                    while let Some((capability, views)) = states.take_next(complete) {
                        output.session(&capability).give(EpochWrites {
                            views,
                            ..EpochWrites::default()
                        });
                    }
                }
            },
        );
    (writes, activator.expect("the constructor has run"))
}

/// What has arrived for a time and is not processed yet.
struct Pending {
    capability: Capability<u64>,
    windows: BTreeMap<Window, Vec<WindowChange>>,
}

/// The views of a window in memory.
struct Held {
    views: WindowViews,
    /// Writes of its views that are not acknowledged.
    unacknowledged: usize,
    /// Whether it is in the queue of windows that may leave memory. It is there at most once.
    queued: bool,
}

impl Held {
    /// What it takes in memory, in ranks.
    fn ranks(&self) -> usize {
        RANKS_PER_WINDOW + self.views.len()
    }
}

/// The work on some windows of the oldest time.
struct Underway {
    windows: BTreeMap<Window, Vec<WindowChange>>,
    /// Views that were requested from the store and not answered.
    outstanding: usize,
    stored: Map<Window, Stored>,
    /// Those of the windows whose bars must be read.
    recounts: VecDeque<(Window, Vec<WindowChange>)>,
}

struct ViewStates {
    settings: ViewSettings,
    weights: Rc<Weights>,
    views: StoreReader<ViewKey>,
    bars: StoreReader<BarKey>,
    wake: SyncActivator,
    pending: BTreeMap<u64, Pending>,
    underway: Option<Underway>,
    recount: Option<Recount>,
    /// Views of the oldest time that are made and not sent.
    made: Vec<ViewWrite>,
    /// Views that are sent and not acknowledged.
    unacknowledged: usize,
    /// The capability of a time that failed, held until the process ends. Without it, the frontier
    /// would pass the time, and the coordinator would commit it.
    failed: Option<Capability<u64>>,
    held: Map<Window, Held>,
    /// What they take in memory, in ranks.
    held_ranks: usize,
    /// Windows that may leave memory, least recently acknowledged first.
    queue: VecDeque<Window>,
    /// By size: the latest start of the windows that left memory. Windows up to it may have views.
    dropped_up_to: Map<WindowSize, WindowStart>,
}

impl ViewStates {
    fn new(settings: ViewSettings, weights: Rc<Weights>, wake: SyncActivator) -> Self {
        Self {
            views: settings.io.reader(wake.clone()),
            bars: settings.io.reader(wake.clone()),
            settings,
            weights,
            wake,
            pending: BTreeMap::new(),
            underway: None,
            recount: None,
            made: Vec::new(),
            unacknowledged: 0,
            failed: None,
            held: Map::default(),
            held_ranks: 0,
            queue: VecDeque::new(),
            dropped_up_to: Map::default(),
        }
    }

    fn receive(&mut self, capability: &Capability<u64>, change: WindowChange) {
        self.pending
            .entry(*capability.time())
            .or_insert_with(|| Pending {
                capability: capability.clone(),
                windows: BTreeMap::new(),
            })
            .windows
            .entry(change.window)
            // Most windows of a large epoch have one.
            .or_insert_with(|| Vec::with_capacity(1))
            .push(change);
    }

    /// Takes the acknowledgements of the sink, and drops windows from memory.
    fn receive_acknowledged(&mut self) {
        let mut acknowledged = self.settings.acknowledged.borrow_mut();
        for key in acknowledged.views.drain(..) {
            self.unacknowledged -= 1;
            let window = Window {
                size: key.size,
                start: key.start,
            };
            // A window that is being recounted is not held.
            let Some(held) = self.held.get_mut(&window) else {
                continue;
            };
            held.unacknowledged = held.unacknowledged.saturating_sub(1);
            if held.unacknowledged == 0 && !std::mem::replace(&mut held.queued, true) {
                self.queue.push_back(window);
            }
        }
        drop(acknowledged);
        self.drop_oldest();
    }

    /// Views of the oldest time for one write, if it is complete and what they need has been read;
    /// `None` if not.
    fn take_next(
        &mut self,
        complete: impl Fn(&u64) -> bool,
    ) -> Option<(Capability<u64>, Vec<ViewWrite>)> {
        loop {
            let (&time, _) = self
                .pending
                .first_key_value()
                .filter(|(time, _)| self.failed.is_none() && complete(time))?;
            let write_timestamp = self.settings.timestamps.borrow().write_timestamp_of(time)?;
            let done = match self.process(time, write_timestamp, &complete) {
                Ok(done) => done,
                Err(error) => {
                    self.settings.failure.set(error);
                    self.failed = self.pending.remove(&time).map(|pending| pending.capability);
                    return None;
                }
            };
            let most = self.settings.limits.views_per_write;
            if self.made.len() >= most || (done && !self.made.is_empty()) {
                let views: Vec<ViewWrite> = self.made.drain(..most.min(self.made.len())).collect();
                self.unacknowledged += views.len();
                return Some((self.pending[&time].capability.clone(), views));
            }
            if !done {
                return None;
            }
            self.pending.remove(&time);
        }
    }

    /// Goes on with the oldest time, until a write is full or something must be waited for. Returns
    /// whether the time is done.
    fn process(
        &mut self,
        time: u64,
        write_timestamp: WriteTimestamp,
        complete: impl Fn(&u64) -> bool,
    ) -> Result<bool, JobError> {
        loop {
            let limits = &self.settings.limits;
            if self.made.len() >= limits.views_per_write
                || self.unacknowledged >= limits.views_unacknowledged
            {
                return Ok(false);
            }
            let mut underway = match self.underway.take() {
                Some(underway) => underway,
                None => match self.begin(time) {
                    Some(underway) => underway,
                    None => return Ok(true),
                },
            };
            self.receive_views(&mut underway);
            if underway.outstanding > 0 {
                self.underway = Some(underway);
                return Ok(false);
            }
            if let Some((window, changes)) = underway.windows.pop_first() {
                let stored = underway.stored.remove(&window);
                if !self.apply((window, &changes), stored.as_ref(), (time, write_timestamp))? {
                    underway.recounts.push_back((window, changes));
                }
            } else if let Some((window, changes)) = underway.recounts.front() {
                let (window, counted) =
                    (*window, self.recounted(*window, changes, time, &complete)?);
                let Some(views) = counted else {
                    self.underway = Some(underway);
                    return Ok(false);
                };
                underway.recounts.pop_front();
                let all = views.all();
                // All writes of earlier epochs were acknowledged before the bars were read.
                let writes = (0, false);
                self.write((window, views), writes, &all, (time, write_timestamp));
            }
            if !(underway.windows.is_empty() && underway.recounts.is_empty()) {
                self.underway = Some(underway);
            }
        }
    }

    /// Begins with the next windows of a time: requests the views of those that are not in memory
    /// and may have some. `None` if there are no more windows.
    fn begin(&mut self, time: u64) -> Option<Underway> {
        let all = &mut self.pending.get_mut(&time)?.windows;
        let rest = match all.keys().nth(self.settings.limits.windows_at_once) {
            Some(first) => {
                let first = *first;
                all.split_off(&first)
            }
            None => BTreeMap::new(),
        };
        let windows = std::mem::replace(all, rest);
        if windows.is_empty() {
            return None;
        }
        let timestamps = self.settings.timestamps.borrow();
        // As in the bar state: a window has no bars from before if it starts after the watermark of
        // the take-over and after all windows of its size that left memory.
        let watermark_ms = timestamps
            .checkpoint
            .as_ref()
            .and_then(|checkpoint| checkpoint.watermark_ms());
        let may_have_views = |window: &Window| {
            watermark_ms.is_some_and(|watermark| window.start <= watermark)
                || self
                    .dropped_up_to
                    .get(&window.size)
                    .is_some_and(|line| window.start <= *line)
        };
        let missing: Vec<Window> = windows
            .keys()
            .filter(|window| !self.held.contains_key(*window) && may_have_views(window))
            .copied()
            .collect();
        let keys: Vec<ViewKey> = missing
            .iter()
            .flat_map(|window| {
                View::EVERY.map(|view| ViewKey {
                    view,
                    size: window.size,
                    start: window.start,
                })
            })
            .collect();
        let outstanding = keys.len();
        self.settings.metrics.views_read.add(outstanding as u64);
        self.views.request(keys);
        Some(Underway {
            windows,
            outstanding,
            stored: missing
                .into_iter()
                .map(|window| (window, Stored::default()))
                .collect(),
            recounts: VecDeque::new(),
        })
    }

    fn receive_views(&self, underway: &mut Underway) {
        for (key, state) in self.views.replies() {
            let window = Window {
                size: key.size,
                start: key.start,
            };
            let stored = underway
                .stored
                .get_mut(&window)
                .expect("views are read for the windows under way");
            let at = View::EVERY.iter().position(|view| *view == key.view);
            stored[at.expect("every view is in EVERY")] = state;
            underway.outstanding -= 1;
        }
    }

    /// Applies the changes of a time to the views of a window. Returns whether they are known; if
    /// not, the bars of the window must be read.
    fn apply(
        &mut self,
        (window, changes): (Window, &[WindowChange]),
        stored: Option<&Stored>,
        (time, write_timestamp): (u64, WriteTimestamp),
    ) -> Result<bool, JobError> {
        let (replaying, lossy) = {
            let timestamps = self.settings.timestamps.borrow();
            let replaying = timestamps.is_replay(time);
            let checkpoint = timestamps.checkpoint.as_ref().filter(|_| replaying);
            (replaying, checkpoint.is_some_and(|found| has_loss(found)))
        };
        let newest = if replaying { time } else { time - 1 };
        let most_ranked = self.settings.most_ranked;
        let empty = || WindowViews::empty(most_ranked);
        check_epochs(stored.into_iter().flatten().flatten(), window, newest)?;
        let held = self.held.remove(&window);
        self.held_ranks -= held.as_ref().map_or(0, Held::ranks);
        let writes = held
            .as_ref()
            .map_or((0, false), |held| (held.unacknowledged, held.queued));
        let views = match (held, stored) {
            (Some(held), _) => Some(held.views),
            (None, Some(stored)) => empty().stored(stored, &self.settings.baskets),
            (None, None) => Some(empty()),
        };
        // Without some of its records, a replay cannot tell what they added to a stored view.
        let Some(mut views) = views.filter(|_| !lossy) else {
            return Ok(false);
        };
        let Applied::Changed(changed) = views.apply(changes, replaying) else {
            return Ok(false);
        };
        self.write((window, views), writes, &changed, (time, write_timestamp));
        Ok(true)
    }

    /// Goes on with the recount of a window. Returns its views once all bars are counted.
    fn recounted(
        &mut self,
        window: Window,
        changes: &[WindowChange],
        time: u64,
        complete: impl Fn(&u64) -> bool,
    ) -> Result<Option<WindowViews>, JobError> {
        // The window may have been touched a moment ago. A bar of an earlier epoch whose write is
        // not acknowledged would be read as it was before:
        // 1. epoch 8 changes a bar, and its write is under way;
        // 2. epoch 9 uses up the reserve, and the recount reads the bar as of epoch 7;
        // 3. the write arrives, and the views of epoch 9 lack what epoch 8 added.
        // The same holds for the directory: a symbol of epoch 8 would be missing altogether.
        if acknowledged_epoch(&self.settings.acknowledged_up_to) < time.saturating_sub(1) {
            return Ok(None);
        }
        let recount = self.recount.get_or_insert_with(|| {
            self.settings.metrics.view_recounts.add(1);
            let empty = WindowViews::empty(self.settings.most_ranked);
            Recount::new(
                (window, time, empty),
                changes,
                Rc::clone(&self.weights),
                self.settings.io.symbols(self.wake.clone()),
                self.settings.limits,
            )
        });
        let found: Vec<_> = self
            .bars
            .replies()
            .map(|(key, row)| (key, row.map(|row| row.state)))
            .collect();
        let later = later_changes(&self.pending, window, time);
        recount.receive(found, &later)?;
        recount.decide(&later, complete)?;
        if let Some(keys) = recount.next_keys() {
            self.settings.metrics.view_bars_read.add(keys.len() as u64);
            self.bars.request(keys);
        }
        let finished = recount.finished();
        if finished.is_some() {
            self.recount = None;
        }
        Ok(finished)
    }

    /// Writes views of a window and keeps all of them in memory. `unacknowledged` writes were made
    /// before.
    fn write(
        &mut self,
        (window, mut views): (Window, WindowViews),
        (unacknowledged, queued): (usize, bool),
        changed: &[View],
        (time, write_timestamp): (u64, WriteTimestamp),
    ) {
        self.made.extend(changed.iter().map(|view| ViewWrite {
            key: ViewKey {
                view: *view,
                size: window.size,
                start: window.start,
            },
            state: views.write(*view, time, &self.settings.baskets),
            write_timestamp,
        }));
        let mut held = Held {
            views,
            unacknowledged: unacknowledged + changed.len(),
            queued,
        };
        if held.unacknowledged == 0 && !std::mem::replace(&mut held.queued, true) {
            self.queue.push_back(window);
        }
        self.held_ranks += held.ranks();
        self.held.insert(window, held);
    }

    /// Drops the least recently acknowledged windows from memory, down to the limit. Only windows
    /// whose writes are all acknowledged are dropped, so that a later read finds their views.
    fn drop_oldest(&mut self) {
        while self.held_ranks > self.settings.ranks_kept {
            let Some(window) = self.queue.pop_front() else {
                return;
            };
            let Some(held) = self.held.get_mut(&window) else {
                continue;
            };
            // A window whose changes are about to be applied was in memory when they were looked
            // at, so its views were not read.
            let underway = self.underway.as_ref();
            let is_needed = underway.is_some_and(|work| work.windows.contains_key(&window));
            if held.unacknowledged > 0 || is_needed {
                // Written again since it was queued, or soon. That queues it again.
                held.queued = false;
                continue;
            }
            self.held_ranks -= held.ranks();
            self.held.remove(&window);
            let line = self
                .dropped_up_to
                .entry(window.size)
                .or_insert(window.start);
            *line = window.start.max(*line);
        }
    }
}

/// The values of a window's bars before their earliest change after `time`.
fn later_changes(pending: &BTreeMap<u64, Pending>, window: Window, time: u64) -> Later {
    let mut later = Later::default();
    let bars = pending
        .range(time + 1..)
        .filter_map(|(_, pending)| pending.windows.get(&window))
        .flatten()
        .flat_map(WindowChange::bars_before);
    for (symbol, before) in bars {
        // The earliest of several changes comes first and is kept.
        later.entry(symbol.clone()).or_insert(before);
    }
    later
}

/// Whether a binding of (c, b] gives up offsets.
fn has_loss(checkpoint: &Checkpoint) -> bool {
    checkpoint.bound.iter().any(|binding| {
        binding
            .cuts
            .iter()
            .zip(&checkpoint.committed.cuts)
            .any(|(bound, committed)| bound.lost != committed.lost)
    })
}

/// A view of a later epoch was written by another generation, which has fenced this one.
fn check_epochs<'a>(
    mut stored: impl Iterator<Item = &'a ViewState>,
    window: Window,
    newest: u64,
) -> Result<(), JobError> {
    match stored.find(|state| state.epoch > newest) {
        None => Ok(()),
        Some(state) => Err(JobError::Fenced(format!(
            "a view of {} {} has epoch {}, which is later than epoch {newest} of this process",
            window.size,
            tapeflow_schemas::window::format_utc(window.start),
            state.epoch
        ))),
    }
}
