//! Why a question to the brokers failed. librdkafka's answer is that the time is up; what happened
//! meanwhile (a refused password, a certificate nobody trusts, a connection that was closed) it
//! tells to whoever polls the client, in events and log lines.

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

/// Events one listens to at a time. They come at a few a second, and the first of them say most.
const EVENTS: usize = 256;

/// What a client's connections have come to since it was last forgotten.
#[derive(Default)]
pub(super) struct ClientErrors(Mutex<Told>);

#[derive(Default)]
struct Told {
    why: Option<Why>,
    /// No broker is left to try.
    all_down: bool,
}

/// Why, in librdkafka's words, which hold no setting's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Credentials or certificates: waiting does not mend it.
    Refused(String),
    /// Anything else.
    Failed(String),
}

/// Takes in what the client has to tell. Only for clients that read nothing: a record would be lost
/// here.
pub(super) fn hear(client: &BaseConsumer<ClientErrors>) {
    // A poll handles one event at most, and answers for a log line as it does for no event at all.
    for _ in 0..EVENTS {
        let _ = client.poll(Duration::ZERO);
    }
}

/// Before a new question: what went wrong earlier is not why this one fails.
pub(super) fn forget(client: &BaseConsumer<ClientErrors>) {
    hear(client);
    *client.context().told() = Told::default();
}

impl ClientErrors {
    /// The reason that tells most: that we are refused, or else what came last.
    pub(super) fn why(&self) -> Option<Why> {
        self.told().why.clone()
    }

    /// Refused, and by no error of a single broker.
    pub(super) fn is_hopeless(&self) -> bool {
        let told = self.told();
        told.all_down && matches!(told.why, Some(Why::Refused(_)))
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for ClientErrors {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(?level, facility, text, "librdkafka");
        // The line begins with the name of a thread.
        let text = text.split_once("]: ").map_or(text, |(_, text)| text);
        let mut told = self.told();
        if facility == "FAIL" && !matches!(told.why, Some(Why::Refused(_))) {
            told.why = Some(Why::Failed(text.to_owned()));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        let mut told = self.told();
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown) => told.all_down = true,
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => {
                told.why = Some(Why::Refused(reason.to_owned()))
            }
            _ if matches!(told.why, Some(Why::Refused(_))) => {}
            _ => told.why = Some(Why::Failed(reason.to_owned())),
        }
    }
}

impl ConsumerContext for ClientErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(trouble: &ClientErrors, code: RDKafkaErrorCode, reason: &str) {
        trouble.error(KafkaError::Global(code), reason);
    }

    #[test]
    fn that_we_are_refused_tells_more_than_what_follows_from_it() {
        let trouble = ClientErrors::default();
        assert_eq!(trouble.why(), None);
        trouble.log(
            RDKafkaLogLevel::Info,
            "FAIL",
            "[thrd:b/1]: b/1: Disconnected: verify security.protocol",
        );
        assert_eq!(
            trouble.why(),
            Some(Why::Failed(
                "b/1: Disconnected: verify security.protocol".into()
            ))
        );
        error(
            &trouble,
            RDKafkaErrorCode::Authentication,
            "invalid credentials",
        );
        assert!(!trouble.is_hopeless(), "another broker may take us");
        error(
            &trouble,
            RDKafkaErrorCode::BrokerTransportFailure,
            "disconnected",
        );
        trouble.log(RDKafkaLogLevel::Error, "FAIL", "disconnected");
        error(
            &trouble,
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
        );
        assert_eq!(
            trouble.why(),
            Some(Why::Refused("invalid credentials".into()))
        );
        assert!(trouble.is_hopeless());
    }

    #[test]
    fn brokers_that_are_only_down_may_come_back() {
        let trouble = ClientErrors::default();
        error(
            &trouble,
            RDKafkaErrorCode::BrokerTransportFailure,
            "connection refused",
        );
        error(
            &trouble,
            RDKafkaErrorCode::AllBrokersDown,
            "1/1 brokers are down",
        );
        assert_eq!(
            trouble.why(),
            Some(Why::Failed("connection refused".into()))
        );
        assert!(!trouble.is_hopeless());
    }
}
