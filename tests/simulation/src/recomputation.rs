//! The recomputation of what is bound, and of what an accepted loss leaves open.
//!
//! A record that is gone before any epoch contains it is in no bar. A record that is bound, and
//! gone before its epoch is committed, is *uncertain*: a bar that was written before the loss
//! contains it, and a bar that the replay makes from an older one does not.
//!
//! ```text
//!   bar in the store as of   c          4         5         b
//!   lost records of epoch        4          5         6          the replay adds none of them
//!                            ├──────────┴─────────┘
//!                            the bar has those up to its own epoch, and no others
//! ```
//!
//! So a bar must equal one of a few *variants*: the recomputation without the uncertain records of
//! all epochs, without those after epoch 4, and so on. A bar that they do not touch has one value,
//! as always. A view is made from many bars, each with a variant of its own, so views of windows
//! with uncertain bars are not compared.

use std::collections::{BTreeMap, BTreeSet};

use tapeflow_dataflow::RepairValues;
use tapeflow_log::LogRecord;
use tapeflow_oracle::{Oracle, OracleBar};
use tapeflow_schemas::{
    BarKey, Epoch, Horizons, Offset, PackedBars, Partition, Symbol, Totals, View, ViewKey,
    WindowSize, WindowStart,
};

use crate::partition_log::Appended;

/// The identity of a record.
pub(crate) type Place = (Partition, Offset);

/// The most variants; each costs a recomputation of the log.
const VARIANTS: usize = 64;

/// A record that an epoch contains.
struct Given {
    epoch: Epoch,
    place: Place,
    record: Appended,
}

struct Variant {
    oracle: Oracle,
    lacks: BTreeSet<Place>,
}

/// All that is bound.
pub(crate) struct Recomputation {
    sizes: Vec<WindowSize>,
    horizons: Horizons,
    partitions: u32,
    given: Vec<Given>,
    epochs: BTreeMap<Place, Epoch>,
    /// The first one lacks nothing.
    variants: Vec<Variant>,
    uncertain: BTreeSet<Place>,
    /// The epochs of uncertain records.
    uncertain_epochs: BTreeSet<Epoch>,
    uncertain_bars: BTreeSet<BarKey>,
    uncertain_windows: BTreeSet<(WindowSize, WindowStart)>,
}

impl Recomputation {
    pub(crate) fn new(sizes: Vec<WindowSize>, horizons: Horizons, partitions: u32) -> Self {
        Self {
            variants: vec![Variant {
                oracle: Oracle::new(sizes.clone(), partitions).with_horizons(horizons.iter()),
                lacks: BTreeSet::new(),
            }],
            sizes,
            horizons,
            partitions,
            given: Vec::new(),
            epochs: BTreeMap::new(),
            uncertain: BTreeSet::new(),
            uncertain_epochs: BTreeSet::new(),
            uncertain_bars: BTreeSet::new(),
            uncertain_windows: BTreeSet::new(),
        }
    }

    /// With every bound record, also those that are lost since.
    pub(crate) fn whole(&self) -> &Oracle {
        &self.variants[0].oracle
    }

    /// An epoch contains the next record of a partition.
    pub(crate) fn give(&mut self, epoch: Epoch, place: Place, record: Appended) {
        let given = Given {
            epoch,
            place,
            record,
        };
        for variant in &mut self.variants {
            variant.give(&given);
        }
        self.epochs.insert(place, epoch);
        self.given.push(given);
    }

    /// Bound records are gone, and a generation may replay their epochs without them. Returns how
    /// many are uncertain from now on.
    pub(crate) fn lose(&mut self, places: impl Iterator<Item = Place>) -> u64 {
        let lost: Vec<(Place, Epoch)> = places
            .filter(|place| !self.uncertain.contains(place))
            .filter_map(|place| Some((place, *self.epochs.get(&place)?)))
            .collect();
        let epochs: BTreeSet<Epoch> = lost.iter().map(|(_, epoch)| *epoch).collect();
        let Some(last) = epochs.last() else { return 0 };
        // What a bar may have been as of when the replay read it. As of the last epoch it lacks
        // none of them, which the variants so far say.
        let seen: Vec<Epoch> = std::iter::once(0)
            .chain(epochs.iter().copied())
            .filter(|seen| seen < last)
            .collect();
        let before: Vec<BTreeSet<Place>> = self
            .variants
            .iter()
            .map(|variant| variant.lacks.clone())
            .collect();
        for seen in seen {
            let after = lost.iter().filter(|(_, epoch)| *epoch > seen);
            let after: BTreeSet<Place> = after.map(|(place, _)| *place).collect();
            for lacks in &before {
                let lacks = lacks | &after;
                if self.variants.iter().all(|variant| variant.lacks != lacks) {
                    self.variants.push(self.without(lacks));
                }
            }
        }
        assert!(
            self.variants.len() <= VARIANTS,
            "few losses have few variants"
        );
        self.uncertain.extend(lost.iter().map(|(place, _)| *place));
        self.uncertain_epochs.extend(epochs);
        self.find_uncertain_bars();
        lost.len() as u64
    }

