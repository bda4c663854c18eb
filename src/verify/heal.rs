//! `verify --heal`: writes what differs as it should be, as a generation of its own
//! ([`tapeflow_protocol::repair`] says why that is safe).
//!
//! The log is read for it before the job is taken over, so that the job is held up for the end of
//! the log and the writing alone.

use std::io::{BufRead, IsTerminal, Write};

use tapeflow_dataflow::clock::{Clock, SystemClock};
use tapeflow_protocol::{Head, StoreError, repair::Healer, workflow::WorkflowError};
use tapeflow_schemas::{RowKey, RowState, ViewKey};

use super::{
    judge::{Cure, Findings, Place},
    lists, recompute,
    remedy::Remedy,
    rows,
    scope::Scope,
    survey::Ground,
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
            "--heal: asks before it writes, and there is no terminal to ask on: give --yes as well"
                .into(),
        ))
    }
}

/// Mends what can be mended. `Ok` if nothing is left that differs.
pub(super) fn heal(
    ground: &Ground<'_>,
    scope: &Scope,
    findings: &Findings,
    yes: bool,
) -> Result<(), End> {
    let places: Vec<Place> = findings
        .faults
        .iter()
        .filter(|(_, cure)| *cure == Cure::Write)
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
        say("nothing to heal")?;
        return ended(left);
    }
    let head = ground.head()?;
    let from = recompute::starts(ground.log, &head)?;
    // What differs was found with all of the job's records. With fewer of them, right rows would be
    // cut short.
    if findings.begins.iter().any(|begin| *begin != from) {
        return Err(gone());
    }
    let mut remedy = Remedy::new(
        ground.log,
        ground.sizes,
        &from,
        &places,
        scope.has_lists(),
        ground.baskets,
        ground.asked,
    )?;
    remedy.advance(&head)?;
    if !yes && !agreed(places.len())? {
        return Err(End::Differs(findings.differences()));
    }
    remedy.advance(&ground.head()?)?;

    let failed = |fault: WorkflowError| End::Failed(fault.to_string());
    // From here on Ctrl-C waits for the end; a second one leaves, and the job waits for a while in
    // vain.
    signals::on_end(ground.runtime.handle(), || ());
    let mut healer = ground
        .runtime
        .block_on(Healer::begin(ground.store, || SystemClock.wall_us()))
        .map_err(failed)?;
    let lost = |head: &Head| {
        head.last_binding()
            .cuts
            .iter()
            .map(|cut| cut.lost)
            .collect::<Vec<_>>()
    };
    let written = if lost(&head) == lost(healer.head()) {
        write(ground, &mut remedy, &mut healer)
    } else {
        Err(gone())
    };
    let (epoch, generation) = (healer.epoch(), healer.head().generation);
    // Given back whatever became of it: the job need not wait for one who has failed.
    let released = ground.runtime.block_on(healer.end(ground.store));
    let Written {
        rows,
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
                "generation {by} (owner {owner}) took the job over while generation {generation} was healing: what was written is right, \
                 but it may have read a row before and write it anew: run verify again"
            )));
        }
        Err(fault) => return Err(failed(fault)),
    }
    for place in &refused {
        say(&format!(
            "{place}: does not stay healed: it was written with a later stamp than the healer's, by a clock that is ahead or by hand"
        ))?;
    }
    let left = left + refused.len() as u64;
    say(&format!(
        "healed: {rows} rows and {lists} lists written and read back, as of epoch {epoch}, by generation {generation}; {left} places not healed"
    ))?;
    ended(left)
}

fn gone() -> End {
    End::Failed("records have been removed from the log, or given up, since the look: nothing was healed; run verify again".into())
}

/// Says what is not touched, and why; how many they are.
fn left_alone(findings: &Findings) -> Result<u64, End> {
    let count = |of: Cure| {
        findings
            .faults
            .iter()
            .filter(|(_, cure)| *cure == of)
            .count() as u64
    };
    for (place, _) in findings
        .faults
        .iter()
        .filter(|(_, cure)| *cure == Cure::CannotBeDeleted)
    {
        say(&format!(
            "{place}: not healed: no trade of the log calls for it, and nothing is ever deleted"
        ))?;
    }
    let out_of_reach = count(Cure::OutOfReach);
    if out_of_reach > 0 {
        say(&format!(
            "{out_of_reach} places not healed: not all records are there that may belong to them, so that nobody can say what they were"
        ))?;
    }
    Ok(count(Cure::CannotBeDeleted) + out_of_reach + findings.contradictions)
}

/// Asks on the terminal.
fn agreed(places: usize) -> Result<bool, End> {
    let failed = |fault: std::io::Error| End::Failed(format!("cannot ask: {fault}"));
    let mut out = std::io::stderr();
    write!(
        out,
        "Heal {places} rows and lists, and with them the lists of their windows? A running job is stopped for it, and goes on if supervised. [y/N] "
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
    rows: usize,
    lists: usize,
    refused: Vec<String>,
}

/// Writes everything as of the healer's last binding, and says of each what it was and what it is.
fn write(
    ground: &Ground<'_>,
    remedy: &mut Remedy<'_>,
    healer: &mut Healer,
) -> Result<Written, End> {
    remedy.advance(healer.head())?;
    let (keys, list_keys) = (
        std::mem::take(&mut remedy.rows),
        std::mem::take(&mut remedy.lists),
    );
    let (mut rows, mut lists, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    // Whoever waits for the healer must not take it for dead while it looks at what it is about to
    // write.
    let sign = |healer: &mut Healer| {
        ground
            .runtime
            .block_on(healer.sign(ground.store))
            .map_err(|fault| End::Failed(fault.to_string()))
    };
    for key in keys {
        sign(healer)?;
        match remedy.row(&key) {
            Ok(totals) => {
                say(&format!(
                    "{key}: {} -> {}",
                    row_before(ground, &key)?,
                    rows::describe(&totals)
                ))?;
                rows.push((key, totals));
            }
            Err(reason) => {
                say(&format!("{key}: not healed: {reason}"))?;
                refused.push(key.to_string());
            }
        }
    }
    for key in list_keys {
        sign(healer)?;
        let Some(entries) = remedy.list(key) else {
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
            .block_on(healer.write(ground.store, &rows, &lists))
            .map_err(|fault| End::Failed(fault.to_string()))?,
    );
    Ok(Written {
        rows: rows.len(),
        lists: lists.len(),
        refused,
    })
}

fn row_before(ground: &Ground<'_>, key: &RowKey) -> Result<String, End> {
    let state = match ground
        .runtime
        .block_on(ground.store.read_rows(std::slice::from_ref(key)))
    {
        Ok(found) => found.into_iter().next().flatten(),
        Err(StoreError::Broken(_)) => return Ok("unreadable".into()),
        Err(fault) => return Err(crate::end::store_failed(&fault)),
    };
    Ok(state.map_or_else(
        || "nothing".into(),
        |RowState { totals, .. }| rows::describe(&totals),
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
        Err(fault) => return Err(crate::end::store_failed(&fault)),
    };
    Ok(state.map_or_else(
        || "nothing".into(),
        |list| lists::describe_all(key.view, &list.state.entries),
    ))
}
