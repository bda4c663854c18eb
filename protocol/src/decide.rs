//! The decisions of the epoch protocol: pure functions from facts to the next checkpoint. They use
//! no store and no clock, and never wait.

use tapeflow_schemas::{Epoch, Offset};

use crate::{
    checkpoint::{Binding, CHECKPOINT_FORMAT, Checkpoint, Cut, SourceIdentity},
    fingerprint::differences,
};

/// What a generation knows before it takes the job over.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The job's name.
    pub job: String,
    /// The rules and settings that decide values, as text.
    pub fingerprint: String,
    /// The log.
    pub source: SourceIdentity,
    /// The first offset that each partition still has: a new job begins there.
    pub earliest: Vec<Offset>,
    /// A fresh random owner.
    pub owner: String,
}

/// Why a checkpoint must not be taken over. Nothing has been written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A newer binary wrote it.
    #[error(
        "the store's checkpoint has format {found}, this binary knows {CHECKPOINT_FORMAT}: use the \
         newer tapeflow that wrote it, or another store"
    )]
    NewerFormat {
        /// The format found.
        found: u32,
    },
    /// Another job owns the store.
    #[error(
        "the store belongs to job {found:?}, not to {wanted:?}: name that job with --job, or give \
         this one a store of its own with --store"
    )]
    OtherJob {
        /// The job that owns it.
        found: String,
        /// The job that asked.
        wanted: String,
    },
    /// Values would mean something else.
    #[error(
        "the store's bars were computed under other rules: {}: run with the old settings (--sizes, \
         --horizon, --baskets), or rebuild beside it into a new store with --store",
        differences(.found, .wanted)
    )]
    OtherFingerprint {
        /// The rules of the store.
        found: String,
        /// The rules of this binary and its settings.
        wanted: String,
    },
    /// Offsets would mean something else.
    #[error(
        "the store's bars come from another log ({found}; now {wanted}): point --brokers and \
         --topic at that one, or rebuild from this one into a new store with --store"
    )]
    OtherLog {
        /// The log of the store.
        found: String,
        /// The log that was given.
        wanted: String,
    },
    /// Another datacenter may lack what this one acknowledged.
    #[error(
        "the store's bars were acknowledged by a quorum of datacenter {found}, and datacenter {wanted} \
         may not have all of them: name {found} with --cassandra-datacenter, or rebuild into a new \
         store with --store (docs/operations.md says how to fail over)"
    )]
    OtherDatacenter {
        /// The datacenter of the store's checkpoint.
        found: String,
        /// The datacenter that was named.
        wanted: String,
    },
    /// A topic never loses partitions: this is another topic.
    #[error(
        "the log has {now} partitions, the store knows of {before}: this is not the log its bars \
         come from"
    )]
    FewerPartitions {
        /// Partitions the checkpoint knows.
        before: usize,
        /// Partitions of the log now.
        now: usize,
    },
}

