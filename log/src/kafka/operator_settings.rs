//! The settings of an operator's file: what they are called, and which are refused.
//!
//! Refused by name is what exactness rests on, and what loads or runs code. librdkafka knows many
//! settings under two names. Settings travel in a map without order, so of two names for one
//! setting either may win. Therefore every name is turned into the setting's own one
//! ([`canonical`]) before it is compared or used.
//!
//! The names are those of `CONFIGURATION.md` of librdkafka 2.12.

use std::{collections::BTreeMap, path::Path};

use tapeflow_schemas::Secret;

/// Second names of settings, and the setting's own name.
pub(super) const ALIASES: &[(&str, &str)] = &[
    ("bootstrap.servers", "metadata.broker.list"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("sasl.mechanism", "sasl.mechanisms"),
    (
        "sasl.oauthbearer.client.credentials.client.id",
        "sasl.oauthbearer.client.id",
    ),
    (
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.client.secret",
    ),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("linger.ms", "queue.buffering.max.ms"),
    ("retries", "message.send.max.retries"),
    ("compression.type", "compression.codec"),
    ("acks", "request.required.acks"),
    ("delivery.timeout.ms", "message.timeout.ms"),
];

/// Why a setting must not come from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A flag of the command line says it.
    Flag(&'static str),
    /// The checkpoint decides where a job resumes, and what it reads is every committed record.
    Reading,
    /// A record is appended once, in order, and never given up.
    Appending,
    /// No client of ours is a member of a group.
    Group,
    /// It would load or run code.
    Code,
    /// It is a function or an object inside a program, or changes how we follow the client.
    Internal,
}

impl Refused {
    fn why(self) -> String {
        match self {
            Self::Flag(flag) => format!("use {flag}"),
            Self::Reading => "what is read rests on it".into(),
            Self::Appending => "that each record is appended once and in order rests on it".into(),
            Self::Group => "tapeflow is a member of no group".into(),
            Self::Code => "it loads or runs code".into(),
            Self::Internal => "it is not for a file".into(),
        }
    }
}

/// Every refused setting by its own name; [`ALIASES`] has the others.
pub(super) const REFUSED: &[(&str, Refused)] = &[
    ("metadata.broker.list", Refused::Flag("--brokers")),
    // Where reading begins, and what it leaves out.
    ("auto.offset.reset", Refused::Reading),
    ("enable.auto.commit", Refused::Reading),
    ("auto.commit.enable", Refused::Reading),
    ("auto.commit.interval.ms", Refused::Reading),
    ("enable.auto.offset.store", Refused::Reading),
    ("offset.store.method", Refused::Reading),
    ("offset.store.path", Refused::Reading),
    ("offset.store.sync.interval.ms", Refused::Reading),
    ("isolation.level", Refused::Reading),
    ("check.crcs", Refused::Reading),
    ("enable.partition.eof", Refused::Reading),
    ("topic.blacklist", Refused::Reading),
    ("allow.auto.create.topics", Refused::Reading),
    // Clients that do not ask the broker what it can do fall back to a protocol without
    // transactions, idempotence and times.
    ("api.version.request", Refused::Reading),
    ("api.version.request.timeout.ms", Refused::Reading),
    ("api.version.fallback.ms", Refused::Reading),
    ("broker.version.fallback", Refused::Reading),
    // Groups.
    ("group.id", Refused::Flag("--job")),
    ("group.instance.id", Refused::Group),
    ("group.protocol", Refused::Group),
    ("group.protocol.type", Refused::Group),
    ("group.remote.assignor", Refused::Group),
    ("partition.assignment.strategy", Refused::Group),
    ("session.timeout.ms", Refused::Group),
    ("heartbeat.interval.ms", Refused::Group),
    ("max.poll.interval.ms", Refused::Group),
    ("coordinator.query.interval.ms", Refused::Group),
    // Appends.
    ("request.required.acks", Refused::Appending),
    ("enable.idempotence", Refused::Appending),
    ("enable.gapless.guarantee", Refused::Appending),
    ("message.timeout.ms", Refused::Appending),
    ("max.in.flight.requests.per.connection", Refused::Appending),
    ("message.send.max.retries", Refused::Appending),
    ("queuing.strategy", Refused::Appending),
    ("transactional.id", Refused::Appending),
    ("transaction.timeout.ms", Refused::Appending),
    ("partitioner", Refused::Appending),
    ("partitioner_cb", Refused::Appending),
    ("msg_order_cmp", Refused::Appending),
    ("delivery.report.only.error", Refused::Appending),
    ("produce.offset.report", Refused::Appending),
    // Code.
    ("plugin.library.paths", Refused::Code),
    ("interceptors", Refused::Code),
    ("ssl.engine.location", Refused::Code),
    ("ssl.engine.id", Refused::Code),
    ("ssl_engine_callback_data", Refused::Code),
    ("ssl.providers", Refused::Code),
    ("sasl.kerberos.kinit.cmd", Refused::Code),
    // A signal that the client sends to this process.
    ("internal.termination.signal", Refused::Code),
    // Functions and objects.
    ("enabled_events", Refused::Internal),
    ("error_cb", Refused::Internal),
    ("throttle_cb", Refused::Internal),
    ("stats_cb", Refused::Internal),
    ("log_cb", Refused::Internal),
    ("log.queue", Refused::Internal),
    ("background_event_cb", Refused::Internal),
    ("socket_cb", Refused::Internal),
    ("connect_cb", Refused::Internal),
    ("closesocket_cb", Refused::Internal),
    ("open_cb", Refused::Internal),
    ("resolve_cb", Refused::Internal),
    ("opaque", Refused::Internal),
    ("default_topic_conf", Refused::Internal),
    ("ssl.certificate.verify_cb", Refused::Internal),
    ("oauthbearer_token_refresh_cb", Refused::Internal),
    ("consume_cb", Refused::Internal),
    ("rebalance_cb", Refused::Internal),
    ("offset_commit_cb", Refused::Internal),
    ("dr_cb", Refused::Internal),
];

/// The one name under which a setting is compared and used.
pub(super) fn canonical(name: &str) -> &str {
    // librdkafka ignores this prefix of topic settings. Some settings of clients begin so too.
    let own = [
        "topic.metadata.refresh.",
        "topic.metadata.propagation.",
        "topic.blacklist",
    ];
    let name = match name.strip_prefix("topic.") {
        Some(rest) if !own.iter().any(|own| name.starts_with(own)) => rest,
        _ => name,
    };
    ALIASES
        .iter()
        .find(|(alias, _)| *alias == name)
        .map_or(name, |(_, own)| own)
}

/// Why a setting must not come from a file; `None` if it may.
fn refused(name: &str) -> Option<Refused> {
    let own = canonical(name);
    REFUSED
        .iter()
        .find(|(refused, _)| *refused == own)
        .map(|(_, why)| *why)
        // A callback of a later librdkafka.
        .or_else(|| own.ends_with("_cb").then_some(Refused::Internal))
}

/// Reads settings from a file: one `key=value` a line. Empty lines and lines that begin with `#`
/// are skipped.
///
/// # Errors
/// A text that names the file, the line and the setting, and never a value: for a line that is not
/// `key=value`, a refused setting, and a setting that comes twice, under whichever name.
pub(super) fn read(file: &Path) -> Result<Vec<(String, Secret)>, String> {
    let name = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("cannot read {name}: {error}"))?;
    let (mut settings, mut lines) = (Vec::new(), BTreeMap::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line
            .split_once('=')
            .map(|(key, value)| (key.trim(), value.trim()))
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| format!("{name} line {number} is not key=value"))?;
        if let Some(why) = refused(key) {
            let why = why.why();
            return Err(format!("{name} line {number}: {key} cannot be set: {why}"));
        }
        if let Some(before) = lines.insert(canonical(key).to_owned(), number) {
            return Err(format!(
                "{name} line {number}: {key} is set on line {before} already"
            ));
        }
        settings.push((key.to_owned(), Secret::new(value)));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use rdkafka::{ClientConfig, error::KafkaError};

    use super::*;

    fn read_text(text: &str) -> Result<Vec<(String, Secret)>, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        read(file.path())
    }

    /// Whether the library knows a setting, whatever it thinks of the value.
    fn is_known(name: &str) -> bool {
        let mut client = ClientConfig::new();
        client.set(name, "-");
        client
            .create_native_config()
            .err()
            .is_none_or(|error| !error.to_string().contains("No such configuration property"))
    }

    #[test]
    fn settings_are_lines_of_key_and_value_and_errors_do_not_show_values() {
        let read =
            read_text("# tls\nsecurity.protocol = SASL_SSL\n\nsasl.password=a=b\n").expect("two");
        assert_eq!(
            read,
            [
                ("security.protocol".into(), Secret::new("SASL_SSL")),
                ("sasl.password".into(), Secret::new("a=b"))
            ]
        );
        let error = read_text("hunter2").expect_err("no key");
        assert!(
            error.contains("line 1") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn every_setting_that_exactness_rests_on_or_that_loads_code_is_refused_by_name() {
        let own = REFUSED.iter().map(|(name, _)| *name);
        let aliases = ALIASES
            .iter()
            .filter(|(_, own)| REFUSED.iter().any(|(name, _)| name == own))
            .map(|(alias, _)| *alias);
        let names: Vec<&str> = own.chain(aliases).collect();
        for expected in [
            "acks",
            "auto.commit.enable",
            "bootstrap.servers",
            "delivery.timeout.ms",
            "max.in.flight",
            "retries",
            "ssl.engine.id",
        ] {
            assert!(names.contains(&expected), "{expected}");
        }
        for name in names {
            assert!(is_known(name), "the library has no setting {name}");
            for key in [name.to_owned(), format!("topic.{name}")] {
                if key == "topic.topic.blacklist" {
                    continue;
                }
                let error =
                    read_text(&format!("linger.ms=3\n{key} = hunter2\n")).expect_err("refused");
                assert!(
                    error.contains("line 2") && error.contains(&format!("{key} cannot be set: ")),
                    "{error}"
                );
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
        let error = read_text("dr_msg_cb=x").expect_err("a callback");
        assert!(error.contains("dr_msg_cb"), "{error}");
    }

    #[test]
    fn what_an_operator_needs_is_left_to_the_operator() {
        for key in [
            "security.protocol",
            "sasl.mechanism",
            "ssl.ca.location",
            "client.id",
            "client.rack",
            "receive.message.max.bytes",
            "fetch.message.max.bytes",
            "linger.ms",
            "compression.type",
            "topic.compression.type",
            "topic.metadata.refresh.interval.ms",
            "message.max.bytes",
            "socket.timeout.ms",
            "debug",
        ] {
            assert_eq!(
                read_text(&format!("{key}=1")),
                Ok(vec![(key.to_owned(), Secret::new("1"))])
            );
        }
    }

    #[test]
    fn a_second_value_of_a_setting_is_refused_whatever_its_name() {
        for (first, second) in [
            ("linger.ms", "queue.buffering.max.ms"),
            ("sasl.mechanisms", "sasl.mechanism"),
            ("client.id", "client.id"),
            ("compression.type", "topic.compression.codec"),
        ] {
            let error = read_text(&format!("{first}=1\n{second}=2")).expect_err(second);
            assert!(
                error.contains(&format!("line 2: {second} is set on line 1 already")),
                "{error}"
            );
        }
    }

    #[test]
    fn the_library_takes_an_alias_for_the_setting_that_it_stands_for() {
        for (alias, own) in ALIASES {
            let with = |value: &str| {
                let mut client = ClientConfig::new();
                client.set(*alias, value);
                client.create_native_config()
            };
            let left_out = |error: KafkaError| error.to_string().contains("not supported in this");
            if with("2").err().is_some_and(left_out) {
                continue;
            }
            let (value, native) = ["2", "none"]
                .into_iter()
                .find_map(|value| with(value).ok().map(|native| (value, native)))
                .unwrap_or_else(|| panic!("{alias} takes no value"));
            assert_eq!(
                native.get(own).as_deref(),
                Ok(value),
                "{alias} is not {own}"
            );
        }
    }
}
