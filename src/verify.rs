//! `tapeflow verify`: compares every bar and view with a recomputation from the log, prints each
//! difference, and repairs it with `--repair`. The audit itself is the crate `tapeflow-audit`
//! (`verify/audit`), which prints nothing.

mod symbols;
mod text;

use std::{
    io::{BufRead, IsTerminal, Write},
    thread,
    time::{Duration, Instant},
};

use tapeflow_audit::{
    Audit, AuditError, CancellationToken, Event, Findings, Place, RepairAction, Rules, Selection,
    Settings,
};

use crate::{
    args::{values::Keep, verify::VerifySettings},
    exit::{Exit, say, unreachable_log, unreachable_store},
    logs, signals, stores,
};

/// How often a wait between two audits looks for a request to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// Differences printed one by one in each pass; all are counted.
const PRINTED: usize = 100;

pub(crate) fn run(settings: VerifySettings) -> Result<(), Exit> {
    if settings.repair {
        check_can_confirm(settings.yes)?;
    }
    let runtime = crate::small_runtime()?;
    let mut store = runtime.block_on(stores::reader(&settings.store))?;
    let checkpoint = runtime.block_on(stores::checkpoint(&*store))?;
    let rules = Rules::of(&checkpoint, settings.baskets.as_ref()).map_err(end_of)?;
    let log = logs::of_checkpoint(settings.log, &checkpoint, &store.describe())?;
    let names = symbols::Names::of(&*store, runtime.handle())?;
    names.warn_of_unlisted(&settings.symbols);
    if settings.repair {
        // Before the audit, which takes long: a file that a job is writing cannot be repaired.
        // A repair commits no epoch, so it writes no history.
        store = runtime.block_on(stores::writer(
            &settings.store,
            &checkpoint.job,
            Keep::Forever,
        ))?;
    }
    let stop = CancellationToken::new();
    let audit = Audit {
        store: &*store,
        log: &*log,
        rules: &rules,
        runtime: runtime.handle(),
        stop: &stop,
    };
    let audit_settings = Settings {
        selection: Selection::new(&settings.symbols, settings.sample),
        since: settings.since,
        passes: settings.passes,
    };
    if let Some(every) = settings.every {
        let signalled = stop.clone();
        signals::on_end(runtime.handle(), move || signalled.cancel());
        return repeat(every, &stop, || {
            let findings = run_audit(&audit, &audit_settings)?;
            names.check_known(&findings)?;
            result_of(&findings, settings.min_compared)
        });
    }
    let findings = run_audit(&audit, &audit_settings)?;
    names.check_known(&findings)?;
    if settings.repair {
        repair(&audit, &audit_settings.selection, &findings, settings.yes)?;
        check_compared(&findings, settings.min_compared)
    } else {
        result_of(&findings, settings.min_compared)
    }
}

/// Runs one audit and prints its differences and its summary.
fn run_audit(audit: &Audit<'_>, settings: &Settings) -> Result<Findings, Exit> {
    let mut printer = Printer::new(audit.stop);
    let result = audit.run(settings, &mut |event| printer.print(event));
    let findings = printer.finish(result)?;
    say(&text::summary(&findings, settings.selection.has_views()))?;
    Ok(findings)
}

fn result_of(findings: &Findings, min_compared: u64) -> Result<(), Exit> {
    match findings.count() {
        0 => check_compared(findings, min_compared),
        differences => Err(Exit::Differs(differences)),
    }
}

/// Refuses the result of an audit that compared less than `min_compared` percent.
fn check_compared(findings: &Findings, min_compared: u64) -> Result<(), Exit> {
    findings
        .too_small_share(min_compared)
        .map_or(Ok(()), |share| {
            Err(Exit::NotCompared(text::too_little(&share, min_compared)))
        })
}

/// Prints events. If the output fails, it stops the audit.
struct Printer<'a> {
    stop: &'a CancellationToken,
    printed: usize,
    failed: Option<Exit>,
}

impl<'a> Printer<'a> {
    fn new(stop: &'a CancellationToken) -> Self {
        Self {
            stop,
            printed: 0,
            failed: None,
        }
    }

