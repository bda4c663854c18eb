//! What can be judged when only the log's later part is read: because retention has removed the
//! earlier records, because an operator has given some of them up, or because a cheap look was
//! asked for.
//!
//! A record that is not read may have held any symbol and any time, so no bar is out of its reach
//! by what it is. And a record that is read may repeat one that is not: the job dropped it, the
//! recomputation does not know. Still, most bars can be judged:
//!
//! 1. The recomputation begins at a committed cut of which everything after it is still there.
//!    History says what the job made of the records after that cut. A filter that has forgotten
//!    finds no more repeats than one that has not; so if both counted as many, they dropped the
//!    same records, and the recomputation has exactly the trades that the job accepted since.
//! 2. Every accepted trade adds one to its bar. So a bar that has as many trades as the
//!    recomputation of its window holds no trade from before the cut, or it is wrong: either way it
//!    must equal the recomputation. One that has fewer is wrong. One that has more is not judged.
//! 3. A list is judged if every bar of its window was. If all those bars are right, no trade from
//!    before the cut is in the window, and the list must equal its recomputation; if one is not,
//!    the store is wrong anyway.
//! 4. A bar or a list that the remaining records call for must be there, whatever else was in it.
//!
//! So what is reported is always an error of the store, though not every error is found. What it
//! should say instead is not known: a wrong bar may have had trades from before the cut. So such
//! errors are not repaired.

use std::time::Duration;

use tapeflow_oracle::{Oracle, OracleCounts};
use tapeflow_protocol::{Checkpoint, Counts, HistoryEntry, Store};
use tapeflow_schemas::{Epoch, Offset, WriteTimestamp};

use super::recompute::COMMITTED;
use crate::{exit::Exit, stores};

/// History entries read at most: three days of epochs of 250 ms.
const HISTORY_READ: usize = 1_000_000;
/// Entries read at first.
const FIRST_READ: usize = 256;

/// Where the recomputation begins, and why there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Coverage {
    /// The first offset to be folded, by partition.
    pub(super) from: Vec<Offset>,
    /// Records that the job may have read and the log no longer has.
    pub(super) gone: u64,
    /// Records that the log has and that are not read.
    pub(super) not_read: u64,
    /// The epoch after which it begins; 0 if that is the log's own beginning, or unknown.
    pub(super) after: Epoch,
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
    /// What holds nothing from before the recomputation's beginning: its own number of trades says
    /// so.
    Since,
    /// Nothing but that bars and lists are there.
    Presence,
}

