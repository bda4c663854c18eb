//! Access with valid and invalid credentials.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tapeflow_log::{Log, LogError, kafka::KafkaConfig};
use tapeflow_schemas::Secret;

use super::{KAFKA_PORT, config, connect, internal, make, ours, refusal};

/// A wrong password. No text may contain it.
const WRONG: &str = "hunter2-is-secret";

pub(crate) fn everything_right() -> Result<(), Failed> {
    make("read", &[])?;
    let producer: BaseProducer = internal().create()?;
    for partition in [0, 1] {
        producer
            .send(
                BaseRecord::<(), _>::to("read")
                    .partition(partition)
                    .payload("a record"),
            )
            .map_err(|(error, _)| error)?;
    }
    producer.flush(Duration::from_secs(30))?;
    let log = connect(&ours("read"))?;
    assert_eq!(
        (log.partitions()?, log.bounds(0)?, log.bounds(1)?),
        (2, 0..1, 0..1)
    );
    let mut reader = log.reader(&[(0, 0), (1, 0)])?;
    let (mut read, begun) = (Vec::new(), Instant::now());
    while read.len() < 2 && begun.elapsed() < Duration::from_secs(30) {
        reader.poll(10, &mut |record| {
            read.push((record.partition, record.payload.map(<[u8]>::to_vec)))
        })?;
    }
    read.sort();
    assert_eq!(
        read,
        [
            (0, Some(b"a record".to_vec())),
            (1, Some(b"a record".to_vec()))
        ]
    );
    Ok(())
}

pub(crate) fn wrong_password() -> Result<(), Failed> {
    for user in ["tapeflow", "unknown-user"] {
        refused(
            config("read", user, WRONG, "ca.pem"),
            true,
            &["SASL authentication error", "--kafka-config-file"],
        )?;
    }
    Ok(())
}

pub(crate) fn wrong_authority() -> Result<(), Failed> {
    refused(
        config("read", "tapeflow", WRONG, "unknown_peer.pem"),
        true,
        &["certificate verify failed", "--kafka-config-file"],
    )?;
    // The certificate is valid for `localhost` only.
    let mut other_name = config("read", "tapeflow", WRONG, "ca.pem");
    other_name.brokers = format!("127.0.0.1:{KAFKA_PORT}");
    refused(
        other_name,
        true,
        &["certificate verify failed", "--kafka-config-file"],
    )?;
    refused(
        config("read", "tapeflow", WRONG, "missing.pem"),
        true,
        &["missing.pem"],
    )
}

pub(crate) fn no_tls() -> Result<(), Failed> {
    let mut plain = config("read", "tapeflow", WRONG, "ca.pem");
    plain.settings[0].1 = Secret::new("SASL_PLAINTEXT");
    refused(plain, false, &["security.protocol", "--kafka-config-file"])
}

/// Checks that a connection fails, permanently or not, and that its text contains all parts and no
/// secret.
fn refused(config: KafkaConfig, for_good: bool, parts: &[&str]) -> Result<(), Failed> {
    assert!(
        !format!("{config:?}").contains(WRONG),
        "a configuration shows its password"
    );
    let error = refusal(config)?;
    let text = format!("{error} {error:?}");
    if matches!(error, LogError::Broken(_)) != for_good {
        return Err(format!("permanent: {for_good} expected: {text}").into());
    }
    if text.contains(WRONG) {
        return Err(format!("a secret is shown: {text}").into());
    }
    match parts.iter().find(|part| !text.contains(*part)) {
        Some(part) => Err(format!("{part:?} is not in: {text}").into()),
        None => Ok(()),
    }
}
