//! `verify --repair`: writes what differs as it should be, as a generation of its own
//! ([`tapeflow_protocol::repair`] says why that is safe).
//!
//! The log is read for it before the job is taken over, so that the job is held up for the end of
//! the log and the writing alone.

use std::io::{BufRead, IsTerminal, Write};

use tapeflow_dataflow::clock::{Clock, SystemClock};
use tapeflow_protocol::{Checkpoint, StoreError, repair::Repairer, workflow::WorkflowError};
use tapeflow_schemas::{BarKey, BarState, ViewKey};

use super::{
    audit_run::Ground,
    bars,
    judge::{Findings, Place, RepairAction},
    lists, recompute,
    repair_plan::RepairPlan,
    selection::Selection,
};
use crate::{
    end::{End, say},
    signals,
};

/// Refuses what would ask nobody.
pub(super) fn may_ask(yes: bool) -> Result<(), End> {
    if yes || std::io::stdin().is_terminal() {
        Ok(())
    } else {
        Err(End::Input(
            "--repair: asks before it writes, and there is no terminal to ask on: give --yes as well"
                .into(),
        ))
    }
}

/// Mends what can be mended. `Ok` if nothing is left that differs.
pub(super) fn repair(
    ground: &Ground<'_>,
    selection: &Selection,
    findings: &Findings,
    yes: bool,
) -> Result<(), End> {
    let places: Vec<Place> = findings
        .errors
        .iter()
        .filter(|(_, repair_action)| *repair_action == RepairAction::Write)
        .map(|(place, _)| place.clone())
        .collect();
    let left = left_alone(findings)?;
    let ended = |left: u64| {
        if left == 0 {
            Ok(())
        } else {
            Err(End::Differs(left))
        }
    };
    if places.is_empty() {
        say("nothing to repair")?;
        return ended(left);
    }
    let checkpoint = ground.checkpoint()?;
    let from = recompute::starts(ground.log, &checkpoint)?;
    // What differs was found with all of the job's records. With fewer of them, right bars would be
    // cut short.
    if findings.begins.iter().any(|begin| *begin != from) {
        return Err(gone());
    }
    let mut repair_plan = RepairPlan::new(
        ground.log,
        ground.sizes,
        &from,
        &places,
        selection.has_lists(),
        ground.baskets,
        ground.asked,
    )?;
    repair_plan.advance(&checkpoint)?;
    if !yes && !agreed(places.len())? {
        return Err(End::Differs(findings.differences()));
    }
    repair_plan.advance(&ground.checkpoint()?)?;

    let failed = |error: WorkflowError| End::Failed(error.to_string());
    // From here on Ctrl-C waits for the end; a second one leaves, and the job waits for a while in
    // vain.
    signals::on_end(ground.runtime.handle(), || ());
    let mut repairer = ground
        .runtime
        .block_on(Repairer::begin(ground.store, || SystemClock.wall_us()))
        .map_err(failed)?;
    let lost = |checkpoint: &Checkpoint| {
        checkpoint
            .last_binding()
            .cuts
            .iter()
            .map(|cut| cut.lost)
            .collect::<Vec<_>>()
    };
    let written = if lost(&checkpoint) == lost(repairer.checkpoint()) {
        write(ground, &mut repair_plan, &mut repairer)
    } else {
        Err(gone())
    };
    let (epoch, generation) = (repairer.epoch(), repairer.checkpoint().generation);
    // Given back whatever became of it: the job need not wait for one who has failed.
    let released = ground.runtime.block_on(repairer.end(ground.store));
    let Written {
        bars,
        lists,
        refused,
    } = written?;
    match released {
        Ok(_) => {}
        Err(WorkflowError::Fenced {
            generation: by,
            owner,
        }) => {
            return Err(End::Failed(format!(
                "generation {by} (owner {owner}) took the job over while generation {generation} was repair: what was written is right, \
                 but it may have read a bar before and write it anew: run verify again"
            )));
        }
        Err(error) => return Err(failed(error)),
    }
    for place in &refused {
        say(&format!(
            "{place}: does not stay repaired: it was written with a later write timestamp than the repairer's, by a clock that is ahead or by hand"
        ))?;
    }
    let left = left + refused.len() as u64;
    say(&format!(
        "repaired: {bars} bars and {lists} lists written and read back, as of epoch {epoch}, by generation {generation}; {left} places not repaired"
    ))?;
    ended(left)
}

fn gone() -> End {
    End::Failed("records have been removed from the log, or given up, since the look: nothing was repaired; run verify again".into())
}

