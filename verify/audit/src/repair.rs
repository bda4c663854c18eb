//! Writes the correct content of the places that differ, as a short generation of the job.
//! [`tapeflow_protocol::repair`] says why that is safe.
//!
//! The log is read before the job is taken over. So the job is held up only while the repair reads
//! the end of the log and writes.
//!
//! ```text
//!  Audit::prepare_repair ──▶ (ask a person) ──▶ Repair::catch_up ──▶ Repair::write
//!  read the log                                 read new records     take over, read the rest,
//!                                                                    write, read back, release
//! ```

use tapeflow_dataflow::clock::{Clock, SystemClock};
use tapeflow_protocol::{
    Checkpoint, LostRange, StoreError, repair::Repairer, workflow::WorkflowError,
};
use tapeflow_schemas::{BarKey, Epoch, ViewKey};

use crate::{
    audit_run::Audit,
    comparison::{describe_bar, describe_view, lacking},
    error::AuditError,
    event::{Event, Observer},
    findings::{Findings, Place, RepairAction},
    log_cursor::first_offsets,
    repair_plan::RepairPlan,
    selection::Selection,
};

/// A repair that has read the log and has not written anything.
pub struct Repair<'a> {
    audit: &'a Audit<'a>,
    plan: RepairPlan<'a>,
    places: usize,
    losses: Vec<Option<LostRange>>,
}

/// What a repair wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairReport {
    /// Bars written.
    pub bars: usize,
    /// Views written.
    pub views: usize,
    /// Feed gaps written.
    pub feed_gaps: usize,
    /// Bars that were not written: [`Event::RepairRefused`] gave the reason.
    pub refused: usize,
    /// Bars, views and feed gaps that do not read back as they were written. Something wrote them
    /// with a later write timestamp: a clock that is ahead, or a person.
    pub overwritten: Vec<String>,
    /// The epoch that the bars and views are labelled with.
    pub epoch: Epoch,
    /// The generation of the repair.
    pub generation: u64,
}

impl Audit<'_> {
    /// Prepares the repair of what [`Audit::run`] found: reads the log and recomputes the places
    /// with [`RepairAction::Write`]. `None` if there are none.
    ///
    /// # Errors
    /// [`AuditError`], in particular [`AuditError::RecordsRemovedBeforeRepair`].
    pub fn prepare_repair(
        &self,
        selection: &Selection,
        findings: &Findings,
    ) -> Result<Option<Repair<'_>>, AuditError> {
        let places: Vec<Place> = findings.places(RepairAction::Write).cloned().collect();
        if places.is_empty() {
            return Ok(None);
        }
        let checkpoint = self.checkpoint()?;
        let from = first_offsets(self.log, &checkpoint)?;
        // The audit compared with all of the job's records. With fewer of them, a repair would take
        // trades away from correct bars.
        if findings.first_offsets.iter().any(|first| *first != from) {
            return Err(AuditError::RecordsRemovedBeforeRepair);
        }
        let mut plan = RepairPlan::new(
            self.log,
            self.rules,
            &from,
            &places,
            selection.has_views(),
            self.stop,
        );
        plan.read_to(&checkpoint)?;
        Ok(Some(Repair {
            audit: self,
            plan,
            places: places.len(),
            losses: losses(&checkpoint),
        }))
    }
}

impl Repair<'_> {
    /// The number of places that the audit found, without the views that depend on them.
    #[must_use]
    pub fn places(&self) -> usize {
        self.places
    }

    /// Reads what was bound since the repair was prepared, so that less is left to read when the
    /// job is held up.
    ///
    /// # Errors
    /// [`AuditError`].
    pub fn catch_up(&mut self) -> Result<(), AuditError> {
        self.plan.read_to(&self.audit.checkpoint()?)
    }

    /// Takes the job over, writes, reads back, and releases the job. It releases the job after an
    /// error too: the job must not wait for a repair that has failed.
    ///
    /// # Errors
    /// [`AuditError`]. After [`AuditError::RepairTakenOver`], everything was written.
    pub fn write(mut self, observer: &mut Observer<'_>) -> Result<RepairReport, AuditError> {
        let audit = self.audit;
        let mut repairer = audit
            .runtime
            .block_on(Repairer::begin(audit.store, || SystemClock.wall_us()))?;
        let written = if self.losses == losses(repairer.checkpoint()) {
            write_places(audit, &mut self.plan, &mut repairer, observer)
        } else {
            Err(AuditError::RecordsRemovedBeforeRepair)
        };
        let (epoch, generation) = (repairer.epoch(), repairer.checkpoint().generation);
        let released = audit.runtime.block_on(repairer.end(audit.store));
        let written = written?;
        match released {
            Ok(_) => Ok(RepairReport {
                bars: written.bars,
                views: written.views,
                feed_gaps: written.feed_gaps,
                refused: written.refused,
                overwritten: written.overwritten,
                epoch,
                generation,
            }),
            Err(WorkflowError::Fenced {
                generation: by,
                owner,
            }) => Err(AuditError::RepairTakenOver {
                generation,
                by,
                owner,
            }),
            Err(error) => Err(AuditError::Repair(error)),
        }
    }
}