/// The checkpoint that takes the job over from what the store holds now.
///
/// Everything a generation starts from (committed and bound epochs, duplicate filters, watermarks,
/// write timestamps) comes from the checkpoint that the compare-and-set is conditional on.
///
/// # Errors
/// [`Refusal`], see there.
pub fn take_over(
    found: Option<&Checkpoint>,
    opening: &Opening,
    now_us: i64,
) -> Result<Checkpoint, Refusal> {
    let Some(found) = found else {
        let cuts = opening
            .earliest
            .iter()
            .map(|next| Cut {
                next: *next,
                ..Cut::default()
            })
            .collect();
        return Ok(Checkpoint {
            format: CHECKPOINT_FORMAT,
            job: opening.job.clone(),
            generation: 1,
            version: 1,
            owner: opening.owner.clone(),
            fingerprint: opening.fingerprint.clone(),
            source: opening.source.clone(),
            datacenter: None,
            recovery_timestamp: now_us,
            last_write_timestamp: now_us,
            committed: Binding {
                epoch: 0,
                write_timestamp: now_us,
                cuts,
            },
            bound: Vec::new(),
        });
    };
    if found.format > CHECKPOINT_FORMAT {
        return Err(Refusal::NewerFormat {
            found: found.format,
        });
    }
    if found.job != opening.job {
        return Err(Refusal::OtherJob {
            found: found.job.clone(),
            wanted: opening.job.clone(),
        });
    }
    if !found.source.is_still(&opening.source) {
        let name = |source: &SourceIdentity| {
            format!(
                "topic {} of cluster {}, id {}",
                source.topic,
                source.cluster,
                source.topic_id.as_deref().unwrap_or("unknown")
            )
        };
        return Err(Refusal::OtherLog {
            found: name(&found.source),
            wanted: name(&opening.source),
        });
    }
    if found.fingerprint != opening.fingerprint {
        return Err(Refusal::OtherFingerprint {
            found: found.fingerprint.clone(),
            wanted: opening.fingerprint.clone(),
        });
    }
    let before = found.committed.cuts.len();
    if opening.earliest.len() < before {
        return Err(Refusal::FewerPartitions {
            before,
            now: opening.earliest.len(),
        });
    }
    let mut checkpoint = found.clone();
    // Partitions that were added since begin at offset 0 in every binding, because no epoch so far
    // contains any of their records. They do not begin at the earliest remaining offset: what
    // retention has removed of them is lost, and is reported like any other loss
    // (`crate::resume`).
    for binding in std::iter::once(&mut checkpoint.committed).chain(&mut checkpoint.bound) {
        let known = binding.cuts.len();
        binding
            .cuts
            .resize(opening.earliest.len().max(known), Cut::default());
    }
    checkpoint.generation += 1;
    checkpoint.version += 1;
    checkpoint.owner.clone_from(&opening.owner);
    // A topic id that was unknown so far is recorded from here on.
    checkpoint.source.clone_from(&opening.source);
    checkpoint.recovery_timestamp = found.next_write_timestamp(now_us);
    checkpoint.last_write_timestamp = checkpoint.recovery_timestamp;
    Ok(checkpoint)
}

/// The checkpoint of a take-over, in the datacenter whose quorums acknowledge from here on. The
/// first one that is known stays.
///
/// # Errors
/// [`Refusal::OtherDatacenter`]
pub fn in_datacenter(
    mut proposed: Checkpoint,
    datacenter: Option<String>,
) -> Result<Checkpoint, Refusal> {
    match (&proposed.datacenter, datacenter) {
        (Some(found), Some(wanted)) if *found != wanted => Err(Refusal::OtherDatacenter {
            found: found.clone(),
            wanted,
        }),
        (None, Some(wanted)) => {
            proposed.datacenter = Some(wanted);
            Ok(proposed)
        }
        (_, None) | (Some(_), Some(_)) => Ok(proposed),
    }
}

/// The checkpoint that binds one more epoch at these cuts (one per partition) and commits all epochs up
/// to `acknowledged`.
///
/// # Panics
/// If a cut goes back or a partition is missing. The sources emit cuts in order, so neither happens.
#[must_use]
pub fn bind(
    checkpoint: &Checkpoint,
    cuts: Vec<Cut>,
    acknowledged: Epoch,
    now_us: i64,
) -> Checkpoint {
    let last = checkpoint.last_binding();
    assert_eq!(
        cuts.len(),
        last.cuts.len(),
        "a binding has a cut for every partition"
    );
    for (partition, (new, old)) in cuts.iter().zip(&last.cuts).enumerate() {
        assert!(
            new.next >= old.next,
            "partition {partition} is cut at {} after {}",
            new.next,
            old.next
        );
    }
    let write_timestamp = checkpoint.next_write_timestamp(now_us);
    let mut next = commit(checkpoint, acknowledged);
    next.bound.push(Binding {
        epoch: last.epoch + 1,
        write_timestamp,
        cuts,
    });
    next.last_write_timestamp = write_timestamp;
    next
}

/// The checkpoint that commits all bound epochs up to `acknowledged`: a quorum has all their bars.
#[must_use]
pub fn commit(checkpoint: &Checkpoint, acknowledged: Epoch) -> Checkpoint {
    let mut next = checkpoint.clone();
    next.version += 1;
    let done = next
        .bound
        .iter()
        .take_while(|binding| binding.epoch <= acknowledged)
        .count();
    if let Some(committed) = next.bound.drain(..done).next_back() {
        next.committed = committed;
    }
    next
}

