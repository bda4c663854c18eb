//! Errors of the Kafka client in words: what happened, at which brokers, what to do. No text holds
//! the value of a setting that may be secret.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{
    client_errors::{ClientErrors, ConnectionError},
    settings::KafkaConfig,
};
use crate::read::LogError;

/// Parts of the names of settings whose values are secret.
const SECRET_KEYS: [&str; 6] = ["password", "passphrase", "secret", "pem", "token", "jaas"];

/// An error of a request, for which the client's connections gave no further reason.
pub(super) fn request(config: &KafkaConfig, error: &KafkaError) -> LogError {
    explain(config, error, None)
}

/// An error of a request, with the reason that the connections of the client gave.
pub(super) fn request_of(
    config: &KafkaConfig,
    error: &KafkaError,
    errors: &ClientErrors,
) -> LogError {
    explain(config, error, errors.reason())
}

fn explain(config: &KafkaConfig, error: &KafkaError, reason: Option<ConnectionError>) -> LogError {
    use RDKafkaErrorCode as Code;
    let (brokers, topic) = (&config.brokers, &config.topic);
    let broken = |text: String| LogError::Broken(scrub(config, &text));
    let unavailable = |text: String| LogError::Unavailable(scrub(config, &text));
    if let KafkaError::ClientConfig(..) = error {
        return not_created(config, error);
    }
    match (error.rdkafka_error_code(), reason) {
        (Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition), _) => {
            no_topic(config)
        }
        (
            Some(
                code @ (Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::Authentication
                | Code::SaslAuthenticationFailed),
            ),
            _,
        ) => broken(format!(
            "kafka at {brokers} refuses us: {code}; see --kafka-config-file"
        )),
        (Some(Code::MessageSizeTooLarge), _) => broken(format!(
            "kafka at {brokers} refuses a record as too large: \
             raise max.message.bytes of topic {topic:?} to its default of 1 MB"
        )),
        (_, Some(ConnectionError::Refused(reason))) => broken(format!(
            "kafka at {brokers} refuses us or is not trusted: {reason}; see --kafka-config-file"
        )),
        (_, Some(ConnectionError::Failed(reason))) if reason.contains("Disconnected") => {
            unavailable(format!(
                "kafka at {brokers} ends the connection: {reason}; \
                 if it asks for TLS or a password, see security.protocol in --kafka-config-file"
            ))
        }
        (_, Some(ConnectionError::Failed(reason))) => unavailable(format!(
            "kafka at {brokers}: {error}: {reason}; see --brokers"
        )),
        (_, None) => unavailable(format!("kafka at {brokers}: {error}; see --brokers")),
    }
}

/// The brokers do not know the topic.
pub(super) fn no_topic(config: &KafkaConfig) -> LogError {
    LogError::Broken(format!(
        "there is no topic {:?} at {}: run `tapeflow init`, or see --topic",
        config.topic, config.brokers
    ))
}

/// A client that could not be created. The library's own text quotes the value of the setting.
pub(super) fn not_created(config: &KafkaConfig, error: &KafkaError) -> LogError {
    LogError::Broken(match error {
        KafkaError::ClientConfig(_, reason, key, value) => {
            let reason = if value.is_empty() {
                reason.clone()
            } else {
                reason.replace(value, "***")
            };
            format!("kafka setting {key}: {reason}")
        }
        other => match unreadable_file(config) {
            Some(file) => format!("kafka setting {file}"),
            None => scrub(config, &format!("cannot create a kafka client: {other}")),
        },
    })
}

/// The first setting whose file cannot be read: librdkafka names neither the file nor the reason.
fn unreadable_file(config: &KafkaConfig) -> Option<String> {
    let mut files = config
        .settings
        .iter()
        .filter(|(key, _)| key.starts_with("ssl.") && key.ends_with(".location"));
    files.find_map(|(key, file)| {
        let file = file.expose();
        std::fs::File::open(file)
            .err()
            .map(|error| format!("{key}: cannot read {file}: {error}"))
    })
}

/// The text without the values of secret settings.
fn scrub(config: &KafkaConfig, text: &str) -> String {
    config
        .settings
        .iter()
        .filter(|(key, _)| SECRET_KEYS.iter().any(|part| key.contains(part)))
        .fold(text.to_owned(), |text, (_, value)| value.scrub(&text))
}
