//! The checkpoint: one row that only lightweight transactions write.
//!
//! Only an answer "applied" or "not applied" decides the outcome. Anything else, an error of the
//! server or of the driver included, leaves it unknown: a later transaction may still complete a
//! proposal that a replica has accepted. An error that no retry corrects is a refusal.

use std::time::Duration;

use scylla::{
    client::session::Session,
    errors::ExecutionError,
    response::query_result::QueryResult,
    statement::{Consistency, SerialConsistency, prepared::PreparedStatement},
    value::{CqlValue, Row},
};
use tapeflow_protocol::{CasOutcome, Checkpoint, StoreError};

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
        text.as_deref()
            .map(Checkpoint::from_text)
            .transpose()
            .map_err(|error| broken(error.to_string()))
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
        let text = match proposed.to_text() {
            Ok(text) => text,
            Err(error) => return CasOutcome::Refused(error.to_string()),
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
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                return match of_execution("replacing the checkpoint", &error) {
                    StoreError::Broken(reason) => CasOutcome::Refused(reason),
                    StoreError::Unavailable(reason) => CasOutcome::Unknown(reason),
                };
            }
        };
        match was_applied(answer) {
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
