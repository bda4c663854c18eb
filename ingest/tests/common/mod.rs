//! A log in memory, and decoding of its records.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tapeflow_ingest::{IngestError, Progress, ReplayConfig, Summary, accept_replay};
use tapeflow_log::{AppendError, KnownRecording, LastSession, LogWriter, NewRecord, RecordingNote};
use tapeflow_schemas::{
    SessionId, Trade,
    codec::{self, FeedState, FeedStateHeader, Header},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Replays a recording into a log that must accept it.
pub(crate) async fn run_replay(
    config: &ReplayConfig,
    log: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let replay = accept_replay(config.clone(), log).await?;
    tapeflow_ingest::run_replay(replay, log, stop, progress).await
}

/// A log in memory. It separates durable records from records that were not flushed, and can fail
/// at a record.
#[derive(Clone, Debug)]
pub(crate) struct MemoryLog {
    partitions: u32,
    fail_after: Option<usize>,
    state: Arc<Mutex<State>>,
    /// The number of durable records; changes with every flush.
    pub(crate) flushed: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    durable: Vec<NewRecord>,
    pending: Vec<NewRecord>,
    recordings: BTreeMap<SessionId, RecordingNote>,
}

impl MemoryLog {
    pub(crate) fn new(partitions: u32) -> Self {
        Self {
            partitions,
            fail_after: None,
            state: Arc::default(),
            flushed: watch::channel(0).0,
        }
    }

    /// The same log, whose appends fail once it holds this many records in all.
    pub(crate) fn failing_after(&self, records: usize) -> Self {
        Self {
            fail_after: Some(records),
            ..self.clone()
        }
    }

    /// The durable records, in the order of appending.
    pub(crate) fn records(&self) -> Vec<NewRecord> {
        self.lock().durable.clone()
    }

    /// Waits until the durable records satisfy `enough`.
    pub(crate) async fn until(&self, enough: impl Fn(&[NewRecord]) -> bool) {
        let mut flushed = self.flushed.subscribe();
        while !enough(&self.records()) {
            let waited =
                tokio::time::timeout(std::time::Duration::from_secs(60), flushed.changed()).await;
            waited
                .expect("a flush within a minute")
                .expect("the log exists");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LogWriter for MemoryLog {
    fn partitions(&self) -> u32 {
        self.partitions
    }

    async fn last_sequences(&mut self, session: SessionId) -> Result<Vec<u64>, AppendError> {
        let mut last = vec![0; usize::try_from(self.partitions).expect("small")];
        for record in self.records() {
            let decoded = Decoded::of(&record);
            if decoded.session == session {
                last[usize::try_from(record.partition).expect("small")] = decoded.sequence;
            }
        }
        Ok(last)
    }

    async fn last_session(&mut self, producer: &str) -> Result<Option<LastSession>, AppendError> {
        let records = self.records();
        let newest = records
            .iter()
            .filter_map(|record| Some((record.session?.0, record.timestamp_ms)))
            .filter(|(session, _)| session.is_of(producer))
            .max_by_key(|(_, timestamp_ms)| *timestamp_ms);
        let Some((session, until_ms)) = newest else {
            return Ok(None);
        };
        Ok(Some(LastSession {
            session,
            last: self.last_sequences(session).await?,
            until_ms,
        }))
    }

    async fn recordings(&mut self, beginning: &str) -> Result<Vec<KnownRecording>, AppendError> {
        let known = self.lock().recordings.clone().into_iter();
        let known = known.filter(|(_, note)| note.beginning == beginning);
        Ok(known
            .map(|(session, note)| KnownRecording { session, note })
            .collect())
    }

    async fn note_recording(
        &mut self,
        session: SessionId,
        note: &RecordingNote,
    ) -> Result<(), AppendError> {
        self.lock().recordings.insert(session, note.clone());
        Ok(())
    }

    async fn append(&mut self, records: Vec<NewRecord>) -> Result<(), AppendError> {
        let mut state = self.lock();
        for record in records {
            let held = state.durable.len() + state.pending.len();
            if self.fail_after.is_some_and(|limit| held >= limit) {
                // Records that were accepted before may become durable without a flush, as in a
                // real log.
                let pending = std::mem::take(&mut state.pending);
                state.durable.extend(pending);
                return Err(AppendError("the disk is full".into()));
            }
            state.pending.push(record);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), AppendError> {
        let mut state = self.lock();
        let pending = std::mem::take(&mut state.pending);
        state.durable.extend(pending);
        let count = state.durable.len();
        drop(state);
        self.flushed.send_replace(count);
        Ok(())
    }
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) session: SessionId,
    pub(crate) sequence: u64,
    pub(crate) key: String,
    pub(crate) trades: Vec<Trade>,
    pub(crate) reason: Option<String>,
}

impl Decoded {
    pub(crate) fn of(record: &NewRecord) -> Self {
        let mut entries = Vec::new();
        let header = codec::decode(&record.payload, &mut entries).expect("our own record");
        let trades = entries
            .iter()
            .map(|entry| entry.trade.expect("admitted"))
            .collect();
        let key = record.key.clone();
        match header {
            Header::Batch {
                session, sequence, ..
            } => Self {
                session,
                sequence,
                key,
                trades,
                reason: None,
            },
            Header::InvalidFrame {
                session,
                sequence,
                reason,
                ..
            } => Self {
                session,
                sequence,
                key,
                trades,
                reason: Some(reason.to_owned()),
            },
            Header::FeedState(FeedStateHeader {
                session, sequence, ..
            }) => Self {
                session,
                sequence,
                key,
                trades,
                reason: None,
            },
            Header::Legacy => panic!("not ours"),
        }
    }
}

/// The number of trades in the records.
pub(crate) fn trades(records: &[NewRecord]) -> u64 {
    u64::try_from(
        records
            .iter()
            .map(|record| Decoded::of(record).trades.len())
            .sum::<usize>(),
    )
    .expect("small")
}

/// The number of invalid frames in the records, by reason.
pub(crate) fn reasons(records: &[NewRecord]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for reason in records
        .iter()
        .filter_map(|record| Decoded::of(record).reason)
    {
        *reasons.entry(reason).or_default() += 1;
    }
    reasons
}

/// Sequences are dense from 1 within each session and partition, in the order of appending.
pub(crate) fn check_dense(records: &[NewRecord]) {
    let mut last: BTreeMap<(SessionId, u32), u64> = BTreeMap::new();
    for record in records {
        let decoded = Decoded::of(record);
        let last = last.entry((decoded.session, record.partition)).or_default();
        *last += 1;
        assert_eq!(decoded.sequence, *last, "partition {}", record.partition);
    }
}

/// What a record says about the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) state: FeedState,
    pub(crate) cause: String,
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    pub(crate) previous: Option<SessionId>,
    pub(crate) previous_sequence: u64,
}

/// What the records of a partition say about the feed, in order.
pub(crate) fn feed_states(records: &[NewRecord], partition: u32) -> Vec<Told> {
    let mut told = Vec::new();
    for record in records
        .iter()
        .filter(|record| record.partition == partition)
    {
        let header = codec::decode(&record.payload, &mut Vec::new()).expect("our own record");
        if let Header::FeedState(said) = header {
            assert_eq!(said.producer, "simulator");
            told.push(Told {
                state: said.state,
                cause: said.cause.to_owned(),
                from_ms: said.from_ms,
                to_ms: said.to_ms,
                previous: said.previous,
                previous_sequence: said.previous_sequence,
            });
        }
    }
    told
}
