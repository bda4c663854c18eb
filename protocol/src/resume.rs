//! Where a restart resumes: the offset at which each partition continues after a take-over, and
//! which lost offsets are given up. Pure: checkpoint and log bounds in, a decision out.
//!
//! Replay begins at the committed cut. Retention may have removed offsets above it. Their records
//! are gone, so the job refuses to start unless the operator accepts the loss. Then the next binding
//! records the lost offsets ([`Cut::lost`]), and the next start needs no permission:
//!
//! ```text
//!   committed      lost                 bound
//!       │ ░░░░░░░░░░░░░░░░░│· · · · · · · │· · · · ·
//!       c                start            b          a gap inside (c, b]
//!       │ · · · · · · · · │ ░░░░░░░░░░░░░░░░░░░░│· ·
//!       c                 b (all gone)        start  a gap beyond b, or with nothing bound (c = b)
//! ```
//!
//! * **A binding never changes.** Epochs keep their cuts, and the remaining records belong to the
//!   epochs they were bound to. A bar that was written before the loss has an epoch of (c, b] in its
//!   cell and keeps its content. Replay adds what lies above that epoch, as always.
//! * **Decisions beyond a bound cut are the binding's.** The duplicate filter may have learned from
//!   records that are gone now, and it must not forget them: a duplicate of a lost record may be in
//!   a later epoch, and a bar of the earlier epoch may contain the lost one. So replay takes its
//!   state from every bound cut that it reaches or skips, if the epoch was bound before its loss was
//!   known. At any other cut the replay must arrive at the recorded state by itself
//!   ([`bound_without`]), because that epoch was read without the lost records in the first place.
//! * **What was given up stays given up.** The log may show the offsets again, if a replica that had
//!   not removed them becomes the leader. They are not read, because their epoch is bound without
//!   them.
//! * The loss is bound before the first replayed epoch is committed, or together with it. A commit
//!   moves c over the gap, and afterwards nothing would reveal the gap.
//! * The loss is part of the same compare-and-set as the cuts that depend on it. A crash before that
//!   loses only the permission. After it, replay of the epoch knows the range from its binding, and
//!   writes the same dead letter at the same position again.
//!
//! Accepting a loss has a price. Some bars and views of an epoch in (c, b] may contain the lost
//! records, and others not. A reader that saw such a bar before a quorum had it may later see it
//! without them. Trades behind a lost one in the same epoch may not count as late any more, because
//! the replay does not know its event time; no other value depends on that.

use std::ops::Range;

use tapeflow_schemas::{Offset, Partition};

use crate::checkpoint::{Checkpoint, Cut, LostRange};

/// How a partition goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The first offset to be read.
    pub next: Offset,
    /// What the next cut says is lost.
    pub lost: Option<LostRange>,
    /// What of it no binding says yet: given up by this start.
    pub given_up: Option<LostRange>,
}

/// Why a partition cannot resume.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Retention removed offsets before they were committed.
    #[error(
        "partition {partition}: offsets {lost} are gone from the log (it begins at {}) before they \
         were committed",
        lost.to
    )]
    Gone {
        /// The partition.
        partition: Partition,
        /// What is gone and not given up yet.
        lost: LostRange,
    },
    /// The log's end went back, so offsets will be assigned a second time. Such a loss cannot be
    /// accepted: new records would be taken for old ones that are already in bars.
    #[error(
        "partition {partition}: the store has bound offsets below {bound}, but the log ends at \
         {end}: it was truncated or is not the log these bars come from"
    )]
    Truncated {
        /// The partition.
        partition: Partition,
        /// Where the last binding cuts it.
        bound: Offset,
        /// Where the log ends.
        end: Offset,
    },
}

/// The losses that the committed cut and the bindings after it name, oldest first. A binding names
/// one, which later ones carry along.
fn losses(checkpoint: &Checkpoint, at: usize) -> impl Iterator<Item = LostRange> + '_ {
    std::iter::once(&checkpoint.committed)
        .chain(&checkpoint.bound)
        .filter_map(move |binding| binding.cuts[at].lost)
}

