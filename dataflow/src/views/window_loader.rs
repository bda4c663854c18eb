//! Loads the bars of a window when the window is first touched, and unloads windows that are no
//! longer touched.
//!
//! A view needs every bar of its window, on all workers, as of one time. So each worker broadcasts
//! which windows its changes touch. For a time t, each worker loads its own symbols' bars of these
//! windows:
//!
//! * if t has changed the bar: the bar after that change;
//! * else, if a later time that has already arrived changes it: the bar before that change;
//! * else the bar in the store, whose epoch is t at most.
//!
//! The three sources agree on "as of t". A bar whose write is not acknowledged was changed within
//! the last [`EPOCHS_AHEAD`] epochs, and a window touched that recently is still in memory. For the
//! same reason a window may be unloaded only if its last touch is older. All workers see the same
//! touches and choose the windows to unload by them alone. So all unload a window at the same time,
//! and a view never shows part of a window.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, mpsc::Receiver},
};

use differential_dataflow::AsCollection;
use tapeflow_schemas::{BarKey, BarState, Symbol, WindowSize, WindowStart};
use timely::{
    container::CapacityContainerBuilder,
    dataflow::{
        StreamVec,
        channels::pact::Pipeline,
        operators::{Capability, generic::operator::Operator, vec::Broadcast},
    },
    scheduling::{Activator, SyncActivator},
};

use super::{
    changes::{BarValues, Change, Window},
    definitions::Bars,
};
use crate::{
    coordinator::decisions::EPOCHS_AHEAD,
    epoch_timestamps::SharedEpochTimestamps,
    failure::{Failure, JobError},
    hash::{Map, Set},
    metrics::Metrics,
    operators::exchange::route,
    store_io::{BarReader, StoreIo},
};

/// One change of the collection of bars.
type Update = ((Window, (Symbol, BarValues)), u64, isize);

pub(crate) struct WindowSettings {
    pub(crate) io: StoreIo,
    pub(crate) timestamps: SharedEpochTimestamps,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
    /// The windows kept in memory beyond those touched within the last epochs. The same on all
    /// workers.
    pub(crate) windows_kept: usize,
    /// The index of this worker among all workers of all processes, and their number.
    pub(crate) index: usize,
    pub(crate) peers: usize,
}

/// Builds the operator. The activator wakes it after a new write timestamp.
pub(crate) fn build<'scope>(
    changes: StreamVec<'scope, u64, Rc<Vec<Change>>>,
    settings: WindowSettings,
) -> (Bars<'scope>, Activator) {
    let scope = changes.scope();
    let mut activator = None;
    let slot = &mut activator;
    let touched = changes
        .clone()
        .unary::<CapacityContainerBuilder<Vec<Window>>, _, _, _>(
            Pipeline,
            "touched windows",
            |_capability, _info| {
                |input, output| {
                    input.for_each_stamp(|capability, data| {
                        if let Some(capability) = capability.retain_least(0) {
                            let windows: BTreeSet<Window> = data
                                .flat_map(|container| container.drain(..))
                                .flat_map(|changes| windows_of(&changes))
                                .collect();
                            output
                                .session(&capability)
                                .give_iterator(windows.into_iter());
                        }
                    });
                }
            },
        )
        .broadcast();
    let bars = changes.binary_frontier::<_, CapacityContainerBuilder<Vec<Update>>, _, _, _, _>(
        touched,
        Pipeline,
        Pipeline,
        "window loader",
        |_capability, info| {
            *slot = Some(scope.activator_for(Rc::clone(&info.address)));
            let wake = scope.worker().sync_activator_for(info.address.to_vec());
            let mut loader = Loader::new(settings, wake);
            move |(changes, changes_frontier), (touched, touched_frontier), output| {
                changes.for_each_stamp(|capability, data| {
                    if let Some(capability) = capability.retain_least(0) {
                        data.flat_map(|container| container.drain(..))
                            .for_each(|changes| loader.receive(&capability, changes));
                    }
                });
                touched.for_each_stamp(|capability, data| {
                    if let Some(capability) = capability.retain_least(0) {
                        let windows = data.flat_map(|container| container.drain(..));
                        loader.pending_at(&capability).touched.extend(windows);
                    }
                });
                // After the changes: if the store returns a bar of a later epoch, the change that
                // made it has arrived by now.
                loader.receive_from_store();
                while let Some((capability, updates)) = loader.take_next(|time| {
                    !changes_frontier.less_equal(time) && !touched_frontier.less_equal(time)
                }) {
                    output
                        .session(&capability)
                        .give_iterator(updates.into_iter());
                }
            }
        },
    );
    (
        bars.as_collection(),
        activator.expect("the constructor has run"),
    )
}

fn windows_of(changes: &[Change]) -> BTreeSet<Window> {
    changes.iter().map(|change| change.window).collect()
}

