//! Requests to a leader that has just been elected. Until it knows how far its log is committed, or
//! until everyone knows that it is the leader, it refuses to say what offsets it has. Kafka's own
//! clients ask again; librdkafka does so for some requests and for some of these errors.

use std::{
    ops::Range,
    thread::sleep,
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

/// The time between two attempts: `retry.backoff.ms` of Kafka's clients.
const PAUSE: Duration = Duration::from_millis(100);

/// The first and the next offset of a partition.
pub(super) fn bounds<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
    within: Duration,
) -> Result<Range<i64>, KafkaError> {
    let (first, next) = answered(within, |left| {
        client.fetch_watermarks(topic, partition, left)
    })?;
    Ok(first..next)
}

/// Asks until the answer is not that of a leader that has just changed, or until the time is up.
/// `ask` gets the time that is left.
pub(super) fn answered<T>(
    within: Duration,
    mut ask: impl FnMut(Duration) -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    let deadline = Instant::now() + within;
    loop {
        let left = || deadline.saturating_duration_since(Instant::now());
        match ask(left()) {
            Err(error) if passes(&error) && left() > PAUSE => sleep(PAUSE),
            answer => return answer,
        }
    }
}

/// Whether an error passes when the new leader has caught up and is known: what Kafka's protocol
/// calls retriable, of the errors that follow an election.
fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::OffsetNotAvailable
                | Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::ReplicaNotAvailable
                | Code::FencedLeaderEpoch
                | Code::UnknownLeaderEpoch
                | Code::KafkaStorageError
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: RDKafkaErrorCode) -> Result<u8, KafkaError> {
        Err(KafkaError::MetadataFetch(code))
    }

    #[test]
    fn a_leader_that_has_just_been_elected_is_asked_again() {
        let mut answers = [
            failed(RDKafkaErrorCode::OffsetNotAvailable),
            failed(RDKafkaErrorCode::NotLeaderForPartition),
            Ok(7),
        ]
        .into_iter();
        let answer = answered(Duration::from_secs(60), |_| answers.next().expect("asked"));
        assert_eq!(answer, Ok(7));
        assert_eq!(answers.next(), None);
    }

    #[test]
    fn it_is_asked_no_longer_than_the_time_that_there_is() {
        let within = Duration::from_millis(250);
        let mut asked = 0;
        let answer = answered(within, |left| {
            assert!(left <= within);
            asked += 1;
            failed(RDKafkaErrorCode::OffsetNotAvailable)
        });
        assert_eq!(answer, failed(RDKafkaErrorCode::OffsetNotAvailable));
        assert!((1..=3).contains(&asked), "{asked}");
    }

    #[test]
    fn any_other_error_ends_the_request() {
        for code in [
            RDKafkaErrorCode::UnknownTopicOrPartition,
            RDKafkaErrorCode::TopicAuthorizationFailed,
            RDKafkaErrorCode::OperationTimedOut,
        ] {
            let mut asked = 0;
            let answer = answered(Duration::from_secs(60), |_| {
                asked += 1;
                failed(code)
            });
            assert_eq!((answer, asked), (failed(code), 1));
        }
    }
}
