//! The replay of one source: reads again the epochs (c, b] that were bound but not committed at the
//! take-over. `protocol/src/resume.rs` decides from which offset.
//!
//! The bindings assign each record to its epoch. When a partition reaches a bound cut, its decision
//! state must equal the state that the binding recorded. If it does not, the log has other records
//! than those that were bound, and nothing of the replay may be released. If records below the cut
//! are known to be gone ([`tapeflow_protocol::resume`]), the replay cannot compute that state and
//! takes it from the binding.

use std::{collections::BTreeMap, ops::Range};

use tapeflow_protocol::{Checkpoint, Counts, Cut, resume::bound_without};
use tapeflow_schemas::{Epoch, Offset, Partition};

use crate::{
    metrics::{Metrics, freshness::Samples},
    operators::{
        combine::Combiner,
        exchange::ExchangeItem,
        partition::{Intake, PartitionState, lost_dead_letter},
    },
};

/// The epochs (c, b] of a source's partitions.
pub(crate) struct Replay {
    epochs: Vec<Bound>,
    /// By partition: offsets that are gone and cannot be read again.
    gaps: BTreeMap<Partition, Range<Offset>>,
    /// The number of partitions that have not reached the last binding's cut.
    left: usize,
    /// The first partition whose state is not that of its binding.
    differs: Option<Partition>,
}

struct Bound {
    epoch: Epoch,
    cuts: Vec<Cut>,
    intake: Intake,
}

impl Replay {
    /// The replay of these partitions; `None` if `checkpoint` has nothing bound. Each partition has
    /// the state of its committed cut, and the next offset that can be read. Partitions take their
    /// state from the bound cuts that lie in their gaps.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        partitions: &mut [PartitionState],
        open: impl Fn() -> Combiner,
    ) -> Option<Self> {
        let last = checkpoint.bound.last()?;
        let (mut epochs, mut gaps, mut before) =
            (Vec::new(), BTreeMap::new(), &checkpoint.committed);
        for binding in &checkpoint.bound {
            let mut intake = Intake::new(open());
            for partition in &*partitions {
                let at = partition.partition as usize;
                // Every replay writes it again, because a crash may have prevented the first write.
                let lost = binding.cuts[at]
                    .lost
                    .and_then(|lost| lost.beyond(before.cuts[at].lost));
                if let Some(lost) = lost {
                    let letter = lost_dead_letter(partition.partition, lost);
                    intake.dead_letters.push(letter);
                }
            }
            epochs.push(Bound {
                epoch: binding.epoch,
                cuts: binding.cuts.clone(),
                intake,
            });
            before = binding;
        }
        for partition in &mut *partitions {
            let at = partition.partition as usize;
            let gap = checkpoint.committed.cuts[at].next..partition.next;
            if !gap.is_empty() {
                checkpoint
                    .bound
                    .iter()
                    .map(|binding| &binding.cuts[at])
                    .filter(|cut| cut.next <= gap.end)
                    .for_each(|cut| partition.adopt(cut));
                gaps.insert(partition.partition, gap);
            }
        }
        let left = partitions
            .iter()
            .filter(|partition| partition.next < last.cuts[partition.partition as usize].next)
            .count();
        Some(Self {
            epochs,
            gaps,
            left,
            differs: None,
        })
    }

    /// Whether every partition has reached the cut of the last binding.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The first partition that has arrived at another state than its binding recorded.
    pub(crate) fn differs(&self) -> Option<Partition> {
        self.differs
    }

    /// The intake of a record's epoch; `None` beyond the last binding.
    pub(crate) fn intake_of(
        &mut self,
        partition: Partition,
        offset: Offset,
    ) -> Option<&mut Intake> {
        self.epochs
            .iter_mut()
            .find(|bound| offset < bound.cuts[partition as usize].next)
            .map(|bound| &mut bound.intake)
    }

    /// Checks the state after a step from offset `was`: one record, or offsets without any. Returns
    /// whether the partition has now reached the cut of the last binding.
    pub(crate) fn advanced(&mut self, state: &mut PartitionState, was: Offset) -> bool {
        let (at, next) = (state.partition as usize, state.next);
        let gap = self.gaps.get(&state.partition);
        for cut in self
            .epochs
            .iter()
            .map(|bound| &bound.cuts[at])
            .filter(|cut| was < cut.next && cut.next <= next)
        {
            if gap.is_some_and(|gap| !bound_without(cut, gap)) {
                state.adopt(cut);
            }
            if !state.decides_as(cut) {
                self.differs.get_or_insert(state.partition);
            }
        }
        let last = self
            .epochs
            .last()
            .map_or(Offset::MIN, |bound| bound.cuts[at].next);
        let reached = was < last && next >= last;
        self.left -= usize::from(reached);
        reached
    }

    /// The items to release, and the counts of each epoch. Also updates the metrics; `sampled`
    /// receives the freshness samples.
    pub(crate) fn finish(
        self,
        metrics: &Metrics,
        mut sampled: impl FnMut(Samples),
    ) -> (Vec<ExchangeItem>, Vec<(Epoch, Counts)>) {
        let (mut items, mut counts) = (Vec::new(), Vec::new());
        for Bound {
            epoch, mut intake, ..
        } in self.epochs
        {
            items.extend(intake.combiner.seal(epoch));
            metrics.count(&intake.counts);
            metrics.count_dead_letters(intake.dead_letters.take_counts());
            metrics.count_outside_sessions(intake.combiner.take_outside_sessions());
            metrics.count_beyond_horizon(intake.combiner.take_beyond_horizon());
            metrics.lost_sequences.add(intake.take_lost_sequences());
            items.extend(intake.take_gaps());
            sampled(intake.samples);
            items.extend(
                intake
                    .dead_letters
                    .take()
                    .into_iter()
                    .map(|dead_letter| ExchangeItem::DeadLetter(Box::new(dead_letter))),
            );
            counts.push((epoch, intake.counts));
        }
        (items, counts)
    }
}