/// The offsets above `next` that bindings have lost: the batches that an operator gave up in the
/// middle of what was read. A replay leaves them out even if they can be read by now, because their
/// epochs are bound without them.
///
/// # Panics
/// If the checkpoint has no such partition.
#[must_use]
pub fn lost_ahead(checkpoint: &Checkpoint, partition: Partition, next: Offset) -> Vec<LostRange> {
    let at = usize::try_from(partition).expect("partitions are counted in 32 bits");
    let mut ahead: Vec<LostRange> = losses(checkpoint, at)
        .filter(|lost| lost.to > next)
        .collect();
    ahead.dedup();
    ahead
}

/// The loss that a cut names after `lost`, if it named `before` until now. Adjacent losses, with no
/// record read in between, are one range.
#[must_use]
pub fn join(before: Option<LostRange>, lost: LostRange) -> LostRange {
    match before {
        Some(before) if before.to == lost.from => LostRange {
            from: before.from,
            to: lost.to,
        },
        _ => lost,
    }
}

/// Decides where a partition of the checkpoint resumes in a log that has the offsets `bounds`.
///
/// # Errors
/// [`Unreadable`]; never [`Unreadable::Gone`] if the loss is accepted.
///
/// # Panics
/// If the checkpoint has no such partition.
pub fn resume(
    checkpoint: &Checkpoint,
    partition: Partition,
    bounds: &Range<Offset>,
    accept_loss: bool,
) -> Result<Resume, Unreadable> {
    let at = usize::try_from(partition).expect("partitions are counted in 32 bits");
    let (committed, last) = (
        checkpoint.committed.cuts[at].next,
        &checkpoint.last_binding().cuts[at],
    );
    if last.next > bounds.end {
        return Err(Unreadable::Truncated {
            partition,
            bound: last.next,
            end: bounds.end,
        });
    }
    // Each loss that joins the one before, or the committed cut.
    let known = losses(checkpoint, at).fold(committed, |known, lost| {
        if lost.from <= known {
            known.max(lost.to)
        } else {
            known
        }
    });
    if bounds.start <= known {
        return Ok(Resume {
            next: known,
            lost: last.lost,
            given_up: None,
        });
    }
    let gone = LostRange {
        from: known,
        to: bounds.start,
    };
    if !accept_loss {
        return Err(Unreadable::Gone {
            partition,
            lost: gone,
        });
    }
    let lost = join(last.lost, gone);
    Ok(Resume {
        next: gone.to,
        lost: Some(lost),
        given_up: Some(gone),
    })
}