/// What has arrived for a time that is not processed yet.
struct Pending {
    capability: Capability<u64>,
    changes: Vec<Rc<Vec<Change>>>,
    touched: BTreeSet<Window>,
}

/// A window in memory: this worker's bars of it.
struct Loaded {
    touched_at: u64,
    bars: Map<Symbol, BarValues>,
}

/// The reads that the oldest pending time waits for.
struct Loading {
    outstanding: usize,
    bars: Vec<(BarKey, Option<BarState>)>,
}

/// The symbols of this worker that may have bars.
enum Symbols {
    Unknown,
    /// Requested from the directory.
    Requested(Receiver<Vec<Symbol>>),
    /// The symbols of the directory when they were first needed. Newer symbols arrive with their
    /// first change.
    Known,
}

struct Loader {
    settings: WindowSettings,
    reader: BarReader,
    wake: SyncActivator,
    pending: BTreeMap<u64, Pending>,
    loading: Option<Loading>,
    /// The capability of a time that failed, held until the process ends. Without it, the frontier
    /// would pass the time, and the coordinator would commit it.
    failed: Option<Capability<u64>>,
    loaded: Map<Window, Loaded>,
    /// By size: the latest start of the unloaded windows. Windows up to it may have bars.
    unloaded_up_to: Map<WindowSize, WindowStart>,
    directory: Symbols,
    symbols: Set<Symbol>,
}

impl Loader {
    fn new(settings: WindowSettings, wake: SyncActivator) -> Self {
        Self {
            reader: settings.io.reader(wake.clone()),
            settings,
            wake,
            pending: BTreeMap::new(),
            loading: None,
            failed: None,
            loaded: Map::default(),
            unloaded_up_to: Map::default(),
            directory: Symbols::Unknown,
            symbols: Set::default(),
        }
    }

    fn pending_at(&mut self, capability: &Capability<u64>) -> &mut Pending {
        self.pending
            .entry(*capability.time())
            .or_insert_with(|| Pending {
                capability: capability.clone(),
                changes: Vec::new(),
                touched: BTreeSet::new(),
            })
    }

    fn receive(&mut self, capability: &Capability<u64>, changes: Rc<Vec<Change>>) {
        for change in changes.iter() {
            if !self.symbols.contains(&change.symbol) {
                self.symbols.insert(change.symbol.clone());
            }
        }
        self.pending_at(capability).changes.push(changes);
    }

    /// Takes the replies of the store.
    fn receive_from_store(&mut self) {
        if let Symbols::Requested(answer) = &self.directory
            && let Ok(symbols) = answer.try_recv()
        {
            let (index, peers) = (self.settings.index as u64, self.settings.peers as u64);
            // The symbols that the exchange routes to this worker.
            self.symbols.extend(
                symbols
                    .into_iter()
                    .filter(|symbol| route(symbol) % peers == index),
            );
            self.directory = Symbols::Known;
        }
        for reply in self.reader.replies() {
            let loading = self
                .loading
                .as_mut()
                .expect("bars are read for a time that waits for them");
            loading.outstanding -= 1;
            loading.bars.push(reply);
        }
    }

    /// Processes the oldest time if it is complete and its windows are loaded; `None` if not.
    fn take_next(
        &mut self,
        complete: impl Fn(&u64) -> bool,
    ) -> Option<(Capability<u64>, Vec<Update>)> {
        let (&time, _) = self
            .pending
            .first_key_value()
            .filter(|(time, _)| self.failed.is_none() && complete(time))?;
        if self.loading.is_none() {
            self.loading = Some(self.begin_loading(time)?);
        }
        let loading = self.loading.take_if(|loading| loading.outstanding == 0)?;
        let pending = self.pending.remove(&time)?;
        match self.apply(time, &pending, loading.bars) {
            Ok(updates) => Some((pending.capability, updates)),
            Err(error) => {
                self.settings.failure.set(error);
                self.failed = Some(pending.capability);
                None
            }
        }
    }

