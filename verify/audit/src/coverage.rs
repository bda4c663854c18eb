//! Which part of the log an audit reads, and what can be compared with it.
//!
//! An audit may read only the later part of the log: retention has removed the earlier records, an
//! operator has given some of them up, or `--since` leaves them out. A record that is not read may
//! have any symbol and any time. A record that is read may repeat one that is not: the job dropped
//! it as a duplicate, and the recomputation counts it. Most bars can be compared all the same:
//!
//! 1. The recomputation starts at a committed cut. The log still has every record after the cut.
//!    History has the job's counts of those records. A duplicate filter that starts empty finds at
//!    most the duplicates that the job's filter found. So if both found equally many, they dropped
//!    the same records, and the recomputation has exactly the trades that the job has accepted
//!    since the cut.
//! 2. Every accepted trade adds one to its bar. So a bar with as many trades as its recomputation
//!    has no trade from before the cut, or it is wrong: in both cases it must equal the
//!    recomputation. A bar with fewer trades is wrong. A bar with more trades is not compared.
//! 3. A view is compared if all bars of its window were. If all of them are right, the window has
//!    no trade from before the cut, and the view must equal its recomputation. If one of them is
//!    wrong, the store is wrong anyway.
//! 4. A bar or view that the records after the cut make must be there, whatever else it contains.
//!
//! So every difference is an error in the store, though not every error is found. The correct
//! content of such a place is not known, because it may contain trades from before the cut. So
//! these differences are not repaired.

use std::{fmt, time::Duration};

use tapeflow_oracle::{Oracle, OracleCounts};
use tapeflow_protocol::{Checkpoint, Counts, HistoryEntry, Store};
use tapeflow_schemas::{Epoch, Offset, WriteTimestamp};

use crate::{error::AuditError, recompute::COMMITTED, store_reads::history_back_to};

/// Where the recomputation starts, and why there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// The first offset that is read, by partition.
    pub(crate) from: Vec<Offset>,
    /// Records that the job may have read and the log no longer has.
    pub(crate) missing_records: u64,
    /// Records that the log has and the audit leaves out.
    pub(crate) skipped_records: u64,
    /// The epoch after which the recomputation starts; 0 if it starts with the log, or if the epoch
    /// is unknown.
    pub(crate) after: Epoch,
    basis: Basis,
}

/// What is known about the records that are read. The counts are the job's, from history.
#[derive(Debug, PartialEq, Eq)]
enum Basis {
    /// The log has every record from offset 0.
    WholeLog,
    /// The missing records were gone before the job began, if the job's records have these counts.
    WholeJob(Counts),
    /// The recomputation starts at a committed cut. The records after it have these counts.
    SinceCut(Counts),
    /// There is no cut with all records after it.
    Unknown,
}

/// What can be compared with the recomputation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparable {
    /// Every bar and view: all records that the job has read were recomputed.
    Everything,
    /// Bars and views without trades from before the cut, as their number of trades shows.
    WindowsAfterCut,
    /// Only whether bars and views are there.
    PresenceOnly,
}

/// A difference between the job's own counts and those of the recomputation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryDifference {
    /// The counts are those of all committed epochs after this one.
    pub after: Epoch,
    /// The job's counts.
    pub history: Counts,
    /// The counts of the recomputation.
    pub recomputed: OracleCounts,
}

impl fmt::Display for HistoryDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            after,
            history,
            recomputed,
        } = self;
        write!(
            f,
            "history differs from the log after epoch {after}: the job counted {} records, \
             {} trades accepted, {} dead letters, {} duplicates, {} price updates; recomputed \
             {} records, {} trades accepted, {} dead letters, {} duplicates, {} price updates",
            history.records,
            history.accepted,
            history.dead_letters,
            history.duplicates,
            history.price_updates,
            recomputed.records,
            recomputed.accepted,
            recomputed.dead_letters_total(),
            recomputed.duplicates,
            recomputed.price_updates
        )
    }
}

