//! The checkpoint: one row that only lightweight transactions write.
//!
//! Only an answer "applied" or "not applied" decides the outcome. Anything else, an error of the
//! server or of the driver included, leaves it unknown: a later transaction may still complete a
//! proposal that a replica has accepted.

use std::time::Duration;

use scylla::{
    client::session::Session,
    errors::ExecutionError,
    response::query_result::QueryResult,
    statement::{Consistency, SerialConsistency, prepared::PreparedStatement},
    value::{CqlValue, Row},
};
use serde::Deserialize;
use tapeflow_protocol::{CasOutcome, Checkpoint, StoreError, checkpoint::CHECKPOINT_FORMAT};

use super::{
    display_columns::bigint,
    errors::{broken, of_execution},
    session::Cluster,
};

/// The statements on table `checkpoint`.
pub(super) struct CheckpointRow {
    create: PreparedStatement,
    replace: PreparedStatement,
    read: PreparedStatement,
    job: PreparedStatement,
}

impl CheckpointRow {
    pub(super) async fn prepare(
        cluster: &Cluster,
        keyspace: &str,
        timeout: Duration,
    ) -> Result<Self, StoreError> {
        let table = format!("{keyspace}.checkpoint");
        let mut create = cluster
            .prepare(format!(
                "INSERT INTO {table} (only_one, job, generation, version, owner, checkpoint) \
                 VALUES (1, ?, ?, ?, ?, ?) IF NOT EXISTS"
            ))
            .await?;
        let mut replace = cluster
            .prepare(format!(
                "UPDATE {table} SET job = ?, generation = ?, version = ?, owner = ?, checkpoint = ? \
                 WHERE only_one = 1 \
                 IF job = ? AND generation = ? AND version = ? AND owner = ?"
            ))
            .await?;
        for statement in [&mut create, &mut replace] {
            statement.set_is_idempotent(false);
            statement.set_consistency(Consistency::LocalQuorum);
            statement.set_serial_consistency(Some(SerialConsistency::LocalSerial));
            statement.set_request_timeout(Some(timeout));
        }
        let mut read = cluster
            .prepare(format!("SELECT checkpoint FROM {table} WHERE only_one = 1"))
            .await?;
        read.set_consistency(Consistency::LocalSerial);
        read.set_request_timeout(Some(timeout));
        let job = cluster
            .prepare(format!("SELECT job FROM {table} WHERE only_one = 1"))
            .await?;
        Ok(Self {
            create,
            replace,
            read,
            job,
        })
    }

    /// Reads the checkpoint, linearizably.
    pub(super) async fn read(&self, session: &Session) -> Result<Option<Checkpoint>, StoreError> {
        const DOING: &str = "reading the checkpoint";
        let text = only_text(DOING, session.execute_unpaged(&self.read, ()).await)?;
        text.as_deref().map(parse).transpose()
    }

    /// The name of the job that owns the keyspace; `None` before its first start. It never changes,
    /// so a plain quorum read is enough.
    pub(super) async fn job(&self, session: &Session) -> Result<Option<String>, StoreError> {
        only_text(
            "reading the job's name",
            session.execute_unpaged(&self.job, ()).await,
        )
    }

    /// One compare-and-set.
    pub(super) async fn compare_and_set(
        &self,
        session: &Session,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let text = match serde_json::to_string(proposed) {
            Ok(text) => text,
            // Nothing was sent. No outcome expresses that, and the caller reads the checkpoint in
            // any case.
            Err(error) => {
                return CasOutcome::Unknown(format!(
                    "the checkpoint cannot be written as JSON: {error}"
                ));
            }
        };
        let (generation, version) = (bigint(proposed.generation), bigint(proposed.version));
        let new = (
            proposed.job.as_str(),
            generation,
            version,
            proposed.owner.as_str(),
            text.as_str(),
        );
        let answer = match expected {
            None => session.execute_unpaged(&self.create, new).await,
            Some(old) => {
                let (job, generation, version, owner, checkpoint) = new;
                let values = (
                    job,
                    generation,
                    version,
                    owner,
                    checkpoint,
                    old.job.as_str(),
                    bigint(old.generation),
                    bigint(old.version),
                    old.owner.as_str(),
                );
                session.execute_unpaged(&self.replace, values).await
            }
        };
        match answer
            .map_err(|error| error.to_string())
            .and_then(was_applied)
        {
            Ok(true) => CasOutcome::Won,
            Ok(false) => CasOutcome::Lost,
            Err(reason) => CasOutcome::Unknown(reason),
        }
    }
}

/// Whether a lightweight transaction was applied: the first column of its answer.
fn was_applied(answer: QueryResult) -> Result<bool, String> {
    let rows = answer
        .into_rows_result()
        .map_err(|error| error.to_string())?;
    let row = rows.first_row::<Row>().map_err(|error| error.to_string())?;
    match row.columns.into_iter().next().flatten() {
        Some(CqlValue::Boolean(applied)) => Ok(applied),
        other => Err(format!(
            "the answer to a compare-and-set begins with {other:?}"
        )),
    }
}

fn only_text(
    doing: &str,
    answer: Result<QueryResult, ExecutionError>,
) -> Result<Option<String>, StoreError> {
    let rows = answer
        .map_err(|error| of_execution(doing, &error))?
        .into_rows_result()
        .map_err(|error| broken(format!("{doing}: {error}")))?;
    let row = rows
        .maybe_first_row::<(Option<String>,)>()
        .map_err(|error| broken(format!("{doing}: {error}")))?;
    Ok(row.and_then(|(text,)| text))
}

/// Parses a checkpoint. A newer format may have another shape, so the format is read first.
fn parse(text: &str) -> Result<Checkpoint, StoreError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let error = |error: serde_json::Error| {
        broken(format!(
            "the checkpoint in table checkpoint is damaged: {error}"
        ))
    };
    let Format { format } = serde_json::from_str(text).map_err(error)?;
    if format > CHECKPOINT_FORMAT {
        return Err(broken(format!(
            "the store's checkpoint has format {format}, this binary knows {CHECKPOINT_FORMAT}: use \
             the newer tapeflow that wrote it, or another store"
        )));
    }
    serde_json::from_str(text).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_of_a_newer_format_and_a_damaged_one_give_different_errors() {
        assert!(
            parse("{\"format\":3,\"shape\":\"unknown\"}")
                .expect_err("newer")
                .to_string()
                .contains("newer tapeflow")
        );
        for text in ["", "{}", "{\"format\":1}", "[]", "{\"format\":-1}"] {
            assert!(
                parse(text).expect_err(text).to_string().contains("damaged"),
                "{text}"
            );
        }
    }
}
