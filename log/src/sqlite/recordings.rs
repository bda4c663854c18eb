//! The recordings that were replayed into an embedded log. The file keeps all of them for good.

use rusqlite::{Connection, params};
use tapeflow_protocol::StoreError;
use tapeflow_schemas::SessionId;

use super::{SqliteLog, sqlite_error};
use crate::recording::{KnownRecording, RecordingNote};

impl SqliteLog {
    /// The noted recordings of this beginning.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn recordings(&self, beginning: String) -> Result<Vec<KnownRecording>, StoreError> {
        self.database()
            .read_after_writes(move |connection| read(connection, &beginning))
            .await
    }

    /// Notes which recording a session is of, in place of what was noted of the session before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_recording(
        &self,
        session: SessionId,
        note: RecordingNote,
    ) -> Result<(), StoreError> {
        self.database()
            .write(0, move |connection| write(connection, session, &note))
            .await
    }
}

fn read(connection: &Connection, beginning: &str) -> Result<Vec<KnownRecording>, StoreError> {
    let mut select = connection
        .prepare_cached("SELECT session, note FROM log_recordings WHERE beginning = ?1")
        .map_err(sqlite_error)?;
    let mut rows = select.query([beginning]).map_err(sqlite_error)?;
    let mut known = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite_error)? {
        let session: String = row.get(0).map_err(sqlite_error)?;
        let note: String = row.get(1).map_err(sqlite_error)?;
        let changed = |error: &dyn std::fmt::Display| {
            StoreError::Broken(format!(
                "the note of recording {session} cannot be read ({error}): the table was changed \
                 by something else"
            ))
        };
        known.push(KnownRecording {
            session: session.parse().map_err(|error| changed(&error))?,
            note: serde_json::from_str(&note).map_err(|error| changed(&error))?,
        });
    }
    Ok(known)
}

fn write(
    connection: &Connection,
    session: SessionId,
    note: &RecordingNote,
) -> Result<(), StoreError> {
    const SET: &str = "INSERT INTO log_recordings (beginning, session, note) VALUES (?1, ?2, ?3)
        ON CONFLICT (beginning, session) DO UPDATE SET note = excluded.note";
    let text =
        serde_json::to_string(note).map_err(|error| StoreError::Broken(error.to_string()))?;
    let mut set = connection.prepare_cached(SET).map_err(sqlite_error)?;
    set.execute(params![note.beginning, session.to_string(), text])
        .map(drop)
        .map_err(sqlite_error)
}