/// Finds where to begin, given the first offset that can be read of each partition, and how far
/// back the look shall go: from the last commit, by the write timestamps of epochs.
pub(super) async fn of(
    store: &dyn Store,
    checkpoint: &Checkpoint,
    starts: &[Offset],
    since: Option<Duration>,
) -> Result<Coverage, Exit> {
    let gone = starts
        .iter()
        .zip(&checkpoint.last_binding().cuts)
        .map(|(start, cut)| u64::try_from(*start.min(&cut.next)).unwrap_or(0))
        .sum();
    let not_before = since.map(|since| {
        checkpoint
            .committed
            .write_timestamp
            .saturating_sub(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    });
    if gone == 0 && not_before.is_none() {
        return Ok(Coverage {
            from: starts.to_vec(),
            gone,
            not_read: 0,
            after: 0,
            basis: Basis::Everything,
        });
    }
    let history = back_to(store, |entry| {
        not_before.is_some_and(|limit| entry.write_timestamp < limit)
    })
    .await?;
    Ok(begin(&history, checkpoint, starts, gone, not_before))
}

/// The newest history, newest first, back to an entry that is old enough.
pub(super) async fn back_to(
    store: &dyn Store,
    old_enough: impl Fn(&HistoryEntry) -> bool,
) -> Result<Vec<HistoryEntry>, Exit> {
    let mut limit = FIRST_READ;
    loop {
        let history = stores::answered(store.history(limit).await)?;
        if history.len() < limit || limit >= HISTORY_READ || history.last().is_some_and(&old_enough)
        {
            return Ok(history);
        }
        limit = (limit * 4).min(HISTORY_READ);
    }
}

/// The same, given the history, newest first.
fn begin(
    history: &[HistoryEntry],
    checkpoint: &Checkpoint,
    starts: &[Offset],
    gone: u64,
    not_before: Option<WriteTimestamp>,
) -> Coverage {
    let committed = &checkpoint.committed;
    let (mut expected, mut since, mut oldest) = (committed.epoch, Counts::default(), None);
    let mut within = true;
    // History is written before the commit: a crash between the two leaves an entry that is not
    // committed yet.
    for entry in history
        .iter()
        .skip_while(|entry| entry.epoch > committed.epoch)
    {
        if entry.epoch != expected {
            break;
        }
        // A partition that was added later had nothing in it that the job had read; and what was
        // given up is in no epoch, so that a cut before it is as good as one after it.
        let at = |at: usize| {
            let cut = entry.cuts.get(at).copied().unwrap_or(0);
            checkpoint
                .last_binding()
                .cuts
                .get(at)
                .and_then(|last| last.lost)
                .filter(|lost| lost.contains(cut))
                .map_or(cut, |lost| lost.to)
        };
        let cuts: Vec<Offset> = (0..starts.len()).map(at).collect();
        within &= cuts.iter().zip(starts).all(|(cut, start)| cut >= start);
        if within {
            oldest = Some((cuts, since, entry.epoch));
        }
        // What came after it is all that was asked for.
        if not_before.is_some_and(|limit| entry.write_timestamp < limit) {
            break;
        }
        since.add(&entry.counts);
        expected = expected.saturating_sub(1);
    }
    let all = || starts.to_vec();
    if expected == 0 && gone == 0 {
        return Coverage {
            from: all(),
            gone,
            not_read: 0,
            after: 0,
            basis: Basis::Everything,
        };
    }
    let read = committed
        .cuts
        .iter()
        .zip(starts)
        .try_fold(0, |sum, (cut, start)| {
            u64::try_from(cut.next - start).ok().map(|read| sum + read)
        });
    // Bars of epochs that were bound before a loss was known may hold what was lost.
    let lossless = std::iter::once(committed)
        .chain(&checkpoint.bound)
        .flat_map(|binding| &binding.cuts)
        .all(|cut| cut.lost.is_none());
    if expected == 0 && read == Some(since.records) {
        let basis = if lossless {
            Basis::SinceTheJobBegan(since)
        } else {
            Basis::SinceACut(since)
        };
        return Coverage {
            from: all(),
            gone,
            not_read: 0,
            after: 0,
            basis,
        };
    }
    match oldest {
        Some((from, counts, after)) => {
            let not_read = from
                .iter()
                .zip(starts)
                .map(|(from, start)| u64::try_from(from - start).unwrap_or(0))
                .sum();
            Coverage {
                from,
                gone,
                not_read,
                after,
                basis: Basis::SinceACut(counts),
            }
        }
        None => {
            let bound = &checkpoint.last_binding().cuts;
            let from = starts
                .iter()
                .zip(bound)
                .map(|(start, cut)| *start.min(&cut.next))
                .collect();
            Coverage {
                from,
                gone,
                not_read: 0,
                after: 0,
                basis: Basis::Nothing,
            }
        }
    }
}

/// Whether the recomputation made of some records what the job says it did. Not the gaps: the first
/// record after the beginning follows on one that was not read.
pub(super) fn same(counted: &OracleCounts, said: &Counts) -> bool {
    (
        counted.records,
        counted.accepted,
        counted.dead_letters_in_all(),
        counted.duplicates,
        counted.price_updates,
    ) == (
        said.records,
        said.accepted,
        said.dead_letters,
        said.duplicates,
        said.price_updates,
    )
}

impl Coverage {
    /// The recomputation has gone on to all of `upto`, which was committed since; history says, in
    /// any order, what the job made of that.
    pub(super) fn extend(&mut self, since: Epoch, upto: Epoch, history: &[HistoryEntry]) {
        let (Basis::SinceTheJobBegan(said) | Basis::SinceACut(said)) = &mut self.basis else {
            return;
        };
        for epoch in since + 1..=upto {
            let Some(entry) = history.iter().find(|entry| entry.epoch == epoch) else {
                self.basis = Basis::Nothing;
                return;
            };
            said.add(&entry.counts);
        }
    }

    /// What history says of records that were all read, and the recomputation does not, in words.
    /// One cause is innocent: a record that repeats one from before the beginning is a repeat for
    /// the job only.
    pub(super) fn contradiction(&self, oracle: &Oracle) -> Option<String> {
        let counted = oracle.counts_of(COMMITTED);
        let (said, may_repeat) = match &self.basis {
            Basis::SinceTheJobBegan(said) => (said, false),
            Basis::SinceACut(said) => (said, true),
            Basis::Everything | Basis::Nothing => return None,
        };
        // A repeat is a record of its own, and what is in it counts here and not there.
        let repeats = counted.records == said.records
            && counted.duplicates < said.duplicates
            && counted.accepted >= said.accepted
            && counted.dead_letters_in_all() >= said.dead_letters
            && counted.price_updates >= said.price_updates;
        if same(&counted, said) || (may_repeat && repeats) {
            return None;
        }
        Some(format!(
            "history differs from the log since epoch {}: the job says {} records, {} trades accepted, {} rejected, {} duplicates, {} price updates; \
             recomputed {} records, {} trades accepted, {} rejected, {} duplicates, {} price updates",
            self.after,
            said.records,
            said.accepted,
            said.dead_letters,
            said.duplicates,
            said.price_updates,
            counted.records,
            counted.accepted,
            counted.dead_letters_in_all(),
            counted.duplicates,
            counted.price_updates
        ))
    }

    /// What may be judged by this recomputation.
    pub(super) fn trust(&self, oracle: &Oracle) -> Trust {
        let counted = oracle.counts_of(COMMITTED);
        match &self.basis {
            Basis::Everything => Trust::All,
            Basis::SinceTheJobBegan(said) if same(&counted, said) => Trust::All,
            Basis::SinceACut(said) if same(&counted, said) => Trust::Since,
            Basis::SinceTheJobBegan(_) | Basis::SinceACut(_) | Basis::Nothing => Trust::Presence,
        }
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{SourceIdentity, decide};

    use super::*;

    /// A job of two partitions that began at these offsets and has committed an epoch at each of
    /// these cuts.
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
                .map(|(now, before)| u64::try_from(now - before).expect("forwards"))
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
    fn the_oldest_cut_with_everything_after_it_is_the_beginning() {
        let (checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        let from = |starts: [Offset; 2]| {
            let coverage = begin(&history, &checkpoint, &starts, 1, None);
            (coverage.from, coverage.basis)
        };
        assert_eq!(from([7, 0]), (vec![9, 6], Basis::SinceACut(counts(19))));
        assert_eq!(
            from([9, 6]),
            (vec![9, 6], Basis::SinceACut(counts(19))),
            "a cut is the first offset after it"
        );
        assert_eq!(from([0, 7]), (vec![12, 20], Basis::SinceACut(counts(2))));
        assert_eq!(from([13, 21]), (vec![13, 21], Basis::SinceACut(counts(0))));
        assert_eq!(
            from([14, 0]).1,
            Basis::Nothing,
            "even of the last committed epoch something is gone"
        );
    }

    #[test]
    fn what_was_gone_before_the_job_began_is_missed_by_nobody() {
        let (checkpoint, history) = job([100, 3], &[[105, 5], [109, 6]]);
        let coverage = begin(&history, &checkpoint, &[100, 3], 103, None);
        assert_eq!(
            (coverage.from, coverage.basis),
            (vec![100, 3], Basis::SinceTheJobBegan(counts(12)))
        );
        // One more is gone since.
        let coverage = begin(&history, &checkpoint, &[101, 3], 104, None);
        assert_eq!(
            (coverage.from, coverage.basis),
            (vec![105, 5], Basis::SinceACut(counts(5)))
        );
    }

    #[test]
    fn a_hole_in_the_history_is_no_evidence() {
        let (checkpoint, mut history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        history.remove(1);
        assert_eq!(
            begin(&history, &checkpoint, &[5, 5], 10, None).from,
            [13, 21],
            "nothing says what became of epoch 3"
        );
        assert_eq!(
            begin(&history[1..], &checkpoint, &[5, 5], 10, None).basis,
            Basis::Nothing
        );
    }

    #[test]
    fn an_entry_of_an_epoch_that_is_not_committed_is_passed_over() {
        let (mut checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20]]);
        checkpoint.committed.epoch = 2;
        (
            checkpoint.committed.cuts[0].next,
            checkpoint.committed.cuts[1].next,
        ) = (9, 6);
        assert_eq!(
            begin(&history, &checkpoint, &[3, 0], 3, None).basis,
            Basis::SinceACut(counts(5))
        );
    }

    #[test]
    fn a_cheap_look_begins_where_the_oldest_epoch_that_is_young_enough_does() {
        let (checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        let since = |write_timestamp| {
            let coverage = begin(&history, &checkpoint, &[0, 0], 0, Some(write_timestamp));
            (
                coverage.from,
                coverage.not_read,
                coverage.after,
                coverage.basis,
            )
        };
        assert_eq!(
            since(20),
            (vec![5, 5], 10, 1, Basis::SinceACut(counts(24))),
            "of epoch 2 and those after it"
        );
        assert_eq!(since(21), (vec![9, 6], 15, 2, Basis::SinceACut(counts(19))));
        assert_eq!(
            since(40),
            (vec![12, 20], 32, 3, Basis::SinceACut(counts(2)))
        );
        assert_eq!(
            since(41),
            (vec![13, 21], 34, 4, Basis::SinceACut(counts(0)))
        );
        assert_eq!(
            since(10),
            (vec![0, 0], 0, 0, Basis::Everything),
            "the job is younger than that"
        );
        let coverage = begin(&history, &checkpoint, &[6, 0], 6, Some(5));
        assert_eq!(
            (coverage.from, coverage.basis),
            (vec![9, 6], Basis::SinceACut(counts(19))),
            "what is gone is gone"
        );
    }

    #[test]
    fn what_was_given_up_is_missed_though_the_counts_agree() {
        let (mut checkpoint, history) = job([0, 0], &[[5, 5], [9, 6]]);
        checkpoint.committed.cuts[0].lost = Some(tapeflow_protocol::LostRange { from: 0, to: 3 });
        let (mut told, mut first) = (history.clone(), history[1].clone());
        first.counts.records -= 3;
        told[1] = first;
        assert_eq!(
            begin(&told, &checkpoint, &[3, 0], 3, None).basis,
            Basis::SinceACut(counts(12)),
            "a bar of the first epoch may hold what is lost"
        );
        checkpoint.committed.cuts[0].lost = None;
        assert_eq!(
            begin(&told, &checkpoint, &[3, 0], 3, None).basis,
            Basis::SinceTheJobBegan(counts(12))
        );
    }

    #[test]
    fn a_cut_before_what_was_given_up_is_as_good_as_one_after_it() {
        // Epoch 2 ends at offset 9 of partition 0, epoch 3 was read from 11 on.
        let (mut checkpoint, mut history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        history[1].counts.records -= 2;
        checkpoint.committed.cuts[0].lost = Some(tapeflow_protocol::LostRange { from: 9, to: 11 });
        let coverage = begin(&history, &checkpoint, &[11, 0], 11, None);
        assert_eq!(
            (coverage.from, coverage.after, coverage.basis),
            (vec![11, 6], 2, Basis::SinceACut(counts(17))),
            "all of epoch 3 is judged"
        );
        assert_eq!(
            begin(&history, &checkpoint, &[12, 0], 12, None).from,
            [12, 20],
            "more is gone than was given up"
        );
    }

    #[test]
    fn what_a_job_has_miscounted_is_told_and_a_repeat_from_before_the_cut_is_no_miscount() {
        let mut oracle = Oracle::new(vec!["1m".parse().expect("a size")], 1);
        oracle.record(COMMITTED, 0, 7, 1_700_000_000_000, None);
        let counted = oracle.counts_of(COMMITTED);
        assert_eq!(
            (counted.records, counted.dead_letters_in_all()),
            (1, 1),
            "a record without a payload"
        );
        let told = |basis| {
            Coverage {
                from: vec![7],
                gone: 7,
                not_read: 0,
                after: 1,
                basis,
            }
            .contradiction(&oracle)
        };
        let right = Counts {
            records: 1,
            dead_letters: 1,
            ..Counts::default()
        };
        assert_eq!(told(Basis::SinceACut(right)), None);
        assert_eq!(told(Basis::Nothing), None);
        let repeat = Counts {
            records: 1,
            duplicates: 1,
            ..Counts::default()
        };
        assert_eq!(
            told(Basis::SinceACut(repeat)),
            None,
            "the job knew the record"
        );
        assert!(
            told(Basis::SinceTheJobBegan(repeat)).is_some(),
            "and there was nothing before that it could repeat"
        );
        let lossy = Counts {
            records: 1,
            ..Counts::default()
        };
        assert!(
            told(Basis::SinceACut(lossy))
                .is_some_and(|text| text.contains("since epoch 1") && text.contains("0 rejected")),
            "a record came to nothing"
        );
        assert!(
            told(Basis::SinceACut(Counts::default())).is_some(),
            "a record was not read"
        );
    }

    #[test]
    fn what_is_committed_while_the_log_is_read_is_added_if_history_has_all_of_it() {
        let (checkpoint, history) = job([0, 0], &[[5, 5], [9, 6], [12, 20], [13, 21]]);
        let mut earlier = checkpoint;
        earlier.committed.epoch = 2;
        let coverage = |history: &[HistoryEntry]| {
            let mut coverage = begin(history, &earlier, &[5, 5], 10, None);
            coverage.extend(2, 4, history);
            coverage.basis
        };
        assert_eq!(coverage(&history), Basis::SinceACut(counts(24)));
        assert_eq!(coverage(&history[1..]), Basis::Nothing);
    }
}
