//! `tapeflow ingest`: a feed into Kafka.

use std::sync::Arc;

use tapeflow_console::{ServerState, serve};
use tapeflow_ingest::{
    Progress,
    run::DRAIN_LIMIT,
    spool::{Owner, Spool, SpoolError, SpoolWriter},
};
use tapeflow_log::{LogWriter, kafka::KafkaWriter};
use tokio_util::sync::CancellationToken;

use crate::{
    args::feed::IngestSettings,
    exit::Exit,
    feed::{self, Fed},
    signals,
};

pub(crate) fn run(settings: IngestSettings) -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    signals::on_end(runtime.handle(), move || asked.cancel());
    let stays = !settings.feed.is_until_end();
    // Before the brokers are asked for anything.
    feed::check(&settings.feed)?;
    let spool = settings
        .spool
        .map(Spool::open)
        .transpose()
        .map_err(refused)?;
    runtime.block_on(async {
        let mut progress = Progress::new(feed::kind(&settings.feed));
        if let Some(spool) = &spool {
            progress = progress.with_spool(spool.state());
        }
        let state = Arc::new(ServerState::of_feed(progress.clone()));
        serve(&settings.http, &state, None, None, runtime.handle())?;
        let mut publisher = KafkaWriter::connect(settings.kafka)
            .await
            .map_err(|error| Exit::Input(error.to_string()))?;
        let accepted = feed::accept(settings.feed, &mut publisher).await?;
        let fed = match spool {
            None => feed::feed(accepted, &mut publisher, stop.clone(), &progress).await?,
            Some(spool) => {
                let mut spool = start(spool, publisher).await?;
                let fed = feed::feed(accepted, &mut spool, stop.clone(), &progress).await;
                return spooled(spool, fed).await;
            }
        };
        let summary = fed.summary;
        tracing::info!(
            trades = summary.counts.trades,
            invalid_frames = summary.counts.invalid_frames(),
            records = summary.counts.records,
            "everything is in the topic"
        );
        if summary.counts.adds_nothing() {
            tracing::info!("the recording was in the topic already: nothing was added");
        }
        if stays && summary.complete {
            tracing::info!(
                "end of the recording; waiting for a signal (--until-end would exit here)"
            );
            stop.cancelled().await;
        }
        Ok(())
    })
}

async fn start(spool: Spool, publisher: KafkaWriter) -> Result<SpoolWriter, Exit> {
    let found = publisher
        .identity()
        .await
        .map_err(|error| Exit::Input(error.to_string()))?;
    let owner = Owner {
        log: format!("topic {} of cluster {}", found.topic, found.cluster),
        id: found.topic_id,
        partitions: publisher.partitions(),
    };
    spool.start(owner, Box::new(publisher)).map_err(refused)
}

fn refused(error: SpoolError) -> Exit {
    Exit::Input(format!("--spool: {error}"))
}

/// The end of a live run with a spool. What Kafka does not take in time is no failure: it is kept.
async fn spooled(spool: SpoolWriter, fed: Result<Fed, Exit>) -> Result<(), Exit> {
    let directory = spool.directory();
    let ended = spool.finish(DRAIN_LIMIT).await;
    let summary = fed?.summary;
    let remaining = ended.map_err(|error| Exit::Failed(error.to_string()))?;
    tracing::info!(
        trades = summary.counts.trades,
        invalid_frames = summary.counts.invalid_frames(),
        records = summary.counts.records,
        "feed has ended"
    );
    if remaining.records > 0 {
        tracing::warn!(
            records = remaining.records,
            bytes = remaining.bytes,
            directory = %directory.display(),
            "kafka has not taken everything; the rest stays in the spool, and the next start with \
             the same --spool sends it"
        );
    } else {
        tracing::info!("everything is in the topic");
    }
    Ok(())
}
