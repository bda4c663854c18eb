//! What a writer must search to know what of a session the topic holds already, and which
//! recordings it finds noted.

use std::time::Instant;

use libtest_mimic::Failed;
use tapeflow_log::{
    KnownRecording, LogWriter, NewRecord, RecordingNote,
    kafka::{KafkaWriter, admin as topics},
};
use tapeflow_schemas::{
    SessionId,
    codec::{InvalidFrameHeader, encode_invalid_frame},
};

use super::{block_on, delete, open_to_all, topics::until};

const TOPIC: &str = "replays";
const INDEX: &str = "replays-sessions";
/// Records of a first session: more than a search reads at once.
const MANY: u64 = 20_000;

fn record(session: SessionId, sequence: u64) -> NewRecord {
    let mut payload = Vec::new();
    let header = InvalidFrameHeader {
        session,
        sequence,
        taken_ms: 1_700_000_000_000,
        line: sequence,
        reason: "json",
        detail: "",
        frame: b"",
    };
    encode_invalid_frame(&mut payload, &header);
    NewRecord {
        partition: u32::try_from(sequence % 2).expect("one of two"),
        key: String::new(),
        timestamp_ms: 1_700_000_000_000,
        payload,
        session: Some((session, sequence)),
    }
}

/// What a new writer finds of a session: the last sequences, and how many records it read.
fn found(session: SessionId) -> Result<(Vec<u64>, u64), Failed> {
    let (_, last, searched) = writer(session)?;
    Ok((last, searched))
}

fn writer(session: SessionId) -> Result<(KafkaWriter, Vec<u64>, u64), Failed> {
    block_on(async {
        let mut writer = KafkaWriter::connect(open_to_all(TOPIC)).await?;
        let last = writer.last_sequences(session).await?;
        let searched = writer.searched();
        Ok((writer, last, searched))
    })
}

pub(crate) fn search() -> Result<(), Failed> {
    block_on(topics::make_topic(&open_to_all(TOPIC), 2, Some(1)))?;
    let [first, second, third] = [1, 2, 3].map(|n| SessionId([n; 16]));
    let (mut ours, last, searched) = writer(first)?;
    assert_eq!((last, searched), (vec![0, 0], 0), "an empty topic");
    block_on(async {
        ours.append((1..=MANY).map(|sequence| record(first, sequence)).collect())
            .await?;
        ours.note_sequences(first).await
    })?;
    let begun = Instant::now();
    assert_eq!(
        found(second)?,
        (vec![0, 0], 0),
        "a new session: nothing is searched"
    );
    eprintln!(
        "a new session behind {MANY} records: {} ms",
        begun.elapsed().as_millis()
    );
    assert_eq!(
        found(first)?,
        (vec![MANY, MANY - 1], 0),
        "a finished one too"
    );

    // A writer that dies before it notes anything.
    let (mut dying, ..) = writer(second)?;
    block_on(async {
        dying
            .append((1..=9).map(|sequence| record(second, sequence)).collect())
            .await?;
        dying.flush().await
    })?;
    drop(dying);
    let (last, searched) = found(second)?;
    assert_eq!(last, [8, 9]);
    assert!(
        searched <= 9,
        "{searched} records: only what came after its start"
    );

    // Without the index every record is searched, and the index is made again.
    delete(INDEX)?;
    until("the index is gone and made again", || {
        let (last, searched) = found(third)?;
        assert_eq!(last, [0, 0]);
        Ok(searched >= MANY)
    })?;
    assert_eq!(found(third)?, (vec![0, 0], 0));
    assert_eq!(
        found(first)?.0,
        [MANY, MANY - 1],
        "below the offsets of the new index"
    );
    assert_eq!(found(second)?.0, [8, 9]);

    // Another topic of the same name holds nothing, whatever the index says.
    delete(TOPIC)?;
    until("the topic is made again", || {
        Ok(
            block_on(topics::make_topic(&open_to_all(TOPIC), 2, Some(1)))
                .is_ok_and(|report| report.created),
        )
    })?;
    until("the writer knows the new topic", || {
        Ok(found(first).is_ok_and(|(last, _)| last == [0, 0]))
    })
}

const NOTES: &str = "recordings";

/// The recordings of a beginning that a new writer finds.
fn noted(beginning: &str) -> Result<Vec<KnownRecording>, Failed> {
    block_on(async {
        let mut writer = KafkaWriter::connect(open_to_all(NOTES)).await?;
        Ok(writer.recordings(beginning).await?)
    })
}

pub(crate) fn notes() -> Result<(), Failed> {
    block_on(topics::make_topic(&open_to_all(NOTES), 2, Some(1)))?;
    let note = |beginning: &str, frames| RecordingNote {
        beginning: beginning.to_owned(),
        frames,
        content: format!("{frames} frames"),
        prefixes: vec![u64::MAX, frames],
    };
    let known = |session, note| KnownRecording { session, note };
    let [first, second, third] = [1, 2, 3].map(|n| SessionId([n; 16]));
    assert_eq!(noted("a")?, []);
    block_on(async {
        let mut writer = KafkaWriter::connect(open_to_all(NOTES)).await?;
        for (session, note) in [(first, note("a", 5)), (second, note("b", 7))] {
            writer.last_sequences(session).await?;
            writer.note_recording(session, &note).await?;
        }
        // Not of a recording.
        writer.last_sequences(third).await
    })?;
    assert_eq!(noted("a")?, [known(first, note("a", 5))]);
    // It grows: the newest note is in force.
    block_on(async {
        let mut writer = KafkaWriter::connect(open_to_all(NOTES)).await?;
        writer.last_sequences(first).await?;
        writer.note_recording(first, &note("a", 6)).await?;
        writer.append(vec![record(first, 1)]).await?;
        writer.flush().await
    })?;
    // A later note of its sequences keeps it.
    block_on(async {
        let mut writer = KafkaWriter::connect(open_to_all(NOTES)).await?;
        assert_eq!(writer.last_sequences(first).await?, [0, 1]);
        writer.note_sequences(first).await
    })?;
    assert_eq!(noted("a")?, [known(first, note("a", 6))]);
    assert_eq!(noted("b")?, [known(second, note("b", 7))]);
    assert_eq!(noted("c")?, []);

    // Another topic of the same name has none of them.
    delete(NOTES)?;
    until("the topic is made again", || {
        Ok(
            block_on(topics::make_topic(&open_to_all(NOTES), 2, Some(1)))
                .is_ok_and(|report| report.created),
        )
    })?;
    until("the writer knows the new topic", || {
        Ok(noted("a").is_ok_and(|known| known.is_empty()))
    })
}
