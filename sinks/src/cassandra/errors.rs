//! Classifies the driver's errors by one question: may the same call succeed later?

use scylla::errors::{
    BrokenConnectionErrorKind, ConnectionError, ConnectionPoolError,
    ConnectionSetupRequestErrorKind, DbError, ExecutionError, FrameHeaderParseError, MetadataError,
    NewSessionError, NextPageError, NextRowError, PagerExecutionError, PrepareError,
    RequestAttemptError, RequestError,
};
use tapeflow_protocol::StoreError;

use super::config::CassandraConfig;

/// An error that no retry corrects, found by us and not by the driver.
pub(super) fn broken(what: impl Into<String>) -> StoreError {
    StoreError::Broken(what.into())
}

/// The error of a statement that was sent once.
pub(super) fn of_execution(doing: &str, error: &ExecutionError) -> StoreError {
    let lasting = match error {
        ExecutionError::BadQuery(_) | ExecutionError::UseKeyspaceError(_) => true,
        ExecutionError::PrepareError(error) => prepare_lasts(error),
        ExecutionError::LastAttemptError(error) => attempt_lasts(error),
        _ => false,
    };
    sorted(lasting, doing, error)
}

/// The error of a statement whose answer comes in pages.
pub(super) fn of_pager(doing: &str, error: &PagerExecutionError) -> StoreError {
    let lasting = match error {
        PagerExecutionError::SerializationError(_) | PagerExecutionError::UseKeyspaceError(_) => {
            true
        }
        PagerExecutionError::PrepareError(error) => prepare_lasts(error),
        PagerExecutionError::NextPageError(error) => page_lasts(error),
        _ => false,
    };
    sorted(lasting, doing, error)
}

/// The error of a page after the first.
pub(super) fn of_row(doing: &str, error: &NextRowError) -> StoreError {
    let lasting = match error {
        NextRowError::NextPageError(error) => page_lasts(error),
        _ => true,
    };
    sorted(lasting, doing, error)
}

/// The error of preparing a statement. A missing table or column shows here.
pub(super) fn of_prepare(doing: &str, error: &PrepareError) -> StoreError {
    sorted(prepare_lasts(error), doing, error)
}

/// The error of opening a session. No text has a password or the content of a file.
pub(super) fn of_connecting(config: &CassandraConfig, error: &NewSessionError) -> StoreError {
    let hosts = config.hosts.join(", ");
    match error {
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(
            ConnectionPoolError::Broken {
                last_connection_error,
            },
        )) => {
            match last_connection_error {
                ConnectionError::ConnectionSetupRequestError(setup)
                    if refuses_credentials(&setup.error) =>
                {
                    broken(format!(
                        "Cassandra at {hosts} refuses user or password: {}",
                        setup.error
                    ))
                }
                other => match (&config.tls, tls_error(other)) {
                    (Some(_), Some(error)) => {
                        broken(format!("Cassandra at {hosts}: {}", of_tls(error)))
                    }
                    // A node that expects TLS closes the connection, or answers something that is
                    // not CQL.
                    (None, _) if hangs_up(other) => StoreError::Unavailable(format!(
                        "Cassandra at {hosts} ends the connection ({other}); if it asks for TLS, use --cassandra-tls"
                    )),
                    // The driver may notice the closed connection before it reads the TLS alert.
                    (Some(_), None) if hangs_up(other) => StoreError::Unavailable(format!(
                        "Cassandra at {hosts} ends the connection ({other}); if it asks for a certificate of ours, see --cassandra-cert-file"
                    )),
                    _ => StoreError::Unavailable(format!("Cassandra at {hosts}: {other}")),
                },
            }
        }
        NewSessionError::FailedToResolveAnyHostname(_) => {
            StoreError::Unavailable(format!("no address is known for {hosts}"))
        }
        NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_) => {
            broken(error.to_string())
        }
        other => StoreError::Unavailable(format!("Cassandra at {hosts}: {other}")),
    }
}