    fn print(&mut self, event: Event<'_>) {
        match event {
            Event::PassStarted { .. } => self.printed = 0,
            Event::Difference { description, .. } => {
                if self.printed < PRINTED {
                    self.printed += 1;
                    // The audit goes on without a reader: all differences are counted.
                    let _ = say(description);
                }
            }
            Event::HistoryDiffers(difference) => self.say(&difference.to_string()),
            Event::RepairReady {
                place,
                before,
                after,
            } => self.say(&format!("{place}: {before} -> {after}")),
            Event::RepairRefused { place, reason } => {
                self.say(&format!("{place}: not repaired: {reason}"));
            }
        }
    }

    fn say(&mut self, line: &str) {
        if self.failed.is_none()
            && let Err(end) = say(line)
        {
            self.failed = Some(end);
            self.stop.cancel();
        }
    }

    /// An error of the output comes first: it may be the reason of the other one.
    fn finish<T>(self, result: Result<T, AuditError>) -> Result<T, Exit> {
        match self.failed {
            Some(end) => Err(end),
            None => result.map_err(end_of),
        }
    }
}

/// Runs audits until it is asked to stop, and returns the worst result. If the first audit finds
/// wrong input, there is no second one.
fn repeat(
    every: Duration,
    stop: &CancellationToken,
    audit: impl Fn() -> Result<(), Exit>,
) -> Result<(), Exit> {
    let (mut worst, mut is_first) = (Ok(()), true);
    loop {
        let next = Instant::now() + every;
        match audit() {
            Ok(()) => {}
            Err(end @ Exit::OutputClosed) => return Err(end),
            Err(end @ Exit::Input(_)) if is_first => return Err(end),
            // An audit that was stopped found nothing.
            Err(Exit::Failed(_)) if stop.is_cancelled() => {}
            Err(end) => {
                if !matches!(end, Exit::Differs(_)) {
                    say(&format!("not verified: {end}"))?;
                }
                worst = Err(worse(worst, end));
            }
        }
        is_first = false;
        while Instant::now() < next && !stop.is_cancelled() {
            thread::sleep(STOP_CHECK);
        }
        if stop.is_cancelled() {
            return worst;
        }
    }
}

/// Differences are worse than an audit that failed or compared too little, and the largest number of them counts.
fn worse(before: Result<(), Exit>, now: Exit) -> Exit {
    match (before, now) {
        (Err(Exit::Differs(before)), Exit::Differs(now)) => Exit::Differs(before.max(now)),
        (Err(Exit::Differs(before)), _) => Exit::Differs(before),
        (_, Exit::Input(reason)) => Exit::Failed(reason),
        (_, now) => now,
    }
}

/// Repairs what can be repaired. `Ok` if no difference is left.
fn repair(
    audit: &Audit<'_>,
    selection: &Selection,
    findings: &Findings,
    yes: bool,
) -> Result<(), Exit> {
    let result_of = |left: u64| match left {
        0 => Ok(()),
        left => Err(Exit::Differs(left)),
    };
    let left = print_not_repairable(findings)?;
    let prepared = audit.prepare_repair(selection, findings);
    let Some(mut repair) = prepared.map_err(end_of)? else {
        say("nothing to repair")?;
        return result_of(left);
    };
    if !yes && !confirm(repair.places())? {
        return Err(Exit::Differs(findings.count()));
    }
    repair.catch_up().map_err(end_of)?;
    // From here on, the first Ctrl-C does nothing: the repair is short and must release the job. A
    // second one ends the process, and a job waits until it takes the repair for dead.
    signals::on_end(audit.runtime, || ());
    let mut printer = Printer::new(audit.stop);
    let result = repair.write(&mut |event| printer.print(event));
    let report = printer.finish(result)?;
    for place in &report.overwritten {
        say(&format!(
            "{place}: not repaired: something wrote it with a later write timestamp: a clock that \
             is ahead, or a person"
        ))?;
    }
    let left = left + (report.refused + report.overwritten.len()) as u64;
    say(&text::repaired(&report, left))?;
    result_of(left)
}

