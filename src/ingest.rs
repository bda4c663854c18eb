//! `tapeflow ingest`: a feed into Kafka.

use std::sync::Arc;

use tapeflow_console::{ServerState, serve};
use tapeflow_ingest::Progress;
use tapeflow_log::kafka::KafkaWriter;
use tokio_util::sync::CancellationToken;

use crate::{args::feed::IngestSettings, exit::Exit, feed, signals};

pub(crate) fn run(settings: IngestSettings) -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    signals::on_end(runtime.handle(), move || asked.cancel());
    let stays = !settings.feed.is_until_end();
    // Before the brokers are asked for anything.
    feed::check(&settings.feed)?;
    runtime.block_on(async {
        let progress = Progress::default();
        let state = Arc::new(ServerState::of_feed(progress.clone()));
        serve(&settings.http, &state, None, None, runtime.handle())?;
        let mut publisher = KafkaWriter::connect(settings.kafka)
            .await
            .map_err(|error| Exit::Input(error.to_string()))?;
        let summary = feed::feed(settings.feed, &mut publisher, stop.clone(), &progress).await?;
        tracing::info!(
            trades = summary.counts.trades,
            invalid_frames = summary.counts.invalid_frames(),
            records = summary.counts.records,
            "everything is in the topic"
        );
        if stays && summary.complete {
            tracing::info!(
                "end of the recording; waiting for a signal (--until-end would exit here)"
            );
            stop.cancelled().await;
        }
        Ok(())
    })
}