/// Decides where to start. `first` is the first offset that can be read of each partition. `since`
/// leaves out records older than that before the last commit, by the write timestamps of epochs.
pub(crate) async fn coverage(
    store: &dyn Store,
    checkpoint: &Checkpoint,
    first: &[Offset],
    since: Option<Duration>,
) -> Result<Coverage, AuditError> {
    let missing_records = first
        .iter()
        .zip(&checkpoint.last_binding().cuts)
        .map(|(first, cut)| u64::try_from(*first.min(&cut.next)).unwrap_or(0))
        .sum();
    let not_before = since.map(|since| {
        checkpoint
            .committed
            .write_timestamp
            .saturating_sub(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    });
    if missing_records == 0 && not_before.is_none() {
        return Ok(Coverage::all(first, missing_records, Basis::WholeLog));
    }
    let history = history_back_to(store, |entry| {
        not_before.is_some_and(|limit| entry.write_timestamp < limit)
    })
    .await?;
    Ok(start(
        &history,
        checkpoint,
        first,
        missing_records,
        not_before,
    ))
}

/// Decides where to start, given the history, newest first.
fn start(
    history: &[HistoryEntry],
    checkpoint: &Checkpoint,
    first: &[Offset],
    missing_records: u64,
    not_before: Option<WriteTimestamp>,
) -> Coverage {
    let committed = &checkpoint.committed;
    let (mut expected, mut since, mut oldest) = (committed.epoch, Counts::default(), None);
    let mut is_readable = true;
    // History is written before the commit. A crash between the two leaves an entry of an epoch
    // that is not committed.
    for entry in history
        .iter()
        .skip_while(|entry| entry.epoch > committed.epoch)
    {
        if entry.epoch != expected {
            break;
        }
        let cuts: Vec<Offset> = (0..first.len())
            .map(|at| cut_after_loss(entry, checkpoint, at))
            .collect();
        is_readable &= cuts.iter().zip(first).all(|(cut, first)| cut >= first);
        if is_readable {
            oldest = Some((cuts, since, entry.epoch));
        }
        // The records after this cut are all that `--since` asks for.
        if not_before.is_some_and(|limit| entry.write_timestamp < limit) {
            break;
        }
        since.add(&entry.counts);
        expected = expected.saturating_sub(1);
    }
    let has_all_history = expected == 0;
    if has_all_history && missing_records == 0 {
        return Coverage::all(first, missing_records, Basis::WholeLog);
    }
    let committed_records = committed
        .cuts
        .iter()
        .zip(first)
        .try_fold(0, |sum, (cut, first)| {
            u64::try_from(cut.next - first).ok().map(|read| sum + read)
        });
    if has_all_history && committed_records == Some(since.records) {
        // A bar of an epoch that was bound before a loss was known may contain lost records.
        let basis = if has_losses(checkpoint) {
            Basis::SinceCut(since)
        } else {
            Basis::WholeJob(since)
        };
        return Coverage::all(first, missing_records, basis);
    }
    match oldest {
        Some((from, counts, after)) => {
            let skipped_records = from
                .iter()
                .zip(first)
                .map(|(from, first)| u64::try_from(from - first).unwrap_or(0))
                .sum();
            Coverage {
                from,
                missing_records,
                skipped_records,
                after,
                basis: Basis::SinceCut(counts),
            }
        }
        None => {
            let from: Vec<Offset> = first
                .iter()
                .zip(&checkpoint.last_binding().cuts)
                .map(|(first, cut)| *first.min(&cut.next))
                .collect();
            Coverage::all(&from, missing_records, Basis::Unknown)
        }
    }
}

/// Where an epoch ends in partition `at`. A partition that was added later had no records that the
/// job had read. Records that were given up are in no epoch, so a cut before them is as good as one
/// after them.
fn cut_after_loss(entry: &HistoryEntry, checkpoint: &Checkpoint, at: usize) -> Offset {
    let cut = entry.cuts.get(at).copied().unwrap_or(0);
    checkpoint
        .last_binding()
        .cuts
        .get(at)
        .and_then(|last| last.lost)
        .filter(|lost| lost.contains(cut))
        .map_or(cut, |lost| lost.to)
}

fn has_losses(checkpoint: &Checkpoint) -> bool {
    std::iter::once(&checkpoint.committed)
        .chain(&checkpoint.bound)
        .flat_map(|binding| &binding.cuts)
        .any(|cut| cut.lost.is_some())
}

/// Whether the job and the recomputation counted the same. Gaps are left out: the first record that
/// is read follows one that was not.
pub(crate) fn same_counts(recomputed: &OracleCounts, history: &Counts) -> bool {
    (
        recomputed.records,
        recomputed.accepted,
        recomputed.dead_letters_total(),
        recomputed.duplicates,
        recomputed.price_updates,
    ) == (
        history.records,
        history.accepted,
        history.dead_letters,
        history.duplicates,
        history.price_updates,
    )
}

impl Coverage {
    /// Starts at `from`, and leaves out no record that the log has.
    fn all(from: &[Offset], missing_records: u64, basis: Basis) -> Self {
        Self {
            from: from.to_vec(),
            missing_records,
            skipped_records: 0,
            after: 0,
            basis,
        }
    }

    /// Adds the epochs in `after + 1..=up_to`, which were committed while the log was read.
    /// `history` is in any order.
    pub(crate) fn extend(&mut self, after: Epoch, up_to: Epoch, history: &[HistoryEntry]) {
        let (Basis::WholeJob(counts) | Basis::SinceCut(counts)) = &mut self.basis else {
            return;
        };
        for epoch in after + 1..=up_to {
            let Some(entry) = history.iter().find(|entry| entry.epoch == epoch) else {
                self.basis = Basis::Unknown;
                return;
            };
            counts.add(&entry.counts);
        }
    }

    /// The difference between the counts in history and those of the recomputation, if the job is
    /// wrong. Different counts can have a harmless reason: a record may repeat one from before the
    /// start. The job knew that, the recomputation cannot know it.
    pub(crate) fn history_difference(&self, oracle: &Oracle) -> Option<HistoryDifference> {
        let recomputed = oracle.counts_of(COMMITTED);
        let (history, may_repeat) = match &self.basis {
            Basis::WholeJob(history) => (history, false),
            Basis::SinceCut(history) => (history, true),
            Basis::WholeLog | Basis::Unknown => return None,
        };
        // What the job dropped as duplicates, the recomputation counts as something else.
        let are_repeats = recomputed.records == history.records
            && recomputed.duplicates < history.duplicates
            && recomputed.accepted >= history.accepted
            && recomputed.dead_letters_total() >= history.dead_letters
            && recomputed.price_updates >= history.price_updates;
        if same_counts(&recomputed, history) || (may_repeat && are_repeats) {
            return None;
        }
        Some(HistoryDifference {
            after: self.after,
            history: *history,
            recomputed,
        })
    }

    /// What can be compared with this recomputation.
    pub(crate) fn comparable(&self, oracle: &Oracle) -> Comparable {
        let recomputed = oracle.counts_of(COMMITTED);
        match &self.basis {
            Basis::WholeLog => Comparable::Everything,
            Basis::WholeJob(history) if same_counts(&recomputed, history) => Comparable::Everything,
            Basis::SinceCut(history) if same_counts(&recomputed, history) => {
                Comparable::WindowsAfterCut
            }
            Basis::WholeJob(_) | Basis::SinceCut(_) | Basis::Unknown => Comparable::PresenceOnly,
        }
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{SourceIdentity, decide};

    use super::*;

    /// A job of two partitions that began at the offsets `began` and committed an epoch at each of
    /// `cuts`.
    fn job(began: [Offset; 2], cuts: &[[Offset; 2]]) -> (Checkpoint, Vec<HistoryEntry>) {
        let source = SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: None,
        };
        let opening = decide::Opening {
            job: "j".into(),
            fingerprint: "l".into(),
            source,
            earliest: began.to_vec(),
            owner: "o".into(),
        };
        let mut checkpoint = decide::take_over(None, &opening, 1).expect("a fresh store");
        let (mut history, mut before) = (Vec::new(), began);
        for (epoch, cut) in (1..).zip(cuts) {
            let records = cut
                .iter()
                .zip(before)
                .map(|(now, before)| u64::try_from(now - before).expect("cuts grow"))
                .sum();
            history.insert(
                0,
                HistoryEntry {
                    epoch,
                    write_timestamp: i64::try_from(epoch).expect("few") * 10,
                    cuts: cut.to_vec(),
                    counts: Counts {
                        records,
                        ..Counts::default()
                    },
                },
            );
            before = *cut;
        }
        checkpoint.committed.epoch = u64::try_from(cuts.len()).expect("few");
        for (cut, next) in checkpoint.committed.cuts.iter_mut().zip(before) {
            cut.next = next;
        }
        (checkpoint, history)
    }

    fn counts(records: u64) -> Counts {
        Counts {
            records,
            ..Counts::default()
        }
    }

    #[test]
    fn the_recomputation_starts_at_the_oldest_cut_with_all_records_after_it() {
        let (checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        let from = |first: [Offset; 2]| {
            let coverage = start(&history, &checkpoint, &first, 1, None);
            (coverage.from, coverage.basis)
        };
        assert_eq!(from([7, 0]), (vec![9, 6], Basis::SinceCut(counts(19))));
        assert_eq!(
            from([9, 6]),
            (vec![9, 6], Basis::SinceCut(counts(19))),
            "a cut is the first offset after it"
        );
        assert_eq!(from([0, 7]), (vec![12, 20], Basis::SinceCut(counts(2))));
        assert_eq!(from([13, 21]), (vec![13, 21], Basis::SinceCut(counts(0))));
        assert_eq!(
            from([14, 0]).1,
            Basis::Unknown,
            "records of the last committed epoch are gone as well"
        );
    }

    #[test]
    fn records_removed_before_the_job_began_do_not_limit_the_audit() {
        let (checkpoint, history) = job([100, 3], &[[105, 5], [109, 6]]);
        let coverage = start(&history, &checkpoint, &[100, 3], 103, None);
        assert_eq!(
            (coverage.from, coverage.basis),
            (vec![100, 3], Basis::WholeJob(counts(12)))
        );
        // One record has been removed since.
        let coverage = start(&history, &checkpoint, &[101, 3], 104, None);
        assert_eq!(
            (coverage.from, coverage.basis),
            (vec![105, 5], Basis::SinceCut(counts(5)))
        );
    }

    #[test]
    fn history_with_a_missing_epoch_proves_nothing() {
        let (checkpoint, mut history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        history.remove(1);
        assert_eq!(
            start(&history, &checkpoint, &[5, 5], 10, None).from,
            [13, 21],
            "history has no counts of epoch 3"
        );
        assert_eq!(
            start(&history[1..], &checkpoint, &[5, 5], 10, None).basis,
            Basis::Unknown
        );
    }

    #[test]
    fn history_of_an_uncommitted_epoch_is_skipped() {
        let (mut checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20]]);
        checkpoint.committed.epoch = 2;
        (
            checkpoint.committed.cuts[0].next,
            checkpoint.committed.cuts[1].next,
        ) = (9, 6);
        assert_eq!(
            start(&history, &checkpoint, &[3, 0], 3, None).basis,
            Basis::SinceCut(counts(5))
        );
    }

    #[test]
    fn an_audit_since_a_time_starts_with_the_oldest_epoch_that_is_young_enough() {
        let (checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        let since = |write_timestamp| {
            let coverage = start(&history, &checkpoint, &[0, 0], 0, Some(write_timestamp));
            (
                coverage.from,
                coverage.skipped_records,
                coverage.after,
                coverage.basis,
            )
        };
        assert_eq!(
            since(20),
            (vec![5, 5], 10, 1, Basis::SinceCut(counts(24))),
            "epoch 2 and later"
        );
        assert_eq!(since(21), (vec![9, 6], 15, 2, Basis::SinceCut(counts(19))));
        assert_eq!(since(40), (vec![12, 20], 32, 3, Basis::SinceCut(counts(2))));
        assert_eq!(since(41), (vec![13, 21], 34, 4, Basis::SinceCut(counts(0))));
        assert_eq!(
            since(10),
            (vec![0, 0], 0, 0, Basis::WholeLog),
            "the job is younger than that"
        );
        let coverage = start(&history, &checkpoint, &[6, 0], 6, Some(5));
        assert_eq!(
            (coverage.from, coverage.basis),
            (vec![9, 6], Basis::SinceCut(counts(19))),
            "removed records cannot be read"
        );
    }

    #[test]
    fn records_given_up_limit_the_audit_although_the_counts_agree() {
        let (mut checkpoint, history) = job([0, 0], &[[5, 5], [9, 6]]);
        checkpoint.committed.cuts[0].lost = Some(tapeflow_protocol::LostRange { from: 0, to: 3 });
        let (mut with_loss, mut first) = (history.clone(), history[1].clone());
        first.counts.records -= 3;
        with_loss[1] = first;
        assert_eq!(
            start(&with_loss, &checkpoint, &[3, 0], 3, None).basis,
            Basis::SinceCut(counts(12)),
            "a bar of the first epoch may contain lost records"
        );
        checkpoint.committed.cuts[0].lost = None;
        assert_eq!(
            start(&with_loss, &checkpoint, &[3, 0], 3, None).basis,
            Basis::WholeJob(counts(12))
        );
    }

    #[test]
    fn a_cut_before_records_given_up_is_as_good_as_one_after_them() {
        // Epoch 2 ends at offset 9 of partition 0. Epoch 3 begins at offset 11.
        let (mut checkpoint, mut history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        history[1].counts.records -= 2;
        checkpoint.committed.cuts[0].lost = Some(tapeflow_protocol::LostRange { from: 9, to: 11 });
        let coverage = start(&history, &checkpoint, &[11, 0], 11, None);
        assert_eq!(
            (coverage.from, coverage.after, coverage.basis),
            (vec![11, 6], 2, Basis::SinceCut(counts(17))),
            "all of epoch 3 is compared"
        );
        assert_eq!(
            start(&history, &checkpoint, &[12, 0], 12, None).from,
            [12, 20],
            "more records are gone than were given up"
        );
    }

    #[test]
    fn a_wrong_count_of_the_job_is_reported_and_a_repeat_from_before_the_cut_is_not() {
        let mut oracle = Oracle::new(vec!["1m".parse().expect("a size")], 1);
        oracle.record(COMMITTED, 0, 7, 1_700_000_000_000, None);
        let counted = oracle.counts_of(COMMITTED);
        assert_eq!(
            (counted.records, counted.dead_letters_total()),
            (1, 1),
            "a record without a payload"
        );
        let difference = |basis| {
            Coverage {
                from: vec![7],
                missing_records: 7,
                skipped_records: 0,
                after: 1,
                basis,
            }
            .history_difference(&oracle)
        };
        let right = Counts {
            records: 1,
            dead_letters: 1,
            ..Counts::default()
        };
        assert_eq!(difference(Basis::SinceCut(right)), None);
        assert_eq!(difference(Basis::Unknown), None);
        let repeat = Counts {
            records: 1,
            duplicates: 1,
            ..Counts::default()
        };
        assert_eq!(
            difference(Basis::SinceCut(repeat)),
            None,
            "the job knew the record"
        );
        assert!(
            difference(Basis::WholeJob(repeat)).is_some(),
            "there was no earlier record to repeat"
        );
        let lossy = Counts {
            records: 1,
            ..Counts::default()
        };
        assert!(
            difference(Basis::SinceCut(lossy)).is_some_and(|difference| {
                let text = difference.to_string();
                text.contains("after epoch 1") && text.contains("0 dead letters")
            }),
            "the job counted a record as nothing"
        );
        assert!(
            difference(Basis::SinceCut(Counts::default())).is_some(),
            "the job did not count a record"
        );
    }

    #[test]
    fn epochs_committed_while_the_log_is_read_are_added_if_history_has_all_of_them() {
        let (checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        let mut earlier = checkpoint;
        earlier.committed.epoch = 2;
        let coverage = |history: &[HistoryEntry]| {
            let mut coverage = start(history, &earlier, &[5, 5], 10, None);
            coverage.extend(2, 4, history);
            coverage.basis
        };
        assert_eq!(coverage(&history), Basis::SinceCut(counts(24)));
        assert_eq!(coverage(&history[1..]), Basis::Unknown);
    }
}
