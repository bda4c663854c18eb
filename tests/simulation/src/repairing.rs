//! A repair beside the job: it takes the job over, writes some bars again, and releases the job, or
//! dies before that. The bars are right already; what is tested is who waits for whom, and which
//! write wins.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tapeflow_dataflow::clock::Clock;
use tapeflow_protocol::{repair::Repairer, workflow::WorkflowError};
use tapeflow_schemas::{BarKey, PackedBars, Totals};
use tokio::runtime::Runtime;

use crate::{
    job_process::SimulatedClock,
    runtime::{advance, paused_runtime},
    store::SimulatedStore,
    world::Shared,
};

/// The most bars of a repair.
const BARS: usize = 6;

/// How a repair ended: the generation that it was, and what did not read back as written.
type Outcome = Arc<Mutex<Option<Result<Vec<String>, WorkflowError>>>>;

/// A repair under way. Dropping it is a crash.
pub(crate) struct Repairing {
    runtime: Runtime,
    outcome: Outcome,
    reached_us: u64,
    /// When it dies, unless it has ended before.
    pub(crate) dies_at_us: u64,
}

impl Repairing {
    /// Starts a repair of every `step`th bar.
    pub(crate) fn start(world: &Shared, step: usize, dies_at_us: u64) -> Self {
        let runtime = paused_runtime();
        let reached_us = world.world().now_us;
        let outcome = Outcome::default();
        let (ended, world) = (Arc::clone(&outcome), world.clone());
        runtime.spawn(async move {
            let result = repair(&world, step).await;
            *ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        });
        Self {
            runtime,
            outcome,
            reached_us,
            dies_at_us,
        }
    }

    /// Goes on for a while. Returns how it has ended.
    pub(crate) fn breathe(
        &mut self,
        now_us: u64,
        rounds: u32,
    ) -> Option<Result<Vec<String>, WorkflowError>> {
        advance(&self.runtime, now_us - self.reached_us, rounds);
        self.reached_us = now_us;
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.take()
    }
}

async fn repair(world: &Shared, step: usize) -> Result<Vec<String>, WorkflowError> {
    let store = SimulatedStore {
        world: world.clone(),
    };
    let clock = SimulatedClock::new(world, 0);
    let mut repairer = Repairer::begin(&store, || clock.wall_us()).await?;
    let bars = bars(world, step, repairer.epoch());
    let overwritten = repairer.write(&store, &bars, &[]).await?;
    repairer.end(&store).await?;
    Ok(overwritten)
}

/// Some bars as of an epoch.
fn bars(world: &Shared, step: usize, epoch: u64) -> Vec<(BarKey, Totals, PackedBars)> {
    let world = world.world();
    let (keys, _) = world.checker.cells();
    let rows: BTreeSet<BarKey> = keys.iter().step_by(step).map(BarKey::row).collect();
    let rows = rows.into_iter().take(BARS).collect();
    world.checker.recomputation.rows_as_of(rows, epoch)
}