/// Says what is not touched, and why; how many they are.
fn left_alone(findings: &Findings) -> Result<u64, End> {
    let count = |of: RepairAction| {
        findings
            .errors
            .iter()
            .filter(|(_, repair_action)| *repair_action == of)
            .count() as u64
    };
    for (place, _) in findings
        .errors
        .iter()
        .filter(|(_, repair_action)| *repair_action == RepairAction::CannotBeDeleted)
    {
        say(&format!(
            "{place}: not repaired: no trade of the log calls for it, and nothing is ever deleted"
        ))?;
    }
    let out_of_coverage = count(RepairAction::OutOfReach);
    if out_of_coverage > 0 {
        say(&format!(
            "{out_of_coverage} places not repaired: not all records are there that may belong to them, so that nobody can say what they were"
        ))?;
    }
    Ok(count(RepairAction::CannotBeDeleted) + out_of_coverage + findings.contradictions)
}

/// Asks on the terminal.
fn agreed(places: usize) -> Result<bool, End> {
    let failed = |error: std::io::Error| End::Failed(format!("cannot ask: {error}"));
    let mut out = std::io::stderr();
    write!(
        out,
        "Heal {places} bars and lists, and with them the lists of their windows? A running job is stopped for it, and goes on if supervised. [y/N] "
    )
    .and_then(|()| out.flush())
    .map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What was written.
struct Written {
    bars: usize,
    lists: usize,
    refused: Vec<String>,
}

/// Writes everything as of the repairer's last binding, and says of each what it was and what it is.
fn write(
    ground: &Ground<'_>,
    repair_plan: &mut RepairPlan<'_>,
    repairer: &mut Repairer,
) -> Result<Written, End> {
    repair_plan.advance(repairer.checkpoint())?;
    let (keys, list_keys) = (
        std::mem::take(&mut repair_plan.bars),
        std::mem::take(&mut repair_plan.lists),
    );
    let (mut bars, mut lists, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    // Whoever waits for the repairer must not take it for dead while it looks at what it is about to
    // write.
    let sign = |repairer: &mut Repairer| {
        ground
            .runtime
            .block_on(repairer.heartbeat(ground.store))
            .map_err(|error| End::Failed(error.to_string()))
    };
    for key in keys {
        sign(repairer)?;
        match repair_plan.bar(&key) {
            Ok(totals) => {
                say(&format!(
                    "{key}: {} -> {}",
                    bar_before(ground, &key)?,
                    bars::describe(&totals)
                ))?;
                bars.push((key, totals));
            }
            Err(reason) => {
                say(&format!("{key}: not repaired: {reason}"))?;
                refused.push(key.to_string());
            }
        }
    }
    for key in list_keys {
        sign(repairer)?;
        let Some(entries) = repair_plan.list(key) else {
            continue;
        };
        let before = list_before(ground, key)?;
        let after = lists::describe_all(key.view, &entries);
        if before != after {
            say(&format!("{key}: {before} -> {after}"))?;
        }
        lists.push((key, entries));
    }
    refused.extend(
        ground
            .runtime
            .block_on(repairer.write(ground.store, &bars, &lists))
            .map_err(|error| End::Failed(error.to_string()))?,
    );
    Ok(Written {
        bars: bars.len(),
        lists: lists.len(),
        refused,
    })
}

fn bar_before(ground: &Ground<'_>, key: &BarKey) -> Result<String, End> {
    let state = match ground
        .runtime
        .block_on(ground.store.read_bars(std::slice::from_ref(key)))
    {
        Ok(found) => found.into_iter().next().flatten(),
        Err(StoreError::Broken(_)) => return Ok("unreadable".into()),
        Err(error) => return Err(crate::end::store_failed(&error)),
    };
    Ok(state.map_or_else(
        || "nothing".into(),
        |BarState { totals, .. }| bars::describe(&totals),
    ))
}

fn list_before(ground: &Ground<'_>, key: ViewKey) -> Result<String, End> {
    let state = match ground.runtime.block_on(ground.store.views(
        key.view,
        key.size,
        key.start..key.start + 1,
    )) {
        Ok(found) => found.into_iter().next(),
        Err(StoreError::Broken(_)) => return Ok("unreadable".into()),
        Err(error) => return Err(crate::end::store_failed(&error)),
    };
    Ok(state.map_or_else(
        || "nothing".into(),
        |list| lists::describe_all(key.view, &list.state.entries),
    ))
}
