//! The password: HTTP basic authentication (RFC 7617) for the user `tapeflow`.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Router,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;
use tapeflow_protocol::log_throttle::LogThrottle;
use tapeflow_schemas::Secret;
use tokio::time::Instant;

use super::{
    guesses::{Guesses, Turn},
    server::Peer,
};

/// The only user.
const USER: &str = "tapeflow";

/// At most one line of the log in ten seconds.
static WRONG: LogThrottle = LogThrottle::new();

/// What the routes behind a password share.
struct Gate {
    wanted: String,
    guesses: Guesses,
    /// Wrong passwords since the start, for the metrics.
    wrong: Arc<AtomicU64>,
}

/// The routes behind the password; open if there is none. `wrong` counts wrong ones.
pub(super) fn require(routes: Router, password: Option<&Secret>, wrong: &Arc<AtomicU64>) -> Router {
    let Some(password) = password else {
        return routes;
    };
    let gate = Arc::new(Gate {
        wanted: header(password),
        guesses: Guesses::default(),
        wrong: Arc::clone(wrong),
    });
    routes.layer(middleware::from_fn_with_state(gate, check))
}

async fn check(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    let Some(given) = request.headers().get(AUTHORIZATION).cloned() else {
        // A browser asks without one first.
        return unauthorized();
    };
    let peer = request
        .extensions()
        .get::<Peer>()
        .map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    match gate.guesses.turn(peer, Instant::now()) {
        Turn::Now => {}
        Turn::After(wait) => tokio::time::sleep(wait).await,
        Turn::Refused => return too_many(),
    }
    if is_same(given.as_bytes(), &gate.wanted) {
        gate.guesses.right(peer);
        return next.run(request).await;
    }
    gate.guesses.wrong(peer, Instant::now());
    gate.wrong.fetch_add(1, Ordering::Relaxed);
    if let Some(left_out) = WRONG.allow() {
        tracing::warn!(%peer, left_out, "wrong HTTP password");
    }
    unauthorized()
}

fn too_many() -> Response {
    (
        StatusCode::TOO_MANY_REQUESTS,
        [(RETRY_AFTER, "10")],
        "too many wrong passwords from this address; try again later\n",
    )
        .into_response()
}

/// The `Authorization` header that a client with the password sends.
fn header(password: &Secret) -> String {
    let credentials = STANDARD.encode(format!("{USER}:{}", password.expose()));
    format!("Basic {credentials}")
}

/// Compares in constant time, so that the time of an answer does not reveal how many leading
/// characters were right.
fn is_same(given: &[u8], wanted: &str) -> bool {
    given.ct_eq(wanted.as_bytes()).into()
}

fn unauthorized() -> Response {
    (
        StatusCode::UNAUTHORIZED,
        [(
            WWW_AUTHENTICATE,
            "Basic realm=\"tapeflow\", charset=\"UTF-8\"",
        )],
        "wrong or missing password for the user tapeflow\n",
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_the_rfc() {
        // The padding of RFC 4648, section 10: lengths of 0, 1 and 2 modulo 3.
        for (password, wanted) in [
            ("open sesame", "Basic dGFwZWZsb3c6b3BlbiBzZXNhbWU="),
            ("wrong", "Basic dGFwZWZsb3c6d3Jvbmc="),
            ("", "Basic dGFwZWZsb3c6"),
            ("ab", "Basic dGFwZWZsb3c6YWI="),
            ("a", "Basic dGFwZWZsb3c6YQ=="),
        ] {
            assert_eq!(header(&Secret::new(password)), wanted);
        }
    }

    #[test]
    fn only_the_same_password_is_the_same() {
        assert!(is_same(b"Basic x", "Basic x"));
        for wrong in [&b"Basic y"[..], b"", b"Basic xx"] {
            assert!(!is_same(wrong, "Basic x"));
        }
    }
}
