//! What can be judged when retention has removed records that the job has read.
//!
//! A record that is gone may have held any symbol and any time, so no row is out of its reach by what it is. And a record that is still there
//! may repeat one that is gone: the job dropped it, the recomputation does not know. Still, most rows can be judged:
//!
//! 1. The recomputation begins at a committed cut of which everything after it is still there. History says what the job made of the records
//!    after that cut. A filter that has forgotten finds no more repeats than one that has not; so if both counted as many, they dropped the same
//!    records, and the recomputation has exactly the trades that the job accepted since.
//! 2. Every accepted trade adds one to its row. So a row that has as many trades as the recomputation of its window holds no trade from before the
//!    cut, or it is wrong: either way it must equal the recomputation. One that has fewer is wrong. One that has more is not judged.
//! 3. A list is judged if every row of its window was. If all those rows are right, no trade from before the cut is in the window, and the list must
//!    equal its recomputation; if one is not, the store is wrong anyway.
//! 4. A row or a list that the remaining records call for must be there, whatever else was in it.
//!
//! So what is reported is always a fault of the store, though not every fault is found.

use tapeflow_oracle::Oracle;
use tapeflow_schemas::Offset;
use tapeflow_sinks::{Counts, Head, HistoryEntry, Store};

use super::compare::COMMITTED;
use crate::{end::End, stores};

/// History entries read at most: three days of epochs of 250 ms.
const HISTORY_READ: usize = 1_000_000;

/// Where the recomputation begins, and why there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reach {
    /// The first offset to be folded, by partition.
    pub(super) from: Vec<Offset>,
    /// Records that the job may have read and the log no longer has.
    pub(super) gone: u64,
    basis: Basis,
}

#[derive(Debug, PartialEq, Eq)]
enum Basis {
    /// The log has everything from its first offset on.
    Everything,
    /// What is gone was gone before the job began, if its records came to this.
    SinceTheJobBegan(Counts),
    /// A cut with everything after it, of which the records came to this.
    SinceACut(Counts),
    /// No such cut.
    Nothing,
}

/// What may be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Everything: all that the job has read was recomputed.
    All,
    /// What holds nothing from before the recomputation's beginning: its own number of trades says so.
    Since,
    /// Nothing but that rows and lists are there.
    Presence,
}

/// Finds where to begin, given the first offset that the log still has of each partition.
pub(super) async fn of(store: &dyn Store, head: &Head, starts: &[Offset]) -> Result<Reach, End> {
    let gone = starts.iter().zip(&head.last_binding().cuts).map(|(start, cut)| u64::try_from(*start.min(&cut.next)).unwrap_or(0)).sum();
    if gone == 0 {
        return Ok(Reach { from: starts.to_vec(), gone, basis: Basis::Everything });
    }
    let history = stores::answered(store.history(HISTORY_READ).await)?;
    Ok(begin(&history, head, starts, gone))
}

/// The same, given the history, newest first.
fn begin(history: &[HistoryEntry], head: &Head, starts: &[Offset], gone: u64) -> Reach {
    let committed = &head.committed;
    let (mut expected, mut since, mut oldest) = (committed.epoch, Counts::default(), None);
    let mut within = true;
    // History is written before the commit: a crash between the two leaves an entry that is not committed yet.
    for entry in history.iter().skip_while(|entry| entry.epoch > committed.epoch) {
        if entry.epoch != expected {
            break;
        }
        // A partition that was added later had nothing in it that the job had read.
        let cuts: Vec<Offset> = (0..starts.len()).map(|at| entry.cuts.get(at).copied().unwrap_or(0)).collect();
        within &= cuts.iter().zip(starts).all(|(cut, start)| cut >= start);
        if within {
            oldest = Some((cuts, since));
        }
        since.add(&entry.counts);
        expected = expected.saturating_sub(1);
    }
    let read = committed.cuts.iter().zip(starts).try_fold(0, |sum, (cut, start)| u64::try_from(cut.next - start).ok().map(|read| sum + read));
    if expected == 0 && read == Some(since.records) {
        return Reach { from: starts.to_vec(), gone, basis: Basis::SinceTheJobBegan(since) };
    }
    match oldest {
        Some((from, counts)) => Reach { from, gone, basis: Basis::SinceACut(counts) },
        None => {
            let bound = &head.last_binding().cuts;
            Reach { from: starts.iter().zip(bound).map(|(start, cut)| *start.min(&cut.next)).collect(), gone, basis: Basis::Nothing }
        }
    }
}

