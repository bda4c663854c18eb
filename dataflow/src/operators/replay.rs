//! The replay of one source: the epochs that were bound and not committed when this generation took
//! over, read again.
//!
//! The epoch a record belongs to was decided when its binding was made. On reaching a bound cut, a
//! partition's decision state must be the one that the binding recorded. Where records are gone
//! that the binding knew ([`tapeflow_protocol::resume`]), the replay cannot come to it by itself, and
//! takes it from the binding.

use std::{collections::BTreeMap, ops::Range};

use tapeflow_protocol::{Checkpoint, Counts, Cut, resume::bound_without};
use tapeflow_schemas::{Epoch, Offset, Partition};

use crate::{
    metrics::{Metrics, freshness::Samples},
    operators::{
        combine::Combiner,
        exchange::Item,
        partition::{Intake, PartitionState, lost_dead_letter},
    },
};

/// The epochs (c, b] of a source's partitions.
pub(crate) struct Replay {
    epochs: Vec<Bound>,
    /// Offsets that are not read again, of the partitions where there are such.
    gaps: BTreeMap<Partition, Range<Offset>>,
    /// Partitions that have not reached the last binding's cut.
    left: usize,
}

struct Bound {
    epoch: Epoch,
    cuts: Vec<Cut>,
    intake: Intake,
}

impl Replay {
    /// What `checkpoint` has bound, for these partitions, each as of the committed cut but for its next
    /// offset; they are moved over the cuts that lie in their gaps. `None` if nothing is bound.
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
                // Written again by every replay, for the first time may have been cut short.
                let lost = binding.cuts[at]
                    .lost
                    .and_then(|lost| lost.beyond(before.cuts[at].lost));
                intake
                    .dead_letters
                    .extend(lost.map(|lost| lost_dead_letter(partition.partition, lost)));
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
        Some(Self { epochs, gaps, left })
    }

    /// Whether every partition has reached the last binding's cut.
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// Where a record belongs; `None` beyond the last binding.
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

    /// A record was taken when the partition stood at `was`. Whether that has brought it to the
    /// last binding's cut.
    pub(crate) fn advanced(&mut self, state: &mut PartitionState, was: Offset) -> bool {
        let (at, next) = (state.partition as usize, state.next);
        let gap = self.gaps.get(&state.partition);
        for cut in self
            .epochs
            .iter()
            .map(|bound| &bound.cuts[at])
            .filter(|cut| was < cut.next && cut.next == next)
        {
            if gap.is_some_and(|gap| !bound_without(cut, gap)) {
                state.adopt(cut);
            }
            assert!(
                state.decides_as(cut),
                "replay of partition {} came to another state than its binding",
                state.partition
            );
        }
        let last = self
            .epochs
            .last()
            .map_or(Offset::MIN, |bound| bound.cuts[at].next);
        let reached = was < last && next >= last;
        self.left -= usize::from(reached);
        reached
    }

    /// All that was read, and what each epoch came to. What was counted and timed on the way is
    /// told as well.
    pub(crate) fn finish(
        self,
        metrics: &Metrics,
        mut sampled: impl FnMut(Samples),
    ) -> (Vec<Item>, Vec<(Epoch, Counts)>) {
        let (mut items, mut counts) = (Vec::new(), Vec::new());
        for Bound {
            epoch, mut intake, ..
        } in self.epochs
        {
            items.extend(intake.combiner.seal(epoch));
            metrics.count(&intake.counts);
            metrics.count_dead_letters(intake.dead_letters.iter());
            sampled(intake.samples);
            items.extend(
                intake
                    .dead_letters
                    .drain(..)
                    .map(|dead_letter| Item::DeadLetter(Box::new(dead_letter))),
            );
            counts.push((epoch, intake.counts));
        }
        (items, counts)
    }
}
