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
//! A window may leave memory only if its last change is older than [`Limits::epochs_ahead`] epochs.
//! Then that epoch is committed and the store has its views.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
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
    operators::acknowledged::acknowledged_epoch,
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
    pub(crate) acknowledged: ProbeHandle<u64>,
    /// The most symbols that the cell of `movers` ranks.
    pub(crate) most_ranked: usize,
    /// The ranks and sums kept in memory beyond those of windows touched within the last epochs.
    pub(crate) ranks_kept: usize,
}

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
                let views_per_write = settings.limits.views_per_write;
                let mut states = ViewStates::new(settings, weights, wake);
                move |(input, frontier), output| {
                    input.for_each_stamp(|capability, data| {
                        if let Some(capability) = capability.retain_least(0) {
                            data.flat_map(|container| container.drain(..))
                                .for_each(|change| states.receive(&capability, change));
                        }
                    });
                    let complete = |time: &u64| !frontier.less_equal(time);
                    while let Some((capability, writes)) = states.take_next(complete) {
                        let mut session = output.session(&capability);
                        let mut writes = writes.into_iter().peekable();
                        while writes.peek().is_some() {
                            session.give(EpochWrites {
                                views: writes.by_ref().take(views_per_write).collect(),
                                ..EpochWrites::default()
                            });
                        }
                    }
                }
            },
        );
    (writes, activator.expect("the constructor has run"))
}

/// What has arrived for a time that is not processed yet.
struct Pending {
    capability: Capability<u64>,
    windows: BTreeMap<Window, Vec<WindowChange>>,
}

/// The views of a window in memory.
struct Held {
    touched_at: u64,
    views: WindowViews,
}

