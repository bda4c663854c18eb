//! What must hold: of every write when it is sent, of every step of the checkpoint, and of every
//! state.

use std::fmt;

use crate::{
    log::Totals,
    mutants::Mutant,
    state::{Cell, Checkpoint, Epoch, REPLICAS, State},
    worlds::World,
};

/// What was broken. I6 to I8 are not checked by themselves: I6 follows from [`Rule::Complete`], a
/// breach of I7 shows as one of I2, and I8 is how the model is built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// I1: generation, b, c and write timestamps only grow, a binding never changes, c <= b.
    CheckpointOnlyGrows,
    /// I2: what is written is the fold of the records up to its label, and the label is bound.
    WritesArePrefixes,
    /// I3: the order of write timestamps is the order of states.
    WriteTimestampsOrderStates,
    /// I4: no two contents of a bar share a write timestamp.
    OneContentPerWriteTimestamp,
    /// I5: everything committed is on a quorum.
    CommittedIsOnQuorum,
    /// At the end every bar is what an independent recomputation says.
    Complete,
    /// What a quorum of readers sees is the prefix that its label names.
    ReadsArePrefixes,
    /// No reader sees a bar go back.
    ReadsOnlyGrow,
    /// The process that owns the job never leaves as a zombie.
    OwnerGoesOn,
    /// Every state that is not finished has a next step.
    NothingIsStuck,
}

/// A rule that does not hold, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What is wrong, for a person.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:?}: {}", self.rule, self.detail)
    }
}

/// Nothing, or what was broken.
pub type Checked = Result<(), Violation>;

pub(crate) fn broken(rule: Rule, detail: String) -> Checked {
    Err(Violation { rule, detail })
}

/// A step of the checkpoint.
pub(crate) fn check_checkpoint(world: &World, before: &Checkpoint, after: &Checkpoint) -> Checked {
    if world.mutant.is_some_and(Mutant::gives_the_checkpoint_up) {
        return Ok(());
    }
    let grows = after.generation >= before.generation
        && after.committed >= before.committed
        && after.bound >= before.bound
        && after.last_write_timestamp >= before.last_write_timestamp
        && after.committed <= after.bound
        && (1..=before.bound).all(|epoch| {
            (after.cut(epoch), after.write_timestamp(epoch))
                == (before.cut(epoch), before.write_timestamp(epoch))
        });
    if grows {
        Ok(())
    } else {
        broken(
            Rule::CheckpointOnlyGrows,
            format!("{before:?}\n    became {after:?}"),
        )
    }
}

/// A write, when it is sent.
pub(crate) fn check_write(world: &World, state: &State, key: usize, cell: Cell) -> Checked {
    let Some(prefix) = world.prefix(&state.checkpoint, cell.label) else {
        return broken(
            Rule::WritesArePrefixes,
            format!(
                "bar {key} is written with label {}, and that epoch is not bound",
                cell.label
            ),
        );
    };
    let want = world.log.fold(key, prefix);
    if cell.totals != want {
        return broken(
            Rule::WritesArePrefixes,
            format!(
                "bar {key} is written as {:?} at label {}, which is {want:?}",
                cell.totals, cell.label
            ),
        );
    }
    let written = state
        .writes
        .all()
        .iter()
        .filter(|write| usize::from(write.key) == key)
        .map(|write| write.cell);
    for other in written
        .chain(state.replicas.iter().map(|copy| copy[key]))
        .filter(|other| {
            other.write_timestamp > 0 && other.write_timestamp == other.totals_write_timestamp
        })
    {
        if other.write_timestamp == cell.write_timestamp && other != cell {
            return broken(
                Rule::OneContentPerWriteTimestamp,
                format!(
                    "bar {key} at write timestamp {}: {:?} at label {}, and {:?} at label {}",
                    cell.write_timestamp, other.totals, other.label, cell.totals, cell.label
                ),
            );
        }
        let (older, newer) = if other.write_timestamp < cell.write_timestamp {
            (other, cell)
        } else {
            (cell, other)
        };
        if let (Some(before), Some(after)) = (
            world.prefix(&state.checkpoint, older.label),
            world.prefix(&state.checkpoint, newer.label),
        ) && !after.covers(before)
        {
            return broken(
                Rule::WriteTimestampsOrderStates,
                format!(
                    "bar {key}: {:?} at write timestamp {} is overwritten by {:?} at write \
                     timestamp {}",
                    older.totals, older.write_timestamp, newer.totals, newer.write_timestamp
                ),
            );
        }
    }
    Ok(())
}

/// A state.
pub(crate) fn check_state(world: &World, state: &State) -> Checked {
    (0..world.keys).try_for_each(|key| check_row(world, state, key))
}

/// Whether everything is read, bound and committed.
#[must_use]
pub fn is_finished(world: &World, checkpoint: &Checkpoint) -> bool {
    checkpoint.committed == checkpoint.bound && checkpoint.cut(checkpoint.bound) == world.log.end()
}

fn check_row(world: &World, state: &State, key: usize) -> Checked {
    let checkpoint = &state.checkpoint;
    let seen = world
        .prefix(checkpoint, state.seen[key])
        .unwrap_or_default();
    let finished = is_finished(world, checkpoint).then(|| world.log.fold(key, world.log.end()));
    for without in 0..REPLICAS {
        let found = state.quorum_without(without, key);
        if let Some(want) = finished.filter(|want| *want != found.totals) {
            return broken(
                Rule::Complete,
                format!(
                    "all is committed, and a read of bar {key} finds {:?} instead of {want:?}",
                    found.totals
                ),
            );
        }
        if found.write_timestamp == 0 && found.totals_write_timestamp == 0 {
            continue;
        }
        let Some(prefix) = world.prefix(checkpoint, found.label) else {
            return broken(
                Rule::ReadsArePrefixes,
                format!(
                    "a reader of bar {key} sees label {}, and that epoch is not bound",
                    found.label
                ),
            );
        };
        let want = world.log.fold(key, prefix);
        if found.totals != want {
            return broken(
                Rule::ReadsArePrefixes,
                format!(
                    "a reader of bar {key} sees {:?} at label {}, which is {want:?}",
                    found.totals, found.label
                ),
            );
        }
        if !prefix.covers(seen) {
            return broken(
                Rule::ReadsOnlyGrow,
                format!(
                    "a reader of bar {key} has seen label {} and now sees {}",
                    state.seen[key], found.label
                ),
            );
        }
    }
    let committed = checkpoint.cut(checkpoint.committed);
    let want = world.log.fold(key, committed);
    // Which epochs a copy contains follows from its prefix, which may reach further than the last
    // committed record of the bar.
    let holds = |label: Epoch| {
        world
            .prefix(checkpoint, label)
            .is_some_and(|prefix| contains(world.log.fold(key, prefix), want))
    };
    let holders = state
        .replicas
        .iter()
        .filter(|copy| holds(copy[key].label))
        .count();
    if want != Totals::default() && holders < 2 {
        return broken(
            Rule::CommittedIsOnQuorum,
            format!(
                "epoch {} is committed, and {holders} replicas have bar {key} up to it",
                checkpoint.committed
            ),
        );
    }
    Ok(())
}

fn contains(totals: Totals, part: Totals) -> bool {
    totals.0 & part.0 == part.0
}