/// Prints what a repair leaves as it is. Returns the number of those differences.
fn print_not_repairable(findings: &Findings) -> Result<u64, Exit> {
    let mut left = u64::from(findings.history_differs);
    for place in findings.places(RepairAction::CannotDelete) {
        let what = match place {
            Place::FeedGap(_) => "record in the log reports it",
            _ => "trade in the log belongs to it",
        };
        say(&format!(
            "{place}: not repaired: no {what}, and a repair never deletes"
        ))?;
        left += 1;
    }
    let unknown = findings.places(RepairAction::CannotRecompute);
    let (gaps, unknown): (Vec<_>, Vec<_>) =
        unknown.partition(|place| matches!(place, Place::FeedGap(_) | Place::FeedGaps));
    for place in &gaps {
        say(&format!(
            "{place}: not repaired: the rows must be seen to by hand"
        ))?;
    }
    let (gaps, unknown) = (gaps.len() as u64, unknown.len() as u64);
    if unknown > 0 {
        say(&format!(
            "{} not repaired: trades from records that are no longer in the log may belong there",
            text::count(unknown, "place")
        ))?;
    }
    Ok(left + gaps + unknown)
}

/// Refuses a repair that cannot ask for a confirmation.
fn check_can_confirm(yes: bool) -> Result<(), Exit> {
    if yes || std::io::stdin().is_terminal() {
        Ok(())
    } else {
        Err(Exit::Input(
            "--repair: it asks before it writes, and there is no terminal: add --yes".into(),
        ))
    }
}

/// Asks on the terminal.
fn confirm(places: usize) -> Result<bool, Exit> {
    let failed = |error: std::io::Error| Exit::Failed(format!("cannot ask: {error}"));
    let mut out = std::io::stderr();
    write!(
        out,
        "Repair {}, and the views of their windows? A running job is stopped for the repair, and \
         goes on afterwards if it is supervised. [y/N] ",
        text::count(places as u64, "place")
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

/// How the command ends after an error of the audit.
fn end_of(error: AuditError) -> Exit {
    match &error {
        AuditError::NoJob { .. } | AuditError::UnknownRules { .. } => {
            Exit::Input(error.to_string())
        }
        AuditError::Checkpoint { store, source } => unreachable_store(store, source),
        AuditError::Bounds { source, .. } => unreachable_log(source),
        AuditError::OtherBaskets { job, given } => other_baskets(job, given),
        AuditError::Log(_)
        | AuditError::LogSilent { .. }
        | AuditError::PartitionsAdded
        | AuditError::RecordsRemoved { .. }
        | AuditError::Store(_)
        | AuditError::Unreadable { .. }
        | AuditError::Stopped
        | AuditError::RecordsRemovedBeforeRepair
        | AuditError::RepairTakenOver { .. }
        | AuditError::Repair(_) => Exit::Failed(error.to_string()),
    }
}

fn other_baskets(job: &str, given: &str) -> Exit {
    Exit::Input(match (job, given) {
        (job, "none") => {
            format!("--baskets: missing: the job uses the baskets {job}; give the job's file")
        }
        ("none", _) => "--baskets: the job uses no baskets: remove this flag".into(),
        (job, given) => format!(
            "--baskets: the job uses the baskets {job}, this file has {given}; give the job's file"
        ),
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Audits with these results, one after the other. The last one is asked to stop.
    fn audits(results: Vec<Result<(), Exit>>) -> (Result<(), Exit>, usize) {
        let (stop, left) = (
            CancellationToken::new(),
            RefCell::new(results.into_iter().rev().collect::<Vec<_>>()),
        );
        let result = repeat(Duration::ZERO, &stop, || {
            let result = left.borrow_mut().pop().expect("stopped before");
            if left.borrow().is_empty() {
                stop.cancel();
            }
            result
        });
        (result, left.into_inner().len())
    }

    #[test]
    fn the_worst_audit_decides() {
        let failed = || Err(Exit::Failed("no answer".into()));
        assert!(matches!(audits(vec![Ok(()), Ok(())]), (Ok(()), 0)));
        assert!(matches!(
            audits(vec![
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
                audits(vec![Ok(()), failed(), Ok(())]),
                (Err(Exit::Failed(_)), 0)
            ),
            "a store that did not answer once"
        );
        let refused = || Err(Exit::Input("no such store".into()));
        assert!(matches!(
            audits(vec![Ok(()), refused(), Ok(())]),
            (Err(Exit::Failed(_)), 0)
        ));
        assert!(
            matches!(audits(vec![refused(), Ok(())]), (Err(Exit::Input(_)), 1)),
            "refused from the start"
        );
        assert!(
            matches!(audits(vec![Ok(()), failed()]), (Ok(()), 0)),
            "stopped on request"
        );
    }
}