    /// Requests the bars of the windows that the time touches and that are not in memory; `None`
    /// while the checkpoint or the directory has not arrived.
    fn begin_loading(&mut self, time: u64) -> Option<Loading> {
        // Another worker's changes may arrive before the coordinator's first message.
        let watermark_ms = self
            .settings
            .timestamps
            .borrow()
            .checkpoint
            .as_ref()?
            .watermark_ms();
        let pending = &self.pending[&time];
        // As in the bar state: all bars of a window are in the changes if it starts after the
        // watermark of the take-over and after all unloaded windows of its size.
        let may_have_bars = |window: &Window| {
            watermark_ms.is_some_and(|watermark| window.start <= watermark)
                || self
                    .unloaded_up_to
                    .get(&window.size)
                    .is_some_and(|line| window.start <= *line)
        };
        let missing: Vec<Window> = pending
            .touched
            .iter()
            .filter(|window| !self.loaded.contains_key(*window) && may_have_bars(window))
            .copied()
            .collect();
        if missing.is_empty() {
            return Some(Loading {
                outstanding: 0,
                bars: Vec::new(),
            });
        }
        match self.directory {
            Symbols::Known => {}
            Symbols::Requested(_) => return None,
            Symbols::Unknown => {
                self.directory = Symbols::Requested(self.settings.io.symbols(self.wake.clone()));
                return None;
            }
        }
        let changed: Set<(Window, &Symbol)> = pending
            .changes
            .iter()
            .flat_map(|changes| changes.iter())
            .map(|change| (change.window, &change.symbol))
            .collect();
        let mut keys = Vec::new();
        for window in missing {
            for symbol in &self.symbols {
                // A day of stocks starts at another time than other days.
                if window.size.is_start(window.start, symbol.class())
                    && !changed.contains(&(window, symbol))
                {
                    keys.push(BarKey {
                        symbol: symbol.clone(),
                        size: window.size,
                        start: window.start,
                    });
                }
            }
        }
        let outstanding = keys.len();
        self.settings.metrics.view_bars_read.add(outstanding as u64);
        self.reader.request(keys);
        Some(Loading {
            outstanding,
            bars: Vec::with_capacity(outstanding),
        })
    }

    /// All windows that the time touches are loaded. Returns the changes of the collection of bars
    /// at this time.
    fn apply(
        &mut self,
        time: u64,
        pending: &Pending,
        read: Vec<(BarKey, Option<BarState>)>,
    ) -> Result<Vec<Update>, JobError> {
        let mut updates = Vec::new();
        for window in &pending.touched {
            self.loaded
                .entry(*window)
                .or_insert_with(|| Loaded {
                    touched_at: time,
                    bars: Map::default(),
                })
                .touched_at = time;
        }
        let mut later: Map<(Window, &Symbol), Option<BarValues>> = Map::default();
        if !read.is_empty() {
            for change in self
                .pending
                .range(time + 1..)
                .flat_map(|(_, pending)| &pending.changes)
                .flat_map(|changes| changes.iter())
            {
                // The earliest of several changes comes first and is kept.
                later
                    .entry((change.window, &change.symbol))
                    .or_insert(change.before);
            }
        }
        for (key, bar) in read {
            let window = Window {
                size: key.size,
                start: key.start,
            };
            let values = match (later.get(&(window, &key.symbol)), bar) {
                (Some(before), _) => *before,
                (None, None) => None,
                (None, Some(bar)) if bar.epoch <= time => Some(BarValues::of(&bar.totals)),
                (None, Some(bar)) => {
                    return Err(JobError::Fenced(format!(
                        "bar {key} has epoch {}, which is later than epoch {time} of this process",
                        bar.epoch
                    )));
                }
            };
            if let Some(values) = values {
                self.loaded
                    .get_mut(&window)
                    .expect("it is touched")
                    .bars
                    .insert(key.symbol.clone(), values);
                updates.push(((window, (key.symbol, values)), time, 1));
            }
        }
        for change in pending.changes.iter().flat_map(|changes| changes.iter()) {
            let bars = &mut self
                .loaded
                .get_mut(&change.window)
                .expect("it is touched")
                .bars;
            let before = bars.insert(change.symbol.clone(), change.after);
            if before == Some(change.after) {
                continue;
            }
            updates.extend(
                before.map(|before| ((change.window, (change.symbol.clone(), before)), time, -1)),
            );
            updates.push((
                (change.window, (change.symbol.clone(), change.after)),
                time,
                1,
            ));
        }
        drop(later);
        self.unload(time, &mut updates);
        Ok(updates)
    }

    /// Unloads the least recently touched windows, down to the limit. Only windows whose bars are
    /// all acknowledged are unloaded.
    fn unload(&mut self, time: u64, updates: &mut Vec<Update>) {
        let mut oldest: BTreeSet<(u64, Window)> = BTreeSet::new();
        if self.loaded.len() > self.settings.windows_kept {
            // `time` is bound, so all epochs up to EPOCHS_AHEAD before it are committed.
            oldest.extend(
                self.loaded
                    .iter()
                    .map(|(window, loaded)| (loaded.touched_at, *window))
                    .filter(|(at, _)| at + EPOCHS_AHEAD <= time),
            );
        }
        for (_, window) in oldest
            .into_iter()
            .take(self.loaded.len().saturating_sub(self.settings.windows_kept))
        {
            let loaded = self.loaded.remove(&window).expect("it was found above");
            updates.extend(loaded.bars.into_iter().map(|bar| ((window, bar), time, -1)));
            let line = self
                .unloaded_up_to
                .entry(window.size)
                .or_insert(window.start);
            *line = window.start.max(*line);
        }
    }
}