impl Reach {
    /// What may be judged by this recomputation.
    pub(super) fn trust(&self, oracle: &Oracle) -> Trust {
        let same = |said: &Counts| {
            let counted = oracle.counts_of(COMMITTED);
            // Not the gaps: the first record after the beginning follows on one that was not read.
            (counted.records, counted.accepted, counted.rejected_in_all(), counted.duplicates, counted.price_updates)
                == (said.records, said.accepted, said.rejected, said.duplicates, said.price_updates)
        };
        match &self.basis {
            Basis::Everything => Trust::All,
            Basis::SinceTheJobBegan(said) if same(said) => Trust::All,
            Basis::SinceACut(said) if same(said) => Trust::Since,
            Basis::SinceTheJobBegan(_) | Basis::SinceACut(_) | Basis::Nothing => Trust::Presence,
        }
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_sinks::{SourceIdentity, decide};

    use super::*;

    /// A job of two partitions that began at these offsets and has committed an epoch at each of these cuts.
    fn job(began: [Offset; 2], cuts: &[[Offset; 2]]) -> (Head, Vec<HistoryEntry>) {
        let source = SourceIdentity { cluster: "c".into(), topic: "t".into(), topic_id: None };
        let opening = decide::Opening { job: "j".into(), logic: "l".into(), source, earliest: began.to_vec(), owner: "o".into() };
        let mut head = decide::take_over(None, &opening, 1).expect("a fresh store");
        let (mut history, mut before) = (Vec::new(), began);
        for (epoch, cut) in (1..).zip(cuts) {
            let records = cut.iter().zip(before).map(|(now, before)| u64::try_from(now - before).expect("forwards")).sum();
            history.insert(0, HistoryEntry { epoch, stamp: 0, cuts: cut.to_vec(), counts: Counts { records, ..Counts::default() } });
            before = *cut;
        }
        head.committed.epoch = u64::try_from(cuts.len()).expect("few");
        for (cut, next) in head.committed.cuts.iter_mut().zip(before) {
            cut.next = next;
        }
        (head, history)
    }

    fn counts(records: u64) -> Counts {
        Counts { records, ..Counts::default() }
    }

    #[test]
    fn the_oldest_cut_with_everything_after_it_is_the_beginning() {
        let (head, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        let from = |starts: [Offset; 2]| {
            let reach = begin(&history, &head, &starts, 1);
            (reach.from, reach.basis)
        };
        assert_eq!(from([7, 0]), (vec![9, 6], Basis::SinceACut(counts(19))));
        assert_eq!(from([9, 6]), (vec![9, 6], Basis::SinceACut(counts(19))), "a cut is the first offset after it");
        assert_eq!(from([0, 7]), (vec![12, 20], Basis::SinceACut(counts(2))));
        assert_eq!(from([13, 21]), (vec![13, 21], Basis::SinceACut(counts(0))));
        assert_eq!(from([14, 0]).1, Basis::Nothing, "even of the last committed epoch something is gone");
    }

    #[test]
    fn what_was_gone_before_the_job_began_is_missed_by_nobody() {
        let (head, history) = job([100, 3], &[[105, 5], [109, 6]]);
        let reach = begin(&history, &head, &[100, 3], 103);
        assert_eq!((reach.from, reach.basis), (vec![100, 3], Basis::SinceTheJobBegan(counts(12))));
        // One more is gone since.
        let reach = begin(&history, &head, &[101, 3], 104);
        assert_eq!((reach.from, reach.basis), (vec![105, 5], Basis::SinceACut(counts(5))));
    }

    #[test]
    fn a_hole_in_the_history_is_no_evidence() {
        let (head, mut history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        history.remove(1);
        assert_eq!(begin(&history, &head, &[5, 5], 10).from, [13, 21], "nothing says what became of epoch 3");
        assert_eq!(begin(&history[1..], &head, &[5, 5], 10).basis, Basis::Nothing);
    }

    #[test]
    fn an_entry_of_an_epoch_that_is_not_committed_is_passed_over() {
        let (mut head, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20]]);
        head.committed.epoch = 2;
        (head.committed.cuts[0].next, head.committed.cuts[1].next) = (9, 6);
        assert_eq!(begin(&history, &head, &[3, 0], 3).basis, Basis::SinceACut(counts(5)));
    }
}
