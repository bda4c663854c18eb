//! `GET /bars?symbol=AAPL&size=1m&limit=240`: the newest bars of a symbol from the store, oldest
//! first, with exact decimals. `anchor=session`, `anchor=day` or `anchor=TIME` adds the cumulative
//! values since then.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tapeflow_protocol::{Checkpoint, FeedGap, StoreError};
use tapeflow_schemas::{Policy, StoredBar, Symbol, WindowSize, window::parse_utc};

use super::{PageState, newest::newest};
use crate::{
    cumulative::{self, Anchor, CumulativeError, cumulative},
    format::{
        bar::{COLUMNS, covered, values},
        text::json as json_object,
    },
};

/// The parameters of a query.
const PARAMETERS: [&str; 4] = ["symbol", "size", "limit", "anchor"];
/// The most bars in one answer.
const LIMIT_MAX: usize = 1_000;
/// Bars in one answer without `limit`.
const LIMIT_DEFAULT: usize = 240;
/// The longest that a request waits for its turn and for the store.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A checked query.
struct BarsQuery {
    symbol: Symbol,
    size: WindowSize,
    limit: usize,
    /// From where cumulative values are wanted, if at all.
    anchor: Option<Anchor>,
}

/// A status code and the error text.
struct Refusal(StatusCode, String);

impl Refusal {
    fn bad(why: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, why.into())
    }

    fn unavailable(why: impl Into<String>) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, why.into())
    }
}

/// Answers with the bars as JSON, or with `{"error": ...}`.
pub(super) async fn bars(
    State(state): State<Arc<PageState>>,
    query: Result<Query<HashMap<String, String>>, QueryRejection>,
) -> Response {
    let found = match query {
        Ok(Query(query)) => match check(&query, &state.bars.sizes) {
            Ok(query) => tokio::time::timeout(TIMEOUT, find(&state, &query))
                .await
                .unwrap_or_else(|_| {
                    Err(Refusal::unavailable("the store did not answer within 10 s"))
                }),
            Err(refusal) => Err(refusal),
        },
        Err(error) => Err(Refusal::bad(error.body_text())),
    };
    let (code, answer) = match found {
        Ok(answer) => (StatusCode::OK, answer),
        Err(Refusal(code, why)) => (code, json!({ "error": why })),
    };
    (
        code,
        [
            (header::CONTENT_TYPE, "application/json"),
            (header::CACHE_CONTROL, "no-store"),
        ],
        answer.to_string(),
    )
        .into_response()
}

fn check(query: &HashMap<String, String>, sizes: &[WindowSize]) -> Result<BarsQuery, Refusal> {
    let mut unknown: Vec<_> = query
        .keys()
        .filter(|name| !PARAMETERS.contains(&name.as_str()))
        .collect();
    unknown.sort();
    if let Some(name) = unknown.first() {
        return Err(Refusal::bad(format!(
            "no parameter {name:?}: there are {}",
            PARAMETERS.join(", ")
        )));
    }
    let symbol = query
        .get("symbol")
        .ok_or_else(|| Refusal::bad("symbol is missing"))?;
    let symbol = Symbol::new(symbol).map_err(|error| Refusal::bad(format!("symbol: {error}")))?;
    let size: WindowSize = query
        .get("size")
        .ok_or_else(|| Refusal::bad("size is missing"))?
        .parse()
        .map_err(|error| Refusal::bad(format!("size: {error}")))?;
    if !sizes.contains(&size) {
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("the job has no bars of size {size}"),
        ));
    }
    let limit = match query.get("limit") {
        None => LIMIT_DEFAULT,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=LIMIT_MAX).contains(limit))
            .ok_or_else(|| Refusal::bad(format!("limit must be 1 to {LIMIT_MAX}")))?,
    };
    let anchor = match query.get("anchor").map(String::as_str) {
        None => None,
        Some("session") => Some(Anchor::Session),
        Some("day") => Some(Anchor::Day),
        Some(time) => Some(Anchor::At(parse_utc(time).map_err(|error| {
            Refusal::bad(format!("anchor: {error}, session or day"))
        })?)),
    };
    Ok(BarsQuery {
        symbol,
        size,
        limit,
        anchor,
    })
}

