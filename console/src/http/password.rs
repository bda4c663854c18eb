//! The password: HTTP basic authentication (RFC 7617) for the user `tapeflow`.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{
        HeaderValue, StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;
use tapeflow_schemas::Secret;

/// The only user.
const USER: &str = "tapeflow";

/// The routes behind the password; open if there is none.
pub(super) fn require(routes: Router, password: Option<&Secret>) -> Router {
    let Some(password) = password else {
        return routes;
    };
    let wanted: Arc<str> = header(password).into();
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        let wanted = Arc::clone(&wanted);
        async move {
            let given = request
                .headers()
                .get(AUTHORIZATION)
                .map(HeaderValue::as_bytes)
                .unwrap_or_default();
            if is_same(given, &wanted) {
                next.run(request).await
            } else {
                unauthorized()
            }
        }
    }))
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
