//! Offsets that brought no record, and the proof that they have none.
//!
//! In a topic that transactions write to, some offsets bring no record: a marker ends each
//! transaction, and the records of a transaction that was given up are passed over. But a record
//! that is lost leaves the same jump of offsets. So every jump is examined:
//!
//! 1. A second consumer walks through the jump. It reads the records of every transaction, also of
//!    those that were given up, and one batch at a time. The client's position moves over a marker
//!    by one. So at each offset there is a record, or the position is seen to move from it to the
//!    next, or the jump stays unexplained. A hole in the log stays unexplained: the position moves
//!    over it together with the batch behind it.
//! 2. If there are records, a third consumer reads the jump as the job does. None of them may come.
//!
//! This takes some milliseconds a jump, so a thread does it while the job reads on. What the job
//! binds waits for the proof.

use std::{
    ops::Range,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use rdkafka::error::RDKafkaErrorCode;
use tapeflow_schemas::{Offset, Partition};

use super::{
    batch::RecordError,
    one_partition::OnePartition,
    settings::{KafkaConfig, Preset, READER, WALKER},
    unreadable::is_unreadable,
};
use crate::read::LogError;

/// The most jumps that wait for their proof. Beyond them nothing is read.
const MOST_WAITING: usize = 1_024;
/// How long the brokers may send nothing before a proof fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// The wait between two polls that return nothing.
const POLL_PAUSE: Duration = Duration::from_micros(200);
/// A jump at most so many offsets behind the last one is walked to.
const NEAR: Offset = 64;
/// Without a jump for so long, the consumers read nothing.
const IDLE: Duration = Duration::from_secs(1);
/// Attempts to see the position move over a marker before the next batch arrives.
const ATTEMPTS: usize = 3;

/// Offsets that brought no record; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    pub(super) partition: Partition,
    pub(super) offsets: Range<Offset>,
}

/// The jumps of one reader.
pub(super) struct Jumps {
    config: KafkaConfig,
    most_waiting: usize,
    /// Started at the first jump: most topics have none.
    thread: Option<Thread>,
    waiting: usize,
    failed: bool,
}

struct Thread {
    jumps: Sender<Jump>,
    proofs: Receiver<Proof>,
}

impl Jumps {
    pub(super) fn new(config: KafkaConfig) -> Self {
        Self {
            config,
            most_waiting: MOST_WAITING,
            thread: None,
            waiting: 0,
            failed: false,
        }
    }

    /// Has a jump examined.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub(super) fn examine(&mut self, jump: Jump) -> Result<(), LogError> {
        self.waiting += 1;
        let thread = match &self.thread {
            Some(thread) => thread,
            None => {
                let started = start(self.config.clone(), prove_all)?;
                self.thread.insert(started)
            }
        };
        // A thread that has ended is noticed when its proofs are collected.
        let _ = thread.jumps.send(jump);
        Ok(())
    }

    /// Whether the caller may read on.
    ///
    /// # Errors
    /// Of a jump that is not proven.
    pub(super) fn has_room(&mut self) -> Result<bool, LogError> {
        self.collect()?;
        Ok(self.waiting < self.most_waiting)
    }

    /// Whether every jump so far is proven.
    ///
    /// # Errors
    /// Of a jump that is not.
    pub(super) fn are_proven(&mut self) -> Result<bool, LogError> {
        self.collect()?;
        Ok(self.waiting == 0)
    }

    fn collect(&mut self) -> Result<(), LogError> {
        let gone = || LogError::Broken("the thread that examines jumps of offsets ended".into());
        if self.failed || (self.waiting > 0 && self.thread.is_none()) {
            return Err(gone());
        }
        while let Some(thread) = self.thread.as_ref().filter(|_| self.waiting > 0) {
            match thread.proofs.try_recv() {
                Ok(Ok(())) => self.waiting -= 1,
                Ok(Err(error)) => {
                    self.failed = true;
                    return Err(error);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(gone()),
            }
        }
        Ok(())
    }
}

/// What a proof says of one jump: nothing was passed over, or why that is not known.
type Proof = Result<(), LogError>;

/// Starts the thread, which ends when its reader is gone.
fn start(
    config: KafkaConfig,
    work: fn(&KafkaConfig, &Receiver<Jump>, &Sender<Proof>),
) -> Result<Thread, LogError> {
    let ((jumps, work_jumps), (work_proofs, proofs)) = (channel(), channel());
    thread::Builder::new()
        .name("log-jumps".into())
        .spawn(move || work(&config, &work_jumps, &work_proofs))
        .map_err(|error| LogError::Broken(format!("cannot start the thread log-jumps: {error}")))?;
    Ok(Thread { jumps, proofs })
}