/// The work on the oldest time.
struct Underway {
    /// Views that were requested from the store and not answered.
    outstanding: usize,
    stored: Map<Window, Stored>,
    /// Whether the changes have been applied to all windows but those below.
    applied: bool,
    recounts: VecDeque<Window>,
    writes: Vec<ViewWrite>,
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
    /// The capability of a time that failed, held until the process ends. Without it, the frontier
    /// would pass the time, and the coordinator would commit it.
    failed: Option<Capability<u64>>,
    held: Map<Window, Held>,
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
            failed: None,
            held: Map::default(),
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
            .or_default()
            .push(change);
    }

    /// Processes the oldest time if it is complete and all that it needs has been read; `None` if
    /// not.
    fn take_next(
        &mut self,
        complete: impl Fn(&u64) -> bool,
    ) -> Option<(Capability<u64>, Vec<ViewWrite>)> {
        let (&time, _) = self
            .pending
            .first_key_value()
            .filter(|(time, _)| self.failed.is_none() && complete(time))?;
        let write_timestamp = self.settings.timestamps.borrow().write_timestamp_of(time)?;
        match self.process(time, write_timestamp, complete) {
            Ok(false) => None,
            Ok(true) => {
                let pending = self.pending.remove(&time)?;
                let writes = self.underway.take()?.writes;
                self.drop_oldest(time);
                Some((pending.capability, writes))
            }
            Err(error) => {
                self.settings.failure.set(error);
                self.failed = self.pending.remove(&time).map(|pending| pending.capability);
                None
            }
        }
    }

    /// Goes on with the oldest time. Returns whether it is done.
    fn process(
        &mut self,
        time: u64,
        write_timestamp: WriteTimestamp,
        complete: impl Fn(&u64) -> bool,
    ) -> Result<bool, JobError> {
        if self.underway.is_none() {
            self.underway = Some(self.begin(time));
        }
        self.receive_views();
        let Some(mut underway) = self.underway.take() else {
            return Ok(false);
        };
        if underway.outstanding == 0 {
            if !std::mem::replace(&mut underway.applied, true) {
                self.apply(time, write_timestamp, &mut underway)?;
            }
            while let Some(window) = underway.recounts.front().copied() {
                let Some(views) = self.recounted(window, time, &complete)? else {
                    break;
                };
                underway.recounts.pop_front();
                let all = views.all();
                self.write(
                    (window, views),
                    &all,
                    (time, write_timestamp),
                    &mut underway,
                );
            }
        }
        let done = underway.applied && underway.recounts.is_empty();
        self.underway = Some(underway);
        Ok(done)
    }

    /// Requests the views of windows that are not in memory and may have some.
    fn begin(&mut self, time: u64) -> Underway {
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
        let missing: Vec<Window> = self.pending[&time]
            .windows
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
        Underway {
            outstanding,
            stored: missing
                .into_iter()
                .map(|window| (window, Stored::default()))
                .collect(),
            applied: false,
            recounts: VecDeque::new(),
            writes: Vec::new(),
        }
    }

    fn receive_views(&mut self) {
        let Some(underway) = &mut self.underway else {
            return;
        };
        for (key, state) in self.views.replies() {
            let window = Window {
                size: key.size,
                start: key.start,
            };
            let stored = underway
                .stored
                .get_mut(&window)
                .expect("views are read for the time underway");
            let at = View::EVERY.iter().position(|view| *view == key.view);
            stored[at.expect("every view is in EVERY")] = state;
            underway.outstanding -= 1;
        }
    }

    /// Applies the changes of the time to the views of all its windows.
    fn apply(
        &mut self,
        time: u64,
        write_timestamp: WriteTimestamp,
        underway: &mut Underway,
    ) -> Result<(), JobError> {
        let (replaying, lossy) = {
            let timestamps = self.settings.timestamps.borrow();
            let replaying = timestamps.is_replay(time);
            let checkpoint = timestamps.checkpoint.as_ref().filter(|_| replaying);
            (replaying, checkpoint.is_some_and(|found| has_loss(found)))
        };
        let newest = if replaying { time } else { time - 1 };
        let most_ranked = self.settings.most_ranked;
        let empty = || WindowViews::empty(most_ranked);
        let windows = std::mem::take(
            &mut self
                .pending
                .get_mut(&time)
                .expect("the time is pending")
                .windows,
        );
        for (window, changes) in &windows {
            let stored = underway.stored.remove(window);
            check_epochs(stored.iter().flatten().flatten(), *window, newest)?;
            let views = match (self.held.remove(window), &stored) {
                (Some(held), _) => Some(held.views),
                (None, Some(stored)) => empty().stored(stored, &self.settings.baskets),
                (None, None) => Some(empty()),
            };
            // Without some of its records, a replay cannot tell what they added to a stored view.
            let Some(mut views) = views.filter(|_| !lossy) else {
                underway.recounts.push_back(*window);
                continue;
            };
            match views.apply(changes, replaying) {
                Applied::Changed(changed) => {
                    let at = (time, write_timestamp);
                    self.write((*window, views), &changed, at, underway);
                }
                Applied::Unknown => underway.recounts.push_back(*window),
            }
        }
        self.pending
            .get_mut(&time)
            .expect("the time is pending")
            .windows = windows;
        Ok(())
    }

    /// Goes on with the recount of a window. Returns its views once all bars are counted.
    fn recounted(
        &mut self,
        window: Window,
        time: u64,
        complete: impl Fn(&u64) -> bool,
    ) -> Result<Option<WindowViews>, JobError> {
        // The window may have been touched a moment ago. A bar of an earlier epoch whose write is
        // not acknowledged would be read as it was before:
        // 1. epoch 8 changes a bar, and its write is under way;
        // 2. epoch 9 uses up the reserve, and the recount reads the bar as of epoch 7;
        // 3. the write arrives, and the views of epoch 9 lack what epoch 8 added.
        // The same holds for the directory: a symbol of epoch 8 would be missing altogether.
        if acknowledged_epoch(&self.settings.acknowledged) < time.saturating_sub(1) {
            return Ok(None);
        }
        let recount = self.recount.get_or_insert_with(|| {
            self.settings.metrics.view_recounts.add(1);
            let empty = WindowViews::empty(self.settings.most_ranked);
            Recount::new(
                (window, time, empty),
                &self.pending[&time].windows[&window],
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

    /// Writes views of a window and keeps all of them in memory.
    fn write(
        &mut self,
        (window, mut views): (Window, WindowViews),
        changed: &[View],
        (time, write_timestamp): (u64, WriteTimestamp),
        underway: &mut Underway,
    ) {
        underway.writes.extend(changed.iter().map(|view| ViewWrite {
            key: ViewKey {
                view: *view,
                size: window.size,
                start: window.start,
            },
            state: views.write(*view, time, &self.settings.baskets),
            write_timestamp,
        }));
        let touched_at = time;
        self.held.insert(window, Held { touched_at, views });
    }

    /// Drops the least recently touched windows from memory, down to the limit. Only windows whose
    /// views are all acknowledged are dropped.
    fn drop_oldest(&mut self, time: u64) {
        let mut kept: usize = self.held.values().map(|held| held.views.len()).sum();
        if kept <= self.settings.ranks_kept {
            return;
        }
        // `time` is bound, so all epochs up to `epochs_ahead` before it are committed.
        let oldest: BTreeSet<(u64, Window)> = self
            .held
            .iter()
            .map(|(window, held)| (held.touched_at, *window))
            .filter(|(at, _)| at + self.settings.limits.epochs_ahead <= time)
            .collect();
        for (_, window) in oldest {
            if kept <= self.settings.ranks_kept {
                return;
            }
            let held = self.held.remove(&window).expect("it was found above");
            kept -= held.views.len();
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
        .flat_map(|change| &change.bars);
    for bar in bars {
        // The earliest of several changes comes first and is kept.
        later.entry(bar.after.0.clone()).or_insert(bar.before);
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
