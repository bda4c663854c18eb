//! A listener on loopback without a password answers only to the names of this machine.
//!
//! Otherwise any web page could read it through the browser of a person at the machine: its own
//! name resolves to 127.0.0.1 the second time that the browser asks (DNS rebinding). The browser
//! sends the name of the page as `Host`.

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header::HOST, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};

/// The routes, for requests with a name of this machine alone.
pub(super) fn require_loopback(routes: Router) -> Router {
    routes.layer(middleware::from_fn(
        |request: Request, next: Next| async move {
            if is_of_this_machine(&request) {
                next.run(request).await
            } else {
                refusal()
            }
        },
    ))
}

/// Every `Host` header and the address of the request, if it has one, must name this machine. A
/// request without either comes from no browser.
fn is_of_this_machine(request: &Request) -> bool {
    let in_address = request.uri().authority().is_none_or(is_loopback);
    let headers = request.headers().get_all(HOST);
    in_address
        && headers.iter().all(|name| {
            name.to_str()
                .ok()
                .and_then(|name| name.parse::<Authority>().ok())
                .is_some_and(|name| is_loopback(&name))
        })
}

fn is_loopback(name: &Authority) -> bool {
    let host = name.host().trim_start_matches('[').trim_end_matches(']');
    let is_address = |address: std::net::IpAddr| address.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_address)
}

fn refusal() -> Response {
    (
        StatusCode::MISDIRECTED_REQUEST,
        "this address answers to localhost, 127.0.0.1 and [::1] only, so that no web page can read \
         it by DNS rebinding; for another name give --http-password-file\n",
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn answers(uri: &str, hosts: &[&str]) -> bool {
        let mut request = Request::builder().uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        is_of_this_machine(&request.body(Body::empty()).expect("a request"))
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]:8080",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(answers("/", &[host]), "{host}");
        }
        for host in [
            "example.com",
            "localhost.example.com:8080",
            "127.0.0.1.example.com",
            "10.0.0.1",
            "0.0.0.0",
            "[::2]",
            "",
            "a b",
        ] {
            assert!(!answers("/", &[host]), "{host}");
        }
        assert!(answers("/", &[]), "no browser leaves it out");
        assert!(!answers("/", &["localhost", "example.com"]));
        assert!(!answers("http://example.com/", &["localhost"]));
    }
}
