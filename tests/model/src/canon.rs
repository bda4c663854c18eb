//! Which states are equal: replicas have no names, a write that all replicas have is removed, and
//! so is memory that a process can no longer use.

use crate::{
    log::KEYS,
    mutants::Mutant,
    state::{Checkpoint, Memory, Process, Proposal, REPLICAS, Stage, State},
    worlds::World,
};

/// The one state that stands for all that are the same.
pub(crate) fn canonical(world: &World, mut state: State) -> State {
    sort_replicas(&mut state);
    let replicas = state.replicas;
    state.writes.retain(|write| {
        replicas
            .iter()
            .any(|copy| !write.cell.is_in(copy[usize::from(write.key)]))
    });
    for process in 0..world.generations {
        let owner = usize::from(state.checkpoint.owner) == process + 1;
        tidy(
            world,
            &state.checkpoint,
            owner,
            &mut state.processes[process],
        );
    }
    state
}

/// Sorts the replicas; a read that is in flight goes on naming the same one.
fn sort_replicas(state: &mut State) {
    let mut order: [usize; REPLICAS] = std::array::from_fn(|replica| replica);
    order.sort_by_key(|replica| state.replicas[*replica]);
    let old = state.replicas;
    state.replicas = std::array::from_fn(|place| old[order[place]]);
    for bar_state in state
        .processes
        .iter_mut()
        .flat_map(|process| &mut process.bar_states)
    {
        if let Memory::HalfRead { replica, .. } = &mut bar_state.memory {
            let place = order.iter().position(|old| *old == usize::from(*replica));
            *replica = place
                .and_then(|place| u8::try_from(place).ok())
                .unwrap_or(*replica);
        }
    }
}

fn tidy(world: &World, checkpoint: &Checkpoint, owner: bool, process: &mut Process) {
    let dead = process.proposal == Proposal::InFlight
        && checkpoint.identity() != process.checkpoint.identity();
    if dead && !world.lacks(Mutant::CasUnconditional) {
        process.proposal = Proposal::Lost;
        let proposed_is_used = matches!(
            world.mutant,
            Some(Mutant::ResolveByVersion | Mutant::ReleaseBeforeBinding)
        );
        match process.stage {
            // It reads the checkpoint and tries again: as if it had not started.
            Stage::Opening if !proposed_is_used => *process = Process::default(),
            _ if !proposed_is_used => process.proposed = Checkpoint::default(),
            _ => {}
        }
    }
    if process.stage != Stage::Running
        || owner
        || matches!(process.proposal, Proposal::InFlight | Proposal::Applied)
    {
        return;
    }
    // Another owns the job: this one can only finish what it knows to be bound.
    if world.lacks(Mutant::CasUnconditional) || world.lacks(Mutant::OffsetsInBars) {
        return;
    }
    let needs: [bool; KEYS] =
        std::array::from_fn(|key| key < world.keys && process.may_need(world, key, false));
    if needs.iter().all(|needs| !needs) {
        *process = Process {
            stage: Stage::Gone,
            ..Process::default()
        };
        return;
    }
    for (bar_state, _) in process
        .bar_states
        .iter_mut()
        .zip(needs)
        .filter(|(_, needs)| !needs)
    {
        bar_state.memory = Memory::Nothing;
    }
    (
        process.checkpoint.committed,
        process.checkpoint.last_write_timestamp,
    ) = (0, 0);
}