/// What operators have given up, by partition.
fn losses(checkpoint: &Checkpoint) -> Vec<Option<LostRange>> {
    let cuts = &checkpoint.last_binding().cuts;
    cuts.iter().map(|cut| cut.lost).collect()
}

struct Written {
    bars: usize,
    views: usize,
    feed_gaps: usize,
    refused: usize,
    overwritten: Vec<String>,
}

/// Writes all places as of the repairer's last binding.
fn write_places(
    audit: &Audit<'_>,
    plan: &mut RepairPlan<'_>,
    repairer: &mut Repairer,
    observer: &mut Observer<'_>,
) -> Result<Written, AuditError> {
    plan.read_to(repairer.checkpoint())?;
    let (row_keys, view_keys) = (
        std::mem::take(&mut plan.rows),
        std::mem::take(&mut plan.views),
    );
    let (mut bars, mut views, mut refused) = (Vec::new(), Vec::new(), 0);
    // A job that waits takes a repairer without a sign of life for dead.
    let step = |repairer: &mut Repairer| {
        if audit.stop.is_cancelled() {
            return Err(AuditError::Stopped);
        }
        Ok(audit.runtime.block_on(repairer.heartbeat(audit.store))?)
    };
    for key in row_keys {
        step(repairer)?;
        match plan.row(&key) {
            Ok(row) => {
                observer(Event::RepairReady {
                    place: &Place::Bar(key.clone()),
                    before: &stored_bar(audit, &key)?,
                    after: &describe_bar(&row.totals),
                });
                bars.push((key, row.totals, row.packed));
            }
            Err(reason) => {
                observer(Event::RepairRefused {
                    place: &Place::Bar(key),
                    reason: &reason,
                });
                refused += 1;
            }
        }
    }
    for key in view_keys {
        step(repairer)?;
        let Some(entries) = plan.view(key) else {
            continue;
        };
        let before = stored_view(audit, key)?;
        let after = describe_view(key.view, &entries);
        if before != after {
            observer(Event::RepairReady {
                place: &Place::View(key),
                before: &before,
                after: &after,
            });
        }
        views.push((key, entries));
    }
    for gap in &plan.feed_gaps {
        observer(Event::RepairReady {
            place: &Place::FeedGap(gap.clone()),
            before: "nothing, or not in all of its buckets",
            after: "the gap",
        });
    }
    step(repairer)?;
    let mut overwritten = audit
        .runtime
        .block_on(repairer.write(audit.store, &bars, &views))?;
    if !plan.feed_gaps.is_empty() {
        let written = repairer.write_feed_gaps(audit.store, &plan.feed_gaps);
        audit.runtime.block_on(written)?;
        let found = audit.feed_gaps()?.map_err(|reason| {
            AuditError::Store(StoreError::Broken(format!("after the repair: {reason}")))
        })?;
        let lacking = lacking(&found, &plan.feed_gaps).into_iter().cloned();
        overwritten.extend(lacking.map(|gap| Place::FeedGap(gap).to_string()));
    }
    Ok(Written {
        bars: bars.len(),
        views: views.len(),
        feed_gaps: plan.feed_gaps.len(),
        refused,
        overwritten,
    })
}

fn stored_bar(audit: &Audit<'_>, key: &BarKey) -> Result<String, AuditError> {
    let found = audit
        .runtime
        .block_on(audit.store.read_bars(std::slice::from_ref(key)));
    let bar = found.map(|bars| bars.into_iter().next().flatten());
    describe_stored(bar, |row| describe_bar(&row.state.totals))
}

fn stored_view(audit: &Audit<'_>, key: ViewKey) -> Result<String, AuditError> {
    let range = key.start..key.start + 1;
    let found = audit
        .runtime
        .block_on(audit.store.views(key.view, key.size, range));
    let view = found.map(|views| views.into_iter().next());
    describe_stored(view, |stored| {
        describe_view(key.view, &stored.state.entries)
    })
}

fn describe_stored<T>(
    found: Result<Option<T>, StoreError>,
    describe: impl Fn(T) -> String,
) -> Result<String, AuditError> {
    match found {
        Ok(found) => Ok(found.map_or_else(|| "nothing".to_owned(), describe)),
        Err(StoreError::Broken(_)) => Ok("unreadable".to_owned()),
        Err(error) => Err(AuditError::Store(error)),
    }
}