/// The TLS error, from the handshake or from the first request: a node that rejects our certificate
/// says so only then.
fn tls_error(error: &ConnectionError) -> Option<&rustls::Error> {
    let broken = match error {
        ConnectionError::IoError(error) => return error.get_ref()?.downcast_ref(),
        ConnectionError::BrokenConnection(broken) => broken,
        ConnectionError::ConnectionSetupRequestError(setup) => match &setup.error {
            ConnectionSetupRequestErrorKind::BrokenConnection(broken) => broken,
            _ => return None,
        },
        _ => return None,
    };
    match broken.downcast_ref()? {
        BrokenConnectionErrorKind::FrameHeaderParseError(FrameHeaderParseError::HeaderIoError(
            error,
        ))
        | BrokenConnectionErrorKind::WriteError(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// The text of a TLS error, with what to do.
fn of_tls(error: &rustls::Error) -> String {
    use rustls::{CertificateError as Reason, Error};
    match error {
        Error::InvalidCertificate(
            Reason::NotValidForName | Reason::NotValidForNameContext { .. },
        ) => format!(
            "a node's certificate names neither its address nor a host of --store ({error}): name it there as its certificate does, or give it another certificate"
        ),
        Error::InvalidCertificate(_) => {
            format!("a node's certificate is not trusted ({error}); see --cassandra-ca-file")
        }
        Error::AlertReceived(_) => format!(
            "a node refuses us over TLS ({error}); see --cassandra-cert-file and --cassandra-key-file"
        ),
        Error::InvalidMessage(_) => {
            format!("a node does not speak TLS ({error}); see --cassandra-tls")
        }
        _ => format!("no TLS with a node ({error})"),
    }
}

fn hangs_up(error: &ConnectionError) -> bool {
    use std::io::ErrorKind;
    match error {
        ConnectionError::IoError(error) => {
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            )
        }
        ConnectionError::BrokenConnection(_) => true,
        ConnectionError::ConnectionSetupRequestError(setup) => matches!(
            setup.error,
            ConnectionSetupRequestErrorKind::BrokenConnection(_)
        ),
        _ => false,
    }
}

fn refuses_credentials(error: &ConnectionSetupRequestErrorKind) -> bool {
    matches!(
        error,
        ConnectionSetupRequestErrorKind::DbError(
            DbError::AuthenticationError | DbError::Unauthorized,
            _
        ) | ConnectionSetupRequestErrorKind::MissingAuthentication
            | ConnectionSetupRequestErrorKind::StartAuthSessionError(_)
            | ConnectionSetupRequestErrorKind::AuthChallengeEvaluationError(_)
            | ConnectionSetupRequestErrorKind::AuthFinishError(_)
    )
}

fn sorted(lasting: bool, doing: &str, error: &dyn std::error::Error) -> StoreError {
    let text = format!("{doing}: {error}");
    if lasting {
        StoreError::Broken(text)
    } else {
        StoreError::Unavailable(text)
    }
}

fn prepare_lasts(error: &PrepareError) -> bool {
    matches!(error, PrepareError::AllAttemptsFailed { first_attempt } if attempt_lasts(first_attempt))
}

fn page_lasts(error: &NextPageError) -> bool {
    match error {
        NextPageError::RequestFailure(RequestError::LastAttemptError(error)) => {
            attempt_lasts(error)
        }
        NextPageError::RequestFailure(_) => false,
        _ => true,
    }
}

/// Whether the server refuses the statement for good. All other errors (too few replicas, time-outs,
/// overload, a lost connection) may pass.
fn attempt_lasts(error: &RequestAttemptError) -> bool {
    match error {
        RequestAttemptError::DbError(error, _) => matches!(
            error,
            DbError::SyntaxError
                | DbError::Invalid
                | DbError::AlreadyExists { .. }
                | DbError::AuthenticationError
                | DbError::Unauthorized
                | DbError::ConfigError
                | DbError::ProtocolError
        ),
        RequestAttemptError::SerializationError(_)
        | RequestAttemptError::CqlRequestSerialization(_)
        | RequestAttemptError::CqlResultParseError(_)
        | RequestAttemptError::RepreparedIdChanged { .. } => true,
        _ => false,
    }
}