fn prove_all(config: &KafkaConfig, jumps: &Receiver<Jump>, proofs: &Sender<Proof>) {
    let mut consumers = None;
    loop {
        let jump = match jumps.recv_timeout(IDLE) {
            Ok(jump) => jump,
            Err(RecvTimeoutError::Timeout) => {
                if let Some((walker, reader)) = &mut consumers {
                    Look::end(walker);
                    Look::end(reader);
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if consumers.is_none() {
            let made = Look::new(config, &WALKER)
                .and_then(|walker| Ok((walker, Look::new(config, &READER)?)));
            match made {
                Ok(made) => consumers = Some(made),
                Err(error) => {
                    let _ = proofs.send(Err(error));
                    return;
                }
            }
        }
        let Some((walker, reader)) = &mut consumers else {
            return;
        };
        if proofs.send(prove(walker, reader, &jump)).is_err() {
            return;
        }
    }
}

/// A consumer that looks at one partition.
struct Look<'a> {
    consumer: OnePartition<'a>,
    /// The partition, and what is looked at next.
    place: Option<(Partition, Offset)>,
}

/// What is seen at an offset of a jump.
enum Seen {
    Record(Offset),
    /// The position, without a record since the last look.
    Position(Offset),
}

impl<'a> Look<'a> {
    fn new(config: &'a KafkaConfig, preset: &Preset) -> Result<Self, LogError> {
        Ok(Self {
            consumer: OnePartition::new(config, preset)?,
            place: None,
        })
    }

    /// Goes to the first offset of a jump: forward if it is near, because a new start takes longer
    /// than some batches.
    fn go(&mut self, jump: &Jump) -> Result<(), LogError> {
        let to = jump.offsets.start;
        if let Some((partition, mut at)) = self.place
            && partition == jump.partition
            && (at..=at + NEAR).contains(&to)
        {
            while at < to {
                at = match self.next(jump, at)? {
                    Seen::Record(offset) => at.max(offset + 1),
                    Seen::Position(position) => position,
                };
            }
            if at == to {
                return Ok(());
            }
        }
        self.begin(jump.partition, to)
    }

    fn begin(&mut self, partition: Partition, at: Offset) -> Result<(), LogError> {
        self.place = Some((partition, at));
        self.consumer.start(partition, at)
    }

    fn end(&mut self) {
        self.place = None;
        self.consumer.stop();
    }

    /// The next thing that comes of the partition, which was read up to `at`.
    fn next(&mut self, jump: &Jump, at: Offset) -> Result<Seen, LogError> {
        let begun = Instant::now();
        loop {
            let (mut record, mut failed) = (None, None);
            // Takes what is there and does not wait: behind a marker it must return before the next
            // batch arrives.
            let taken: Result<usize, LogError> = self.consumer.poll_one(|next| {
                match next {
                    Ok(next) => record = Some(next.offset),
                    Err(error) => failed = Some(error),
                }
                Ok(())
            });
            taken?;
            if let Some(error) = failed {
                self.check(jump, &error)?;
                // The client moves its position over the offset of an error as well.
                self.begin(jump.partition, at)?;
            } else if let Some(offset) = record {
                return Ok(Seen::Record(offset));
            } else {
                match self.consumer.position() {
                    Some(position) if position > at => return Ok(Seen::Position(position)),
                    _ => {}
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(LogError::Unavailable(format!(
                    "{}: the brokers send nothing",
                    self.unexplained(jump)
                )));
            }
            thread::sleep(POLL_PAUSE);
        }
    }

    /// Fails for errors that end the examination. librdkafka retries the others by itself.
    fn check(&self, jump: &Jump, error: &RecordError) -> Result<(), LogError> {
        use RDKafkaErrorCode as Code;
        match error.code {
            Code::OffsetOutOfRange
            | Code::AutoOffsetReset
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::TopicAuthorizationFailed
            | Code::Fatal => {}
            code if is_unreadable(code) => {}
            _ => return Ok(()),
        }
        Err(LogError::Broken(format!(
            "{}: {}: {}",
            self.unexplained(jump),
            error.code,
            error.text
        )))
    }

    fn unexplained(&self, Jump { partition, offsets }: &Jump) -> String {
        format!(
            "topic {} partition {partition}: offsets {} to {} brought no record, and it is not \
             proven that they have none",
            self.consumer.config().topic,
            offsets.start,
            offsets.end - 1
        )
    }
}

/// Proves that the offsets of a jump have no record for the job.
fn prove(walker: &mut Look<'_>, reader: &mut Look<'_>, jump: &Jump) -> Result<(), LogError> {
    if walk(walker, jump)? {
        read_again(reader, jump)
    } else {
        Ok(())
    }
}

/// Sees a record or a marker at each offset. Returns whether there are records.
fn walk(walker: &mut Look<'_>, jump: &Jump) -> Result<bool, LogError> {
    let (mut at, mut records) = (jump.offsets.start, false);
    let mut missed = 0;
    walker.go(jump)?;
    while at < jump.offsets.end {
        match walker.next(jump, at)? {
            // A client may return a record again.
            Seen::Record(offset) if offset < at => {}
            Seen::Record(offset) if offset == at => {
                records = true;
                at += 1;
            }
            Seen::Position(position) if position == at + 1 => at += 1,
            Seen::Record(_) | Seen::Position(_) => {
                // Either nothing is there, or a marker and the batch behind it came at once.
                missed += 1;
                if missed >= ATTEMPTS {
                    return Err(LogError::Broken(format!(
                        "{}: the log has nothing at offset {at}",
                        walker.unexplained(jump)
                    )));
                }
                walker.begin(jump.partition, at)?;
            }
        }
    }
    walker.place = Some((jump.partition, at));
    Ok(records)
}

/// Reads the jump again as the job does. A record that comes was passed over.
fn read_again(reader: &mut Look<'_>, jump: &Jump) -> Result<(), LogError> {
    let mut at = jump.offsets.start;
    reader.go(jump)?;
    while at < jump.offsets.end {
        match reader.next(jump, at)? {
            Seen::Record(offset) if jump.offsets.contains(&offset) => {
                return Err(LogError::Broken(format!(
                    "topic {} partition {}: the record at offset {offset} was passed over",
                    reader.consumer.config().topic,
                    jump.partition
                )));
            }
            // Behind the jump, or a marker inside it.
            Seen::Record(offset) if offset >= at => at = offset + 1,
            Seen::Record(_) => {}
            Seen::Position(position) => at = position,
        }
    }
    reader.place = Some((jump.partition, at));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jump(from: Offset) -> Jump {
        Jump {
            partition: 0,
            offsets: from..from + 1,
        }
    }

    /// Jumps that are proven by `work`, with room for so many.
    fn jumps(
        most_waiting: usize,
        work: fn(&KafkaConfig, &Receiver<Jump>, &Sender<Proof>),
    ) -> Jumps {
        let config = KafkaConfig::new("b:1", "t");
        Jumps {
            thread: Some(start(config.clone(), work).expect("a thread")),
            most_waiting,
            ..Jumps::new(config)
        }
    }

    /// Proves two jumps at a time, so that the first one waits for the second.
    fn pairs(_: &KafkaConfig, jumps: &Receiver<Jump>, proofs: &Sender<Proof>) {
        while let (Ok(_), Ok(_)) = (jumps.recv(), jumps.recv()) {
            let _ = (proofs.send(Ok(())), proofs.send(Ok(())));
        }
    }

    #[test]
    fn nothing_is_read_while_too_many_jumps_wait_and_nothing_is_proven_before_its_proof() {
        let mut jumps = jumps(1, pairs);
        assert_eq!(
            (jumps.has_room().ok(), jumps.are_proven().ok()),
            (Some(true), Some(true))
        );
        jumps.examine(jump(1)).expect("taken");
        assert_eq!(
            (jumps.has_room().ok(), jumps.are_proven().ok()),
            (Some(false), Some(false))
        );
        jumps.examine(jump(2)).expect("taken");
        while !jumps.are_proven().expect("proven") {
            thread::yield_now();
        }
        assert_eq!(jumps.has_room().ok(), Some(true));
    }

    #[test]
    fn an_unexplained_jump_and_an_ended_thread_are_errors_for_good() {
        let mut unexplained = jumps(9, |_, jumps, proofs| {
            let _ = (
                jumps.recv(),
                proofs.send(Err(LogError::Broken("a hole".into()))),
            );
        });
        unexplained.examine(jump(1)).expect("taken");
        let error = loop {
            if let Err(error) = unexplained.are_proven() {
                break error;
            }
        };
        assert_eq!(error.to_string(), "a hole");
        assert!(unexplained.are_proven().is_err() && unexplained.has_room().is_err());
        let mut ended = jumps(9, |_, _, _| {});
        ended.examine(jump(1)).expect("taken");
        while ended.are_proven().is_ok() {}
    }
}
