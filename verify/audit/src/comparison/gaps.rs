//! Feed gaps against their recomputation: a false one says that a complete bar is not, and one that
//! is missing says the opposite.

use std::collections::{BTreeMap, BTreeSet};

use tapeflow_oracle::OracleGap;
use tapeflow_protocol::FeedGap;
use tapeflow_schemas::{Epoch, SessionId};

use super::Comparison;
use crate::{
    coverage::Comparable,
    findings::{Place, RepairAction},
    recompute::{COMMITTED, Recomputation},
};

/// What identifies a row: beginning, session and end. Its words do not, so that of two records that
/// differ in them alone a store keeps one.
type Key = (i64, SessionId, Option<i64>);

impl Comparison<'_> {
    /// All gaps of the store, with the number of buckets that each was found in. The recomputation
    /// knows all epochs that were bound when they were read.
    pub(crate) fn feed_gaps(
        &mut self,
        recomputation: &Recomputation<'_>,
        found: &BTreeMap<FeedGap, usize>,
    ) {
        let gaps_as_of = |epoch| -> BTreeSet<FeedGap> {
            let gaps = recomputation.oracle.gaps_as_of(epoch);
            gaps.map(stored).collect()
        };
        let known = gaps_as_of(Epoch::MAX);
        for gap in found.keys() {
            let is_known = known.contains(gap);
            if is_known || self.comparable == Comparable::Everything {
                self.findings.feed_gaps.compared += 1;
            } else {
                self.findings.feed_gaps.not_compared += 1;
                self.findings.feed_gaps.beyond_reach += 1;
                continue;
            }
            if !is_known {
                let place = Place::FeedGap(gap.clone());
                let text = format!("{place}: no record of the log reports it");
                self.differs(place, RepairAction::CannotDelete, &text);
            }
        }
        let buckets = buckets_by_row(found);
        // Without the job's own counts, the recomputation may have taken a record that the job
        // dropped.
        let action = match self.comparable {
            Comparable::Everything | Comparable::WindowsAfterCut => RepairAction::Write,
            Comparable::PresenceOnly => RepairAction::CannotRecompute,
        };
        // Those of later epochs may not be written yet.
        for gap in gaps_as_of(COMMITTED) {
            let (has, needs) = (buckets.get(&key(&gap)), gap.buckets().count());
            let text = match has {
                Some(has) if *has >= needs => continue,
                Some(has) => format!("it is in {has} of its {needs} buckets"),
                None => "a record of the log reports it, the store has none".to_owned(),
            };
            let place = Place::FeedGap(gap);
            let text = format!("{place}: {text}");
            self.differs(place, action, &text);
        }
    }

    /// Gaps that cannot be read.
    pub(crate) fn unreadable_feed_gaps(&mut self, reason: &str) {
        let text = format!("{}: {reason}", Place::FeedGaps);
        self.differs(Place::FeedGaps, RepairAction::CannotRecompute, &text);
    }
}

/// Those of `gaps` that a store does not have in all of their buckets.
pub(crate) fn lacking<'a>(
    found: &BTreeMap<FeedGap, usize>,
    gaps: &'a [FeedGap],
) -> Vec<&'a FeedGap> {
    let buckets = buckets_by_row(found);
    let has = |gap: &FeedGap| buckets.get(&key(gap)).copied().unwrap_or(0);
    let gaps = gaps.iter();
    gaps.filter(|gap| has(gap) < gap.buckets().count())
        .collect()
}

fn buckets_by_row(found: &BTreeMap<FeedGap, usize>) -> BTreeMap<Key, usize> {
    let mut buckets: BTreeMap<Key, usize> = BTreeMap::new();
    for (gap, count) in found {
        let sum = buckets.entry(key(gap)).or_default();
        *sum = count.saturating_add(*sum);
    }
    buckets
}

fn key(gap: &FeedGap) -> Key {
    (gap.from_ms, gap.session, gap.to_ms)
}

/// The row that a store keeps of a gap.
fn stored(gap: &OracleGap) -> FeedGap {
    FeedGap {
        from_ms: gap.from_ms,
        to_ms: gap.to_ms,
        session: gap.session,
        producer: gap.producer.clone(),
        cause: gap.cause.clone(),
    }
}
