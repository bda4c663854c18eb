//! `tapeflow init`: the topic and the keyspace.

use tapeflow_log::kafka::admin as kafka;
use tapeflow_sinks::cassandra;

use crate::{
    args::{job::InitSettings, store::StoreAddress},
    end::{End, say, unreachable_log, unreachable_store},
    stores,
};

/// Copies of bars where nobody says otherwise and there are nodes enough.
const REPLICATION: u32 = 3;

pub(crate) fn run(settings: InitSettings) -> Result<(), End> {
    let InitSettings {
        kafka,
        store,
        partitions,
        replication,
    } = settings;
    crate::small_runtime()?.block_on(async {
        // Ask the store first: a topic nobody needs is harder to take back than a keyspace.
        match &store.address {
            StoreAddress::Sqlite(_) => say("sqlite: needs no init: it is made by the first run")?,
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
            .map_err(|error| unreachable_log(&error))?;
        say(&format!(
            "topic {} {} with {} partition(s)",
            kafka.topic,
            if report.created {
                "created"
            } else {
                "there already"
            },
            report.partitions
        ))?;
        for finding in kafka::findings(kafka)
            .await
            .map_err(|error| unreachable_log(&error))?
        {
            say(&format!("note: {finding}"))?;
        }
        Ok(())
    })
}