/// What to do after a compare-and-set that was lost or unknown, once the checkpoint has been read at
/// SERIAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The checkpoint equals the proposed one in every field: it was applied.
    Applied,
    /// The checkpoint is still the expected one: send the byte-identical proposal again.
    SendAgain,
    /// Another owner has moved the checkpoint: stop.
    Fenced,
}

/// Resolves a compare-and-set whose outcome is lost or unknown. Generation and version alone would
/// not be enough: another proposal may have the same numbers.
#[must_use]
pub fn resolve(
    expected: Option<&Checkpoint>,
    proposed: &Checkpoint,
    observed: Option<&Checkpoint>,
) -> Resolution {
    if observed == Some(proposed) {
        Resolution::Applied
    } else if observed == expected {
        Resolution::SendAgain
    } else {
        Resolution::Fenced
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(partitions: usize) -> Opening {
        Opening {
            job: "job".into(),
            fingerprint: "rules 1".into(),
            source: SourceIdentity {
                cluster: "c".into(),
                topic: "t".into(),
                topic_id: None,
            },
            earliest: vec![3; partitions],
            owner: "0".repeat(32),
        }
    }

    fn cuts(next: Offset) -> Vec<Cut> {
        vec![
            Cut {
                next,
                ..Cut::default()
            };
            2
        ]
    }

    #[test]
    fn a_new_job_begins_at_the_earliest_offset() {
        let checkpoint = take_over(None, &opening(2), 10).expect("a fresh store");
        assert_eq!(
            (
                checkpoint.generation,
                checkpoint.version,
                checkpoint.committed.epoch
            ),
            (1, 1, 0)
        );
        assert_eq!(checkpoint.committed.cuts, cuts(3));
        assert_eq!(checkpoint.last_binding().epoch, 0);
    }

    #[test]
    fn write_timestamps_grow_even_when_the_clock_goes_back() {
        let checkpoint = take_over(None, &opening(2), 1_000).expect("a fresh store");
        let checkpoint = bind(&checkpoint, cuts(5), 0, 10);
        assert_eq!(checkpoint.bound[0].write_timestamp, 1_008);
        let taken = take_over(Some(&checkpoint), &opening(2), 5).expect("the same job");
        assert_eq!(
            (
                taken.recovery_timestamp,
                taken.last_write_timestamp,
                taken.generation
            ),
            (1_024, 1_024, 2)
        );
        assert_eq!(
            bind(&taken, cuts(6), 0, 9_000).bound[1].write_timestamp,
            9_008
        );
    }

    #[test]
    fn binding_and_committing_ride_in_one_step() {
        let checkpoint = take_over(None, &opening(2), 0).expect("a fresh store");
        let one = bind(&checkpoint, cuts(5), 0, 1);
        let two = bind(&one, cuts(6), 0, 2);
        let three = bind(&two, cuts(6), 1, 3);
        assert_eq!(
            (
                three.committed.epoch,
                three.bound.iter().map(|b| b.epoch).collect::<Vec<_>>()
            ),
            (1, vec![2, 3])
        );
        assert_eq!(three.version, 4);
        let done = commit(&three, 3);
        assert_eq!(
            (
                done.committed.epoch,
                done.bound.len(),
                done.last_binding().epoch
            ),
            (3, 0, 3)
        );
        assert_eq!(commit(&done, 3).committed, done.committed);
    }

    #[test]
    fn a_checkpoint_of_another_job_log_or_fingerprint_is_refused() {
        let checkpoint = take_over(None, &opening(2), 0).expect("a fresh store");
        let mut newer = checkpoint.clone();
        newer.format = CHECKPOINT_FORMAT + 1;
        assert!(matches!(
            take_over(Some(&newer), &opening(2), 0),
            Err(Refusal::NewerFormat { found: 4 })
        ));
        let other = Opening {
            job: "other".into(),
            ..opening(2)
        };
        assert!(matches!(
            take_over(Some(&checkpoint), &other, 0),
            Err(Refusal::OtherJob { .. })
        ));
        let other = Opening {
            fingerprint: "rules 2".into(),
            ..opening(2)
        };
        assert!(matches!(
            take_over(Some(&checkpoint), &other, 0),
            Err(Refusal::OtherFingerprint { .. })
        ));
        let mut other = opening(2);
        other.source.cluster = "another".into();
        assert!(matches!(
            take_over(Some(&checkpoint), &other, 0),
            Err(Refusal::OtherLog { .. })
        ));
        assert!(matches!(
            take_over(Some(&checkpoint), &opening(1), 0),
            Err(Refusal::FewerPartitions { before: 2, now: 1 })
        ));
    }

    #[test]
    fn a_recreated_topic_is_refused_and_an_unknown_id_is_recorded() {
        let named = |id: Option<&str>| {
            let mut opening = opening(2);
            opening.source.topic_id = id.map(str::to_owned);
            opening
        };
        let old = take_over(None, &named(None), 0).expect("a fresh store");
        let learned =
            take_over(Some(&old), &named(Some("a")), 1).expect("a checkpoint without an id");
        assert_eq!(learned.source.topic_id.as_deref(), Some("a"));
        assert_eq!(
            take_over(Some(&learned), &named(Some("a")), 2)
                .expect("the same topic")
                .source,
            learned.source
        );
        for other in [Some("b"), None] {
            assert!(
                matches!(
                    take_over(Some(&learned), &named(other), 2),
                    Err(Refusal::OtherLog { .. })
                ),
                "{other:?}"
            );
        }
    }

    #[test]
    fn added_partitions_begin_at_their_first_offset_in_every_binding() {
        let checkpoint = bind(
            &take_over(None, &opening(2), 0).expect("a fresh store"),
            cuts(5),
            0,
            1,
        );
        let taken = take_over(Some(&checkpoint), &opening(3), 2).expect("the same job");
        assert_eq!(
            taken
                .committed
                .cuts
                .iter()
                .map(|c| c.next)
                .collect::<Vec<_>>(),
            [3, 3, 0]
        );
        assert_eq!(
            taken.bound[0]
                .cuts
                .iter()
                .map(|c| c.next)
                .collect::<Vec<_>>(),
            [5, 5, 0]
        );
    }

    #[test]
    fn an_unknown_outcome_is_resolved_by_the_whole_checkpoint() {
        let checkpoint = take_over(None, &opening(2), 0).expect("a fresh store");
        let ours = bind(&checkpoint, cuts(5), 0, 1);
        let mut theirs = ours.clone();
        theirs.bound[0].cuts[0].next = 6;
        assert_eq!(
            resolve(Some(&checkpoint), &ours, Some(&ours)),
            Resolution::Applied
        );
        assert_eq!(
            resolve(Some(&checkpoint), &ours, Some(&checkpoint)),
            Resolution::SendAgain
        );
        assert_eq!(
            resolve(Some(&checkpoint), &ours, Some(&theirs)),
            Resolution::Fenced,
            "same generation and version, other cuts"
        );
        assert_eq!(resolve(None, &checkpoint, None), Resolution::SendAgain);
    }

    #[test]
    fn a_job_stays_in_the_datacenter_that_acknowledged_its_bars() {
        let new = take_over(None, &opening(1), 0).expect("a new job");
        let unknown = in_datacenter(new.clone(), None).expect("a store without datacenters");
        assert_eq!(unknown.datacenter, None);
        let first = in_datacenter(new, Some("dc1".into())).expect("the first");
        assert_eq!(first.datacenter.as_deref(), Some("dc1"));
        let again = take_over(Some(&first), &opening(1), 0).expect("taken over");
        assert_eq!(
            in_datacenter(again.clone(), Some("dc1".into())).map(|found| found.datacenter),
            Ok(Some("dc1".into()))
        );
        let refused = in_datacenter(again, Some("dc2".into())).expect_err("another one");
        assert!(
            refused.to_string().contains("--cassandra-datacenter"),
            "{refused}"
        );
    }
}