async fn find(state: &PageState, query: &BarsQuery) -> Result<Value, Refusal> {
    let failed = |error: StoreError| Refusal::unavailable(error.to_string());
    let _permit = state
        .store_requests
        .acquire()
        .await
        .map_err(|_| Refusal::unavailable("the process is ending"))?;
    let BarsQuery {
        symbol,
        size,
        limit,
        anchor,
    } = query;
    // The coordinator knows the checkpoint; other processes read it from the store.
    let known = state
        .server
        .job
        .as_ref()
        .and_then(|job| job.metrics.checkpoint());
    let checkpoint = match known {
        Some(checkpoint) => Some((*checkpoint).clone()),
        None => state.store.checkpoint().await.map_err(failed)?,
    };
    let committed = checkpoint
        .as_ref()
        .and_then(|checkpoint| checkpoint.last_binding().watermark_ms());
    let end = state
        .bars
        .table()
        .end_of(symbol)
        .or(committed.map(|newest_ms| newest_ms.saturating_add(size.ms())));
    let bars = match end {
        Some(end) => newest(&*state.store, symbol, &state.bars.sizes, *size, *limit, end)
            .await
            .map_err(failed)?,
        None => Vec::new(),
    };
    let Some(checkpoint) = checkpoint.filter(|_| !bars.is_empty()) else {
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("the store has no bars of {symbol}"),
        ));
    };
    let sums = match anchor {
        None => None,
        Some(anchor) => {
            let (of, choice) = ((symbol, *size), (*anchor, Policy::Sip));
            let sums = cumulative(&*state.store, of, &bars, choice, &state.bars.sizes).await;
            Some(sums.map_err(|error| match error {
                CumulativeError::Store(error) => failed(error),
                error => Refusal::bad(format!("anchor: {error}")),
            })?)
        }
    };
    let covered = covered(symbol, *size, &bars);
    let gaps = state.store.feed_gaps(covered).await.map_err(failed)?;
    let mut bars: Vec<Value> = bars
        .iter()
        .map(|bar| bar_json((symbol, *size), bar, &checkpoint, &gaps))
        .collect();
    for (bar, sums) in bars.iter_mut().zip(sums.iter().flatten()) {
        let values = json_object(&cumulative::COLUMNS, &cumulative::values(sums.as_ref()));
        if let (Value::Object(bar), Value::Object(values)) = (bar, values) {
            bar.extend(values);
        }
    }
    Ok(json!({
        "symbol": symbol.as_str(),
        "size": size.to_string(),
        "policy": Policy::Sip.name(),
        "bars": bars,
    }))
}

/// A bar as `tapeflow bars --format json` prints it, except that its start is in milliseconds.
fn bar_json(
    (symbol, size): (&Symbol, WindowSize),
    bar: &StoredBar,
    checkpoint: &Checkpoint,
    gaps: &[FeedGap],
) -> Value {
    let values = values(symbol, size, bar, Policy::Sip, checkpoint, gaps);
    // The answer names the symbol and the size once.
    let mut object = json_object(&COLUMNS[2..], &values[2..]);
    object["start"] = bar.start.into();
    if let Some(session) = size.session_at(bar.start, symbol.class()) {
        object["session"] = session.name().into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_query_is_refused_with_its_status_code() {
        let ask = |pairs: &[(&str, &str)]| {
            let query = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            check(&query, &WindowSize::DEFAULTS)
                .map(|query| (query.symbol.to_string(), query.limit))
                .map_err(|Refusal(code, _)| code.as_u16())
        };
        assert_eq!(
            ask(&[("symbol", "A"), ("size", "1m")]),
            Ok(("A".into(), LIMIT_DEFAULT))
        );
        assert_eq!(
            ask(&[("symbol", "A"), ("size", "1m"), ("limit", "1000")]),
            Ok(("A".into(), 1_000))
        );
        assert_eq!(ask(&[("symbol", "A"), ("size", "10m")]), Err(404));
        for anchor in ["session", "day", "2023-03-13T13:30:00Z", "2023-03-13"] {
            let query = [("symbol", "A"), ("size", "1m"), ("anchor", anchor)];
            assert_eq!(ask(&query), Ok(("A".into(), LIMIT_DEFAULT)), "{anchor}");
        }
        for bad in [
            &[("size", "1m")][..],
            &[("symbol", ""), ("size", "1m")],
            &[("symbol", "A")],
            &[("symbol", "A"), ("size", "7s")],
            &[("symbol", "A"), ("size", "1m"), ("limit", "0")],
            &[("symbol", "A"), ("size", "1m"), ("limit", "1001")],
            &[("symbol", "A"), ("size", "1m"), ("anchor", "week")],
        ] {
            assert_eq!(ask(bad), Err(400), "{bad:?}");
        }
    }
}