/// Whether a cut was bound without the offsets of `gap` that lie below it. Then a replay without
/// them arrives at the state that the cut recorded.
#[must_use]
pub fn bound_without(cut: &Cut, gap: &Range<Offset>) -> bool {
    let to = gap.end.min(cut.next);
    to <= gap.start
        || cut
            .lost
            .is_some_and(|lost| lost.from <= gap.start && to <= lost.to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::SourceIdentity,
        decide::{Opening, bind, take_over},
    };

    /// One partition: committed at 10, with further epochs bound at these cuts.
    fn checkpoint(bound: &[Cut]) -> Checkpoint {
        let source = SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: None,
        };
        let opening = Opening {
            job: "j".into(),
            fingerprint: "l".into(),
            source,
            earliest: vec![10],
            owner: "o".into(),
        };
        let fresh = take_over(None, &opening, 1).expect("a fresh store");
        bound.iter().fold(fresh, |checkpoint, cut| {
            bind(&checkpoint, vec![cut.clone()], 0, 1)
        })
    }

    fn cut(next: Offset) -> Cut {
        Cut {
            next,
            ..Cut::default()
        }
    }

    fn range(from: Offset, to: Offset) -> Option<LostRange> {
        Some(LostRange { from, to })
    }

    fn lossy(next: Offset, from: Offset, to: Offset) -> Cut {
        Cut {
            lost: range(from, to),
            ..cut(next)
        }
    }

    #[test]
    fn a_log_that_has_everything_is_read_from_the_committed_cut() {
        for start in [0, 9, 10] {
            let resumed = resume(&checkpoint(&[cut(20)]), 0, &(start..20), true);
            assert_eq!(
                resumed,
                Ok(Resume {
                    next: 10,
                    lost: None,
                    given_up: None
                }),
                "from {start} on"
            );
        }
    }

    #[test]
    fn what_is_gone_is_named_exactly_and_only_given_up_when_accepted() {
        for bound in [vec![], vec![cut(20)], vec![cut(12), cut(30)]] {
            let checkpoint = checkpoint(&bound);
            let refused = resume(&checkpoint, 0, &(15..40), false).expect_err("a gap");
            assert_eq!(
                refused.to_string(),
                "partition 0: offsets 10 to 14 are gone from the log (it begins at 15) before they were committed",
                "{bound:?}"
            );
            assert_eq!(
                resume(&checkpoint, 0, &(15..40), true),
                Ok(Resume {
                    next: 15,
                    lost: range(10, 15),
                    given_up: range(10, 15)
                })
            );
        }
    }

    #[test]
    fn what_a_binding_has_lost_needs_no_second_permission_and_is_not_read_again() {
        let checkpoint = checkpoint(&[cut(12), lossy(30, 10, 15)]);
        let again = Ok(Resume {
            next: 15,
            lost: range(10, 15),
            given_up: None,
        });
        assert_eq!(resume(&checkpoint, 0, &(15..40), false), again);
        assert_eq!(
            resume(&checkpoint, 0, &(4..40), false),
            again,
            "the log shows the offsets again"
        );
    }

    #[test]
    fn what_goes_after_that_is_a_loss_of_its_own() {
        let checkpoint = checkpoint(&[cut(12), lossy(30, 10, 15)]);
        let refused = resume(&checkpoint, 0, &(18..40), false).expect_err("three more");
        assert_eq!(
            refused,
            Unreadable::Gone {
                partition: 0,
                lost: LostRange { from: 15, to: 18 }
            }
        );
        assert_eq!(
            resume(&checkpoint, 0, &(18..40), true),
            Ok(Resume {
                next: 18,
                lost: range(10, 18),
                given_up: range(15, 18)
            })
        );
        // Committed meanwhile, and read on.
        let mut later = checkpoint;
        later.committed = later.bound.pop().expect("bound");
        later.bound.clear();
        assert_eq!(
            resume(&later, 0, &(15..40), false),
            Ok(Resume {
                next: 30,
                lost: range(10, 15),
                given_up: None
            }),
            "carried along"
        );
        assert_eq!(
            resume(&later, 0, &(33..40), true),
            Ok(Resume {
                next: 33,
                lost: range(30, 33),
                given_up: range(30, 33)
            })
        );
    }

    #[test]
    fn a_log_that_ends_before_the_last_binding_is_refused_even_so() {
        for start in [0, 15] {
            let refused = resume(&checkpoint(&[cut(20)]), 0, &(start..19), true);
            assert_eq!(
                refused,
                Err(Unreadable::Truncated {
                    partition: 0,
                    bound: 20,
                    end: 19
                })
            );
        }
    }

    #[test]
    fn only_a_binding_that_knew_of_the_gap_holds_the_replay_to_its_state() {
        assert!(bound_without(&cut(20), &(10..10)), "no gap");
        assert!(bound_without(&cut(10), &(10..15)), "the gap lies beyond it");
        assert!(!bound_without(&cut(20), &(10..15)), "bound before the loss");
        assert!(!bound_without(&lossy(20, 2, 6), &(10..15)), "another loss");
        assert!(bound_without(&lossy(20, 10, 15), &(10..15)));
        assert!(
            bound_without(&lossy(14, 10, 14), &(10..18)),
            "as far as it lies below the cut"
        );
        assert!(
            !bound_without(&lossy(20, 10, 15), &(10..18)),
            "more is gone since"
        );
    }
}