    fn without(&self, lacks: BTreeSet<Place>) -> Variant {
        let mut variant = Variant {
            oracle: Oracle::new(self.sizes.clone(), self.partitions)
                .with_horizons(self.horizons.iter()),
            lacks,
        };
        for given in &self.given {
            variant.give(given);
        }
        variant
    }

    /// Each uncertain trade changes the number of trades of its bars.
    fn find_uncertain_bars(&mut self) {
        let least = self.without(self.uncertain.clone()).oracle;
        let mut bars = Vec::new();
        for (key, bar) in self.whole().bars() {
            if least.bar_as_of(key.symbol, key.size, key.start, Epoch::MAX) != Some(bar)
                && let Ok(symbol) = Symbol::new(key.symbol)
            {
                let (size, start) = (key.size, key.start);
                bars.push(BarKey {
                    symbol,
                    size,
                    start,
                });
            }
        }
        let windows = bars.iter().map(|key| (key.size, key.start));
        self.uncertain_windows.extend(windows);
        self.uncertain_bars.extend(bars);
    }

    /// What a bar may be as of an epoch: one value, or a few if it is uncertain. `None` is no bar.
    pub(crate) fn bar_as_of(&self, key: &BarKey, epoch: Epoch) -> Vec<Option<OracleBar>> {
        let variants = if self.uncertain_bars.contains(key) {
            &self.variants[..]
        } else {
            &self.variants[..1]
        };
        let bar = |variant: &Variant| {
            let oracle = &variant.oracle;
            oracle.bar_as_of(key.symbol.as_str(), key.size, key.start, epoch)
        };
        variants.iter().map(bar).collect()
    }

    /// The exact rows of these keys as of an epoch, without uncertain records, as a repair computes
    /// them: with the code of the job.
    pub(crate) fn rows_as_of(
        &self,
        keys: Vec<BarKey>,
        epoch: Epoch,
    ) -> Vec<(BarKey, Totals, PackedBars)> {
        let from = vec![0; self.partitions as usize];
        let mut values = RepairValues::new(&self.sizes, &self.horizons, &from, keys.clone());
        for Given {
            epoch: of,
            place,
            record,
        } in &self.given
        {
            if *of <= epoch && !self.uncertain.contains(place) {
                values.record(LogRecord {
                    partition: place.0,
                    offset: place.1,
                    timestamp_ms: record.timestamp_ms,
                    payload: Some(&record.payload),
                });
            }
        }
        let row = |key: BarKey| {
            let row = values.row(&key)?;
            Some((key, row.totals, row.packed))
        };
        keys.into_iter().filter_map(row).collect()
    }

    pub(crate) fn is_uncertain_bar(&self, key: &BarKey) -> bool {
        self.uncertain_bars.contains(key)
    }

    pub(crate) fn is_uncertain_view(&self, key: &ViewKey) -> bool {
        self.uncertain_windows.contains(&(key.size, key.start))
    }

    pub(crate) fn is_uncertain_epoch(&self, epoch: Epoch) -> bool {
        self.uncertain_epochs.contains(&epoch)
    }

    pub(crate) fn is_uncertain(&self, place: Place) -> bool {
        self.uncertain.contains(&place)
    }

    /// The number of uncertain records of an epoch.
    pub(crate) fn uncertain_records(&self, epoch: Epoch) -> u64 {
        let of_epoch = |place: &&Place| self.epochs.get(*place) == Some(&epoch);
        self.uncertain.iter().filter(of_epoch).count() as u64
    }

    /// Whether every record of every bar is certain. Otherwise a replay may know less about which
    /// trades are late.
    pub(crate) fn is_certain(&self) -> bool {
        self.uncertain.is_empty()
    }

    /// Whether a breach of the store's invariants is what a loss allows: two contents of an
    /// uncertain bar or view.
    pub(crate) fn excuses(&self, breach: &str) -> bool {
        self.uncertain_bars
            .iter()
            .any(|key| breach.contains(&key.to_string()))
            || self.uncertain_windows.iter().any(|(size, start)| {
                View::EVERY.iter().any(|view| {
                    let key = ViewKey {
                        view: *view,
                        size: *size,
                        start: *start,
                    };
                    breach.contains(&key.to_string())
                })
            })
    }
}

impl Variant {
    fn give(&mut self, given: &Given) {
        let (partition, offset) = given.place;
        // The duplicate filter of a binding has learned from the record, so a variant does too.
        let payload = if self.lacks.contains(&given.place) {
            given.record.emptied.as_ref()
        } else {
            Some(&given.record.payload)
        };
        if let Some(payload) = payload {
            let timestamp_ms = given.record.timestamp_ms;
            self.oracle
                .record(given.epoch, partition, offset, timestamp_ms, Some(payload));
        }
    }
}
