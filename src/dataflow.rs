//! `tapeflow dataflow`: makes bars from a log; one process of the job.

use std::sync::Arc;

use tapeflow_console::{JobState, LivePage, ServerState, live::LiveBars, serve};
use tapeflow_dataflow::{Metrics, Observer, Stop};

use crate::{
    args::job::DataflowSettings,
    exit::Exit,
    expire, logs,
    signals::{self, Ending},
    stores, supervise, unlisted,
};

pub(crate) fn run(settings: DataflowSettings) -> Result<(), Exit> {
    if settings.supervise && !supervise::is_child() {
        return supervise::run();
    }
    let runtime = crate::small_runtime()?;
    let log = logs::of_job(settings.log, &settings.job.job)?;
    let (store, _closing) = runtime.block_on(stores::of_job(
        &settings.store,
        &settings.job.job,
        settings.keep_history,
    ))?;
    // One process is enough.
    if settings.job.process == 0 {
        let (job, horizons) = (settings.job.job.clone(), settings.job.horizons.clone());
        runtime.spawn(expire::regularly(Arc::clone(&store), job, horizons));
    }
    let metrics = Arc::new(Metrics::default());
    // One process speaks for all.
    let unlisted = if settings.job.process == 0 {
        runtime.block_on(unlisted::basket_symbols(
            &settings.job.baskets,
            &*store,
            &[],
        ))
    } else {
        None
    };
    let state = Arc::new(ServerState::of_job(
        "dataflow",
        JobState::new(&settings.job, &*log, store.describe(), &metrics)
            .with_unlisted(unlisted.unwrap_or_default()),
        None,
    ));
    let (mut page, mut observer): (_, Arc<dyn Observer>) = (None, Arc::new(()));
    if settings.http.address.is_some() {
        let bars = LiveBars::new(&settings.job.sizes);
        page = Some(LivePage {
            bars: Arc::clone(&bars),
            store: Arc::clone(&store),
        });
        observer = bars;
    }
    serve(
        &settings.http,
        &state,
        Some(Arc::clone(&log)),
        page,
        runtime.handle(),
    )?;
    let stop = Stop::default();
    let asked = stop.clone();
    let ending = Ending::within(
        settings.end_within,
        runtime.handle(),
        move || asked.request(),
        move || state.waits_for(),
    );
    signals::on_end(runtime.handle(), move || ending.begin());
    tracing::info!(
        log = log.describe(),
        store = store.describe(),
        workers = settings.job.workers,
        process = settings.job.process,
        "job starts"
    );
    let summary = tapeflow_dataflow::run(
        settings.job,
        log,
        store,
        stop,
        observer,
        metrics,
        runtime.handle(),
    )?;
    tracing::info!(
        committed = summary.committed,
        records = summary.records,
        bars = summary.bars_written,
        "job ended: everything that was read is committed"
    );
    Ok(())
}
