//! The files of the page, compiled into the binary. The page loads nothing from other servers, and
//! its content security policy makes the browser enforce that.

use axum::{
    Router,
    http::header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
    routing::get,
};

/// Path, content type, text.
const FILES: [(&str, &str, &str); 8] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("page/index.html"),
    ),
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("page/style.css"),
    ),
    (
        "/app.js",
        "text/javascript; charset=utf-8",
        include_str!("page/app.js"),
    ),
    (
        "/words.js",
        "text/javascript; charset=utf-8",
        include_str!("page/words.js"),
    ),
    (
        "/table.js",
        "text/javascript; charset=utf-8",
        include_str!("page/table.js"),
    ),
    (
        "/candles.js",
        "text/javascript; charset=utf-8",
        include_str!("page/candles.js"),
    ),
    (
        "/pipeline.js",
        "text/javascript; charset=utf-8",
        include_str!("page/pipeline.js"),
    ),
    ("/icon.svg", "image/svg+xml", include_str!("page/icon.svg")),
];
/// No inline code, nothing from other servers, no frames around the page.
const POLICY: &str = "default-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; object-src 'none'";

/// One route for each file.
pub(super) fn routes() -> Router {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            let headers = [
                (CONTENT_TYPE, kind),
                (CONTENT_SECURITY_POLICY, POLICY),
                (X_CONTENT_TYPE_OPTIONS, "nosniff"),
                (REFERRER_POLICY, "no-referrer"),
                (CACHE_CONTROL, "no-cache"),
            ];
            router.route(path, get(move || async move { (headers, text) }))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_keeps_to_its_own_policy() {
        for (path, _, text) in FILES {
            for word in [
                "style=\"",
                "onclick=",
                "<script>",
                "<style",
                "http://",
                "https://",
                "innerHTML",
            ] {
                let allowed = path == "/icon.svg" && word == "http://";
                assert!(allowed || !text.contains(word), "{path} has {word}");
            }
        }
    }
}
