//! `tapeflow init`: the topic and the keyspace.

use tapeflow_log::kafka::admin as kafka;
use tapeflow_sinks::cassandra;

use crate::{
    args::{job::InitSettings, store::StoreAddress},
    exit::{Exit, say, unreachable_brokers, unreachable_store},
    stores,
};
use tapeflow_console::format::text::counted;

/// Replicas of bars by default, if there are enough nodes.
const REPLICATION: u32 = 3;

pub(crate) fn run(settings: InitSettings) -> Result<(), Exit> {
    let InitSettings {
        kafka,
        store,
        partitions,
        replication,
    } = settings;
    crate::small_runtime()?.block_on(async {
        // The store first: an unused topic is harder to remove than a keyspace.
        match &store.address {
            StoreAddress::Sqlite(_) => {
                say("sqlite: needs no init: the first run creates the file")?
            }
            StoreAddress::Cassandra { nodes, keyspace } => {
                let config = stores::cassandra(nodes, keyspace, &store.login, "tapeflow")?;
                let name = config.address();
                let unreachable = |error| unreachable_store(&name, &error);
                let replicas = match replication {
                    Some(replicas) => replicas,
                    None => cassandra::nodes(&config)
                        .await
                        .map_err(unreachable)?
                        .min(REPLICATION),
                };
                let report = cassandra::init(&config, replicas)
                    .await
                    .map_err(unreachable)?;
                say(&format!("{report}"))?;
                for finding in &report.findings {
                    say(&format!("note: {finding}"))?;
                }
            }
        }
        let report = kafka::make_topic(&kafka, partitions, replication)
            .await
            .map_err(|error| unreachable_brokers(&error, ""))?;
        say(&format!(
            "topic {} {} with {}",
            kafka.topic,
            if report.created { "created" } else { "exists" },
            counted(report.partitions as u64, "partition", "partitions")
        ))?;
        for finding in kafka::findings(kafka)
            .await
            .map_err(|error| unreachable_brokers(&error, ""))?
        {
            say(&format!("note: {finding}"))?;
        }
        Ok(())
    })
}
