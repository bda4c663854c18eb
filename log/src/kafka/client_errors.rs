//! Why a request to the brokers failed. librdkafka answers that the time is up. The reason (a
//! refused password, an untrusted certificate, a closed connection) comes in events and log lines
//! of the client, which this context collects.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, RDKafkaErrorCode},
};

/// Events that one call collects. They come at a few a second, and the first are the most useful.
const MAX_EVENTS: usize = 256;

/// The errors of a client's connections since the last [`reset`].
#[derive(Default)]
pub(super) struct ClientErrors(Mutex<Collected>);

#[derive(Default)]
struct Collected {
    reason: Option<ConnectionError>,
    /// The client has tried every broker.
    all_down: bool,
}

/// Why a connection failed, in librdkafka's words. These hold no value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConnectionError {
    /// Credentials or certificates are refused: waiting does not help.
    Refused(String),
    /// Any other error.
    Failed(String),
}

/// Collects the events that wait. Only for clients that read nothing: a record would be lost here.
pub(super) fn collect(client: &BaseConsumer<ClientErrors>) {
    // A poll handles one event at most. It answers the same for a log line and for no event.
    for _ in 0..MAX_EVENTS {
        let _ = client.poll(Duration::ZERO);
    }
}

/// Drops what was collected: before a new request, whose error has a reason of its own.
pub(super) fn reset(client: &BaseConsumer<ClientErrors>) {
    collect(client);
    *client.context().lock() = Collected::default();
}

impl ClientErrors {
    /// The most useful reason: a refusal if there was one, and the latest error otherwise.
    pub(super) fn reason(&self) -> Option<ConnectionError> {
        self.lock().reason.clone()
    }

    /// Whether every broker was tried and one refused us.
    pub(super) fn is_hopeless(&self) -> bool {
        let collected = self.lock();
        collected.all_down && matches!(collected.reason, Some(ConnectionError::Refused(_)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Collected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for ClientErrors {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(?level, facility, text, "librdkafka");
        // The line begins with the name of a thread.
        let text = text.split_once("]: ").map_or(text, |(_, text)| text);
        let mut collected = self.lock();
        if facility == "FAIL" && !matches!(collected.reason, Some(ConnectionError::Refused(_))) {
            collected.reason = Some(ConnectionError::Failed(text.to_owned()));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        let mut collected = self.lock();
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => collected.all_down = true,
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => {
                collected.reason = Some(ConnectionError::Refused(reason.to_owned()))
            }
            _ if matches!(collected.reason, Some(ConnectionError::Refused(_))) => {}
            _ => collected.reason = Some(ConnectionError::Failed(reason.to_owned())),
        }
    }
}

impl ConsumerContext for ClientErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errors: &ClientErrors, code: RDKafkaErrorCode, reason: &str) {
        errors.error(KafkaError::Global(code), reason);
    }

    #[test]
    fn a_refusal_outlasts_the_errors_that_follow_from_it() {
        let errors = ClientErrors::default();
        assert_eq!(errors.reason(), None);
        errors.log(
            RDKafkaLogLevel::Info,
            "FAIL",
            "[thrd:b/1]: b/1: Disconnected: verify security.protocol",
        );
        assert_eq!(
            errors.reason(),
            Some(ConnectionError::Failed(
                "b/1: Disconnected: verify security.protocol".into()
            ))
        );
        error(
            &errors,
            RDKafkaErrorCode::Authentication,
            "invalid credentials",
        );
        assert!(!errors.is_hopeless(), "another broker may accept us");
        error(
            &errors,
            RDKafkaErrorCode::BrokerTransportFailure,
            "disconnected",
        );
        errors.log(RDKafkaLogLevel::Error, "FAIL", "disconnected");
        error(
            &errors,
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
        );
        assert_eq!(
            errors.reason(),
            Some(ConnectionError::Refused("invalid credentials".into()))
        );
        assert!(errors.is_hopeless());
    }

    #[test]
    fn brokers_that_are_only_down_may_come_back() {
        let errors = ClientErrors::default();
        error(
            &errors,
            RDKafkaErrorCode::BrokerTransportFailure,
            "connection refused",
        );
        error(
            &errors,
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
        );
        assert_eq!(
            errors.reason(),
            Some(ConnectionError::Failed("connection refused".into()))
        );
        assert!(!errors.is_hopeless());
    }
}
