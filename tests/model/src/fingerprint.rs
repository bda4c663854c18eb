//! The fingerprint of a state: 64 bits of a hash over all of it.
//!
//! Half of the time of an exploration goes here, so every part is first packed into as few words as
//! it has bits for. Packing loses nothing: two states that differ are hashed as different words.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use crate::state::{BarState, Cell, Checkpoint, Memory, Process, Proposal, Stage, State};

/// Makes fingerprints, the same on every run.
pub(crate) struct Fingerprints(FixedState);

impl Fingerprints {
    pub(crate) fn new() -> Self {
        Self(FixedState::with_seed(0x7461_7065_666c_6f77))
    }

    pub(crate) fn of(&self, state: &State) -> u64 {
        let mut to = self.0.build_hasher();
        checkpoint(&state.checkpoint, &mut to);
        state
            .replicas
            .iter()
            .flatten()
            .for_each(|copy| to.write_u64(cell(*copy)));
        // The number of writes goes before them: what follows cannot be taken for one of them.
        to.write_u64(state.writes.all().len() as u64);
        state
            .writes
            .all()
            .iter()
            .for_each(|write| to.write_u64(cell(write.cell) | u64::from(write.key) << 40));
        to.write_u64(bytes(&state.seen));
        state.processes.iter().for_each(|one| process(one, &mut to));
        to.finish()
    }
}

/// At most eight bytes as one word.
fn bytes(list: &[u8]) -> u64 {
    debug_assert!(list.len() <= 8, "a word has eight bytes");
    list.iter()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// A cell has 40 bits.
fn cell(copy: Cell) -> u64 {
    bytes(&[
        copy.write_timestamp,
        copy.label,
        copy.totals_write_timestamp,
    ]) << 16
        | u64::from(copy.totals.0)
}

fn checkpoint(checkpoint: &Checkpoint, to: &mut impl Hasher) {
    let Checkpoint {
        generation,
        version,
        owner,
        committed,
        bound,
        recovery_timestamp,
        last_write_timestamp,
        ..
    } = *checkpoint;
    to.write_u64(bytes(&[
        generation,
        version,
        owner,
        committed,
        bound,
        recovery_timestamp,
        last_write_timestamp,
    ]));
    let (cuts, write_timestamps) = checkpoint.bindings();
    to.write_u64(bytes(&cuts.map(|cut| cut.0)));
    to.write_u64(bytes(&write_timestamps));
}

fn process(process: &Process, to: &mut impl Hasher) {
    let Process {
        stage,
        proposal,
        replay_from,
        replay_at,
        reading,
        watermark,
        evicted_up_to,
        released,
        ..
    } = *process;
    let stage_number = match stage {
        Stage::Absent => 0,
        Stage::Started => 1,
        Stage::Opening => 2,
        Stage::Running => 3,
        Stage::Gone => 4,
    };
    let proposal_number = match proposal {
        Proposal::None => 0,
        Proposal::InFlight => 1,
        Proposal::Applied => 2,
        Proposal::Lost => 3,
    };
    to.write_u64(bytes(&[
        stage_number,
        proposal_number,
        replay_from,
        replay_at,
        reading.counted,
        reading.late,
        watermark,
        evicted_up_to,
    ]));
    if matches!(stage, Stage::Absent | Stage::Gone) {
        return;
    }
    to.write_u64(bytes(&released));
    checkpoint(&process.checkpoint, to);
    if proposal != Proposal::None {
        checkpoint(&process.proposed, to);
    }
    process
        .bar_states
        .iter()
        .for_each(|one| to.write_u64(bar_state(one)));
}

/// The bar state has 56 bits at most: its time, what it holds, and which kind that is.
fn bar_state(bar_state: &BarState) -> u64 {
    let (kind, held) = match bar_state.memory {
        Memory::Nothing => (0, 0),
        Memory::HalfRead {
            replica,
            cell: copy,
        } => (1 + replica, cell(copy)),
        Memory::Read { label, totals } => (4, u64::from(label) << 16 | u64::from(totals.0)),
        Memory::Resident {
            totals,
            sent,
            stale: None,
        } => (5 + u8::from(sent), u64::from(totals.0)),
        Memory::Resident {
            totals,
            sent,
            stale: Some((label, old)),
        } => (
            7 + u8::from(sent),
            u64::from(totals.0) << 24 | u64::from(label) << 16 | u64::from(old.0),
        ),
    };
    bytes(&[bar_state.taken, kind]) << 40 | held
}
