//! `tapeflow verify`: recomputes every bar and every list from the log with code the job does not
//! use, and prints each difference.
//!
//! What is labelled with a committed epoch must equal the recomputation of all committed records;
//! what is labelled with an epoch that is bound but not committed must equal the recomputation up
//! to that very epoch. Values are compared, labels are not. A job may run meanwhile
//! (`verify/audit_run.rs`); what differs can be repaired (`verify/repair.rs`).

mod audit_run;
mod bars;
mod coverage;
mod judge;
mod lists;
mod recompute;
mod repair;
mod repair_plan;
mod selection;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use audit_run::Ground;
use judge::Findings;
use selection::Selection;
use tapeflow_dataflow::{baskets_of, sizes_of};
use tapeflow_protocol::Checkpoint;
use tapeflow_schemas::Baskets;

use crate::{
    args::verify::VerifySettings,
    exit::{Exit, other_rules, say},
    logs, signals, stores,
};

/// How soon a request to end is heard between two looks.
const LISTEN: Duration = Duration::from_millis(50);

pub(crate) fn run(settings: VerifySettings) -> Result<(), Exit> {
    if settings.repair {
        repair::may_ask(settings.yes)?;
    }
    let runtime = crate::small_runtime()?;
    let mut store = runtime.block_on(stores::reader(&settings.store))?;
    let checkpoint = runtime.block_on(stores::checkpoint(&*store))?;
    let sizes = sizes_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(&checkpoint))?;
    let kept = || Baskets::of_fingerprint(&checkpoint.fingerprint);
    let baskets = settings.baskets.or_else(kept).unwrap_or_default();
    check_baskets(&checkpoint, &baskets)?;
    let log = logs::of_checkpoint(settings.log, &checkpoint)?;
    if settings.repair {
        // Before the long look: a file that a job is writing cannot be repaired beside it.
        store = runtime.block_on(stores::writer(&settings.store, &checkpoint.job))?;
    }
    let asked = Arc::new(AtomicBool::new(false));
    let ground = Ground {
        runtime: &runtime,
        store: &*store,
        log: &*log,
        sizes: &sizes,
        baskets: &baskets,
        asked: &asked,
    };
    let selection = Selection::new(&settings.symbols, settings.sample);
    let look = || -> Result<Findings, Exit> {
        let mut found = Findings::default();
        for slice in 0..settings.passes {
            found.add(ground.look(&selection.slice(slice, settings.passes), settings.since)?);
        }
        if selection.has_lists() && settings.since.is_none() {
            ground.look_beside_the_directory(&mut found)?;
        }
        say(&found.summary(selection.has_lists()))?;
        Ok(found)
    };
    if let Some(every) = settings.every {
        let heard = Arc::clone(&asked);
        signals::on_end(runtime.handle(), move || {
            heard.store(true, Ordering::Release)
        });
        return again_and_again(every, &asked, || look().and_then(|found| verdict(&found)));
    }
    let found = look()?;
    if settings.repair {
        repair::repair(&ground, &selection, &found, settings.yes)
    } else {
        verdict(&found)
    }
}

/// How a look ends.
fn verdict(found: &Findings) -> Result<(), Exit> {
    match found.differences() {
        0 => Ok(()),
        differences => Err(Exit::Differs(differences)),
    }
}

/// Looks until it is asked to end, and ends as the worst look did. What cannot be looked at from
/// the start is no reason to try again.
fn again_and_again(
    every: Duration,
    asked: &AtomicBool,
    look: impl Fn() -> Result<(), Exit>,
) -> Result<(), Exit> {
    let (mut worst, mut first) = (Ok(()), true);
    loop {
        let next = Instant::now() + every;
        match look() {
            Ok(()) => {}
            Err(end @ Exit::OutputClosed) => return Err(end),
            Err(end @ Exit::Input(_)) if first => return Err(end),
            // A look that was cut short found nothing.
            Err(Exit::Failed(_)) if asked.load(Ordering::Acquire) => {}
            Err(end) => {
                if !matches!(end, Exit::Differs(_)) {
                    say(&format!("not verified: {end}"))?;
                }
                worst = Err(worse(worst, end));
            }
        }
        first = false;
        while Instant::now() < next && !asked.load(Ordering::Acquire) {
            thread::sleep(LISTEN);
        }
        if asked.load(Ordering::Acquire) {
            return worst;
        }
    }
}

/// Differences are worse than a store that did not answer; the most of them count.
fn worse(before: Result<(), Exit>, now: Exit) -> Exit {
    match (before, now) {
        (Err(Exit::Differs(before)), Exit::Differs(now)) => Exit::Differs(before.max(now)),
        (Err(Exit::Differs(before)), _) => Exit::Differs(before),
        (_, Exit::Input(reason)) => Exit::Failed(reason),
        (_, now) => now,
    }
}

/// Lists of baskets cannot be recomputed from other baskets than the job's.
fn check_baskets(checkpoint: &Checkpoint, given: &Baskets) -> Result<(), Exit> {
    let wanted = baskets_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(checkpoint))?;
    let given = given.digest();
    match (wanted, given.as_str()) {
        (wanted, given) if wanted == given => Ok(()),
        (wanted, "none") => Err(Exit::Input(format!(
            "--baskets: missing; the job ran with baskets {wanted}, too many for the store to \
             keep: give the file that the job was given"
        ))),
        ("none", _) => Err(Exit::Input(
            "--baskets: the job ran without baskets: omit the flag".into(),
        )),
        (wanted, given) => Err(Exit::Input(format!(
            "--baskets: the job ran with baskets {wanted}, these are {given}: give the file that \
             the job was given, or omit the flag"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Looks with these ends, one after the other; asked to end during the last.
    fn looks(ends: Vec<Result<(), Exit>>) -> (Result<(), Exit>, usize) {
        let (asked, left) = (
            AtomicBool::new(false),
            RefCell::new(ends.into_iter().rev().collect::<Vec<_>>()),
        );
        let ended = again_and_again(Duration::ZERO, &asked, || {
            let end = left.borrow_mut().pop().expect("asked to end before");
            asked.store(left.borrow().is_empty(), Ordering::Release);
            end
        });
        (ended, left.into_inner().len())
    }

    #[test]
    fn the_worst_look_decides() {
        let failed = || Err(Exit::Failed("no answer".into()));
        assert!(matches!(looks(vec![Ok(()), Ok(())]), (Ok(()), 0)));
        assert!(matches!(
            looks(vec![
                Ok(()),
                Err(Exit::Differs(2)),
                failed(),
                Err(Exit::Differs(1)),
                Ok(())
            ]),
            (Err(Exit::Differs(2)), 0)
        ));
        assert!(
            matches!(
                looks(vec![Ok(()), failed(), Ok(())]),
                (Err(Exit::Failed(_)), 0)
            ),
            "a store that did not answer once"
        );
        let refused = || Err(Exit::Input("no such store".into()));
        assert!(matches!(
            looks(vec![Ok(()), refused(), Ok(())]),
            (Err(Exit::Failed(_)), 0)
        ));
        assert!(
            matches!(looks(vec![refused(), Ok(())]), (Err(Exit::Input(_)), 1)),
            "refused from the start"
        );
        assert!(
            matches!(looks(vec![Ok(()), failed()]), (Ok(()), 0)),
            "cut short by the request to end"
        );
    }
}
