//! Brings the bars of a window into memory when the window is first touched, and lets go of windows
//! that nobody touches any more.
//!
//! A list needs every bar of its window, on all workers, as of one time. So each worker tells all
//! others which windows its changes touch, and for a time t each of them brings in its own symbols'
//! bars of the same windows:
//!
//! * what t itself has changed: the bar after the change;
//! * else, if a later time that has already arrived changes it: the bar before that change;
//! * else the bar in the store, whose label is t at most.
//!
//! The three agree on "as of t", because a bar that is not acknowledged yet was changed within the
//! last [`EPOCHS_AHEAD`] epochs, and a window touched that lately is still in memory. For the same
//! reason a window may be let go only when it was touched longer ago. Which one goes is decided by
//! the touches alone, which all workers hear alike: so all let go of it at the same time, and a
//! list never shows part of a window.

use std::{
    cell::RefCell,
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

use super::{Change, Rows, Standing, Window};
use crate::{
    coordinator::decisions::EPOCHS_AHEAD,
    hash::{Map, Set},
    job::{Failure, JobError},
    metrics::Metrics,
    operators::{bar_state::EpochTimestamps, exchange::route},
    store_io::{BarReader, StoreIo},
};
/// One change of the collection of bars.
type Update = ((Window, (Symbol, Standing)), u64, isize);

/// What the loader needs to know from the start.
pub(crate) struct WindowSettings {
    pub(crate) io: StoreIo,
    pub(crate) board: Rc<RefCell<EpochTimestamps>>,
    pub(crate) failure: Failure,
    pub(crate) metrics: Arc<Metrics>,
    /// Windows kept in memory beyond those touched within the last epochs; the same on all workers.
    pub(crate) windows_kept: usize,
    /// This worker among all workers of all processes, and how many there are.
    pub(crate) index: usize,
    pub(crate) peers: usize,
}

/// Builds the operator; the activator wakes it after news on the board.
pub(crate) fn build<'scope>(
    changes: StreamVec<'scope, u64, Rc<Vec<Change>>>,
    settings: WindowSettings,
) -> (Rows<'scope>, Activator) {
    let scope = changes.scope();
    let mut activator = None;
    let slot = &mut activator;
    let touched = changes
        .clone()
        .unary::<CapacityContainerBuilder<Vec<Window>>, _, _, _>(
            Pipeline,
            "touched",
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
        "windows",
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
                // Changes first: a bar that the store hands over at a later label has its change
                // among them by now.
                loader.hear();
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

/// What has arrived for one time, and is not yet taken.
struct Pending {
    capability: Capability<u64>,
    changes: Vec<Rc<Vec<Change>>>,
    touched: BTreeSet<Window>,
}

/// A window in memory: this worker's bars of it.
struct Loaded {
    touched_at: u64,
    bars: Map<Symbol, Standing>,
}

/// The reads that the oldest pending time waits for.
struct Loading {
    outstanding: usize,
    bars: Vec<(BarKey, Option<BarState>)>,
}

/// The symbols of this worker that may have bars.
enum Symbols {
    Unknown,
    /// On its way from the directory.
    Asked(Receiver<Vec<Symbol>>),
    /// The directory's, as of the first time they were needed. Later ones come with their first
    /// change.
    Known,
}

struct Loader {
    settings: WindowSettings,
    reader: BarReader,
    wake: SyncActivator,
    pending: BTreeMap<u64, Pending>,
    loading: Option<Loading>,
    /// The capability of a time whose bars were not to be trusted, held to the end: were it
    /// dropped, others would take the time for written.
    failed: Option<Capability<u64>>,
    loaded: Map<Window, Loaded>,
    /// By size, the latest start among the windows let go: those up to it may have bars.
    let_go_up_to: Map<WindowSize, WindowStart>,
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
            let_go_up_to: Map::default(),
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

    /// Hears what came back from the store.
    fn hear(&mut self) {
        if let Symbols::Asked(answer) = &self.directory
            && let Ok(symbols) = answer.try_recv()
        {
            let (index, peers) = (self.settings.index as u64, self.settings.peers as u64);
            // As the exchange in front of the keeper of bars routes them.
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

    /// Takes the oldest time that is complete and whose windows are all at hand; `None` if there is
    /// none.
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

    /// Asks for the bars of the windows that the time touches and that are not in memory; `None`
    /// while the checkpoint or the directory are awaited.
    fn begin_loading(&mut self, time: u64) -> Option<Loading> {
        // Another worker's changes may arrive before the coordinator's first word does.
        let watermark_ms = self.settings.board.borrow().start.as_ref()?.watermark_ms();
        let pending = &self.pending[&time];
        // As in the keeper of bars: a window that starts after every event time as of the
        // take-over, and is later than all that were let go, has no bar that is not in the changes.
        let may_have_bars = |window: &Window| {
            watermark_ms.is_some_and(|max| window.start <= max)
                || self
                    .let_go_up_to
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
            Symbols::Asked(_) => return None,
            Symbols::Unknown => {
                self.directory = Symbols::Asked(self.settings.io.symbols(self.wake.clone()));
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
                // A day of stocks starts when no other day does.
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

    /// All windows that the time touches are at hand: what the collection of bars gains and loses
    /// at it.
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
        let mut later: Map<(Window, &Symbol), Option<Standing>> = Map::default();
        if !read.is_empty() {
            for change in self
                .pending
                .range(time + 1..)
                .flat_map(|(_, pending)| &pending.changes)
                .flat_map(|changes| changes.iter())
            {
                // Of several the earliest, which comes first.
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
            let standing = match (later.get(&(window, &key.symbol)), bar) {
                (Some(before), _) => *before,
                (None, None) => None,
                (None, Some(bar)) if bar.epoch <= time => Some(Standing::of(&bar.totals)),
                (None, Some(bar)) => {
                    return Err(JobError::Fenced(format!(
                        "bar {key} is of epoch {}, this process is at {time}",
                        bar.epoch
                    )));
                }
            };
            if let Some(standing) = standing {
                self.loaded
                    .get_mut(&window)
                    .expect("it is touched")
                    .bars
                    .insert(key.symbol.clone(), standing);
                updates.push(((window, (key.symbol, standing)), time, 1));
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
        self.let_go(time, &mut updates);
        Ok(updates)
    }

    /// Lets go of the windows that were touched longest ago, down to the limit: only such whose
    /// every bar is acknowledged by now.
    fn let_go(&mut self, time: u64, updates: &mut Vec<Update>) {
        let mut oldest: BTreeSet<(u64, Window)> = BTreeSet::new();
        if self.loaded.len() > self.settings.windows_kept {
            // `time` is bound, so all up to EPOCHS_AHEAD before it is committed.
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
            let loaded = self.loaded.remove(&window).expect("it was listed just now");
            updates.extend(loaded.bars.into_iter().map(|bar| ((window, bar), time, -1)));
            let line = self.let_go_up_to.entry(window.size).or_insert(window.start);
            *line = window.start.max(*line);
        }
    }
}
