//! Removes bars that are beyond their horizon: beside the job, once in ten minutes, and by
//! `tapeflow expire`, for a job that is at rest or for all that is old.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tapeflow_dataflow::horizons_of;
use tapeflow_log::sqlite::Access;
use tapeflow_protocol::{Checkpoint, Expired, Expiry, Store, StoreError, repair::is_repairing};
use tapeflow_schemas::{Horizons, window::format_utc};
use tapeflow_sinks::sqlite::SqliteStore;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{
        expire::ExpireSettings,
        store::{StoreAddress, StoreChoice},
        values::Keep,
    },
    exit::{Exit, say},
    signals, stores,
};
use tapeflow_console::format::text::counted;

/// How often a job looks.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Between two lines about progress.
const SAY_EVERY: Duration = Duration::from_secs(10);

pub(crate) fn run(settings: ExpireSettings) -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    signals::on_end(runtime.handle(), move || asked.cancel());
    runtime.block_on(async {
        let (store, _closing) = open(&settings.store).await?;
        let mut all = settings.all;
        loop {
            let checkpoint = stores::checkpoint(&*store).await?;
            let horizons = horizons(&checkpoint)?;
            let expiry = expiry(&*store, &checkpoint, horizons, all).await;
            let expiry = stores::answered(expiry)?;
            let progress = Progress::default();
            let expired = store
                .expire(&expiry, &|so_far| {
                    progress.tell(so_far);
                    !stop.is_cancelled()
                })
                .await;
            let expired = summary(stores::answered(expired)?, stop.is_cancelled());
            let watermark = expiry.watermark().map_or_else(
                || "no partition has a trade".to_owned(),
                |ms| format!("by the watermark {}", format_utc(ms)),
            );
            say(&format!("{expired}; {watermark}"))?;
            let Some(every) = settings.every else {
                return Ok(());
            };
            all = false;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(every) => {}
            }
        }
    })
}

/// Removes bars again and again, beside the job of this process.
pub(crate) async fn regularly(store: Arc<dyn Store>, job: String, horizons: Horizons) {
    if horizons.is_none() {
        return;
    }
    loop {
        match once(&*store, &job, &horizons).await {
            Ok(expired) if expired == Expired::default() => {}
            Ok(expired) => tracing::debug!("{}", summary(expired, false)),
            Err(error) => tracing::warn!(
                %error,
                "bars beyond their horizon cannot be removed; trying again in ten minutes"
            ),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Removes nothing from the store of another job or of other horizons: this process is about to be
/// refused. Nor beside a repair, which reads back what it writes.
async fn once(store: &dyn Store, job: &str, horizons: &Horizons) -> Result<Expired, StoreError> {
    let checkpoint = store.checkpoint().await?.filter(|checkpoint| {
        checkpoint.job == job
            && horizons_of(&checkpoint.fingerprint).as_ref() == Some(horizons)
            && !is_repairing(&checkpoint.owner)
    });
    let Some(checkpoint) = checkpoint else {
        return Ok(Expired::default());
    };
    let expiry = expiry(store, &checkpoint, horizons.clone(), false).await?;
    store.expire(&expiry, &|_| true).await
}

/// What may leave now: of all that is old, or of what became so since bars last left.
async fn expiry(
    store: &dyn Store,
    checkpoint: &Checkpoint,
    horizons: Horizons,
    all: bool,
) -> Result<Expiry, StoreError> {
    let since = if all {
        None
    } else {
        store.expired_up_to().await?.done
    };
    Ok(Expiry::of(checkpoint, horizons).since(since))
}

async fn open(choice: &StoreChoice) -> Result<(Arc<dyn Store>, stores::Closing), Exit> {
    match &choice.address {
        StoreAddress::Sqlite(path) => {
            // A writer would create it.
            drop(stores::sqlite(path, Access::Reader)?);
            let database = stores::sqlite(path, Access::Job).map_err(|exit| {
                Exit::Input(format!(
                    "{exit}; a running job removes bars from its file by itself"
                ))
            })?;
            let closing = stores::Closing::of(&database);
            Ok((Arc::new(SqliteStore::new(database)), closing))
        }
        StoreAddress::Cassandra { .. } => stores::of_job(choice, "", Keep::Forever).await,
    }
}

fn horizons(checkpoint: &Checkpoint) -> Result<Horizons, Exit> {
    let horizons = horizons_of(&checkpoint.fingerprint).ok_or_else(|| {
        Exit::Input(format!(
            "the job of this store has horizons that this version cannot read: {}",
            checkpoint.fingerprint
        ))
    })?;
    if horizons.is_none() {
        return Err(Exit::Input(
            "the job of this store has no horizon, so none of its bars may be removed; a job gets \
             one by --horizon, in a new store"
                .into(),
        ));
    }
    Ok(horizons)
}

fn summary(expired: Expired, stopped: bool) -> String {
    let stopped = if stopped {
        "; stopped before the end"
    } else {
        ""
    };
    let unreadable = match expired.unreadable {
        0 => String::new(),
        count => format!(
            "; {} cannot be read and stay, see tapeflow verify",
            counted(count, "minute", "minutes")
        ),
    };
    format!(
        "bars below a minute removed from {}, {} of bars and {} of views deleted{unreadable}{stopped}",
        counted(expired.minutes, "minute", "minutes"),
        counted(expired.bars, "row or range", "rows or ranges"),
        counted(expired.views, "window or range", "windows or ranges"),
    )
}

/// Says now and then how far it is.
#[derive(Default)]
struct Progress {
    said: AtomicU64,
    begun: std::sync::OnceLock<std::time::Instant>,
}

impl Progress {
    fn tell(&self, so_far: Expired) {
        let begun = self.begun.get_or_init(std::time::Instant::now);
        let due = begun.elapsed().as_secs() / SAY_EVERY.as_secs();
        if self.said.swap(due, Ordering::Relaxed) < due {
            tracing::info!("{} so far", summary(so_far, false));
        }
    }
}
