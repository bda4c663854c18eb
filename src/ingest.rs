//! `tapeflow ingest`: a feed into Kafka.

use std::sync::Arc;

use axum::Router;
use tapeflow_ingest::Progress;
use tapeflow_log::kafka::{KafkaConfig, KafkaPublisher};
use tokio::sync::watch;

use crate::{
    args::feed::IngestSettings,
    exit::Exit,
    feed,
    http::{self, Told},
    signals,
};

pub(crate) fn run(settings: IngestSettings) -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let (ask, stop) = watch::channel(false);
    let asked = ask.clone();
    signals::on_end(runtime.handle(), move || {
        let _ = asked.send(true);
    });
    let stays = !settings.feed.is_until_end();
    // Before the brokers are asked for anything.
    feed::check(&settings.feed)?;
    runtime.block_on(async {
        let config = KafkaConfig {
            brokers: settings.kafka.brokers,
            topic: settings.kafka.topic,
            settings: settings.kafka.settings,
            secrets: Vec::new(),
        };
        let progress = Progress::default();
        let told = Arc::new(Told::feed(progress.clone()));
        http::serve(&settings.http, told, None, Router::new(), runtime.handle())?;
        let mut publisher = KafkaPublisher::connect(config)
            .await
            .map_err(|error| Exit::Input(error.to_string()))?;
        let summary = feed::feed(settings.feed, &mut publisher, stop.clone(), &progress).await?;
        tracing::info!(
            trades = summary.counts.trades,
            dead_letters = summary.counts.dead_letters(),
            records = summary.counts.records,
            "everything is in the topic"
        );
        if stays && summary.complete {
            tracing::info!(
                "end of the recording; waiting for a signal (--until-end would exit here)"
            );
            let mut stop = stop;
            let _ = stop.wait_for(|stop| *stop).await;
        }
        drop(ask);
        Ok(())
    })
}
