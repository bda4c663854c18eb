//! `GET /bars?symbol=AAPL&size=1m&limit=240`: the newest windows of a symbol as the store has them,
//! oldest first, decimals exact.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tapeflow_protocol::{Checkpoint, StoreError};
use tapeflow_schemas::{Policy, StoredBar, Symbol, WindowSize};

use super::{Shown, newest::newest};
use crate::{bars, columns};

/// Windows in one answer.
const MOST: usize = 1_000;
/// Windows in one answer unless asked otherwise.
const USUAL: usize = 240;
/// How long a question waits for those before it, and for the store.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was asked for.
struct Asked {
    symbol: Symbol,
    size: WindowSize,
    limit: usize,
}

/// A status code, and what is wrong.
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
pub(super) async fn answer(
    State(shown): State<Arc<Shown>>,
    query: Result<Query<HashMap<String, String>>, QueryRejection>,
) -> Response {
    let found = match query {
        Ok(Query(query)) => match asked(&query, &shown.live.sizes) {
            Ok(asked) => tokio::time::timeout(PATIENCE, find(&shown, &asked))
                .await
                .unwrap_or_else(|_| Err(Refusal::unavailable("the store is busy"))),
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

fn asked(query: &HashMap<String, String>, sizes: &[WindowSize]) -> Result<Asked, Refusal> {
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
            format!("the job keeps no windows of {size}"),
        ));
    }
    let limit = match query.get("limit") {
        None => USUAL,
        Some(text) => text
            .parse()
            .ok()
            .filter(|limit| (1..=MOST).contains(limit))
            .ok_or_else(|| Refusal::bad(format!("limit is 1 to {MOST}")))?,
    };
    Ok(Asked {
        symbol,
        size,
        limit,
    })
}

async fn find(shown: &Shown, asked: &Asked) -> Result<Value, Refusal> {
    let failed = |error: StoreError| Refusal::unavailable(error.to_string());
    let _place = shown
        .questions
        .acquire()
        .await
        .map_err(|_| Refusal::unavailable("ending"))?;
    let Asked {
        symbol,
        size,
        limit,
    } = asked;
    // The coordinator has the checkpoint; others ask for it.
    let known = shown
        .told
        .job
        .as_ref()
        .and_then(|job| job.metrics.checkpoint());
    let checkpoint = match known {
        Some(checkpoint) => Some((*checkpoint).clone()),
        None => shown.store.checkpoint().await.map_err(failed)?,
    };
    let committed = checkpoint
        .as_ref()
        .and_then(|checkpoint| checkpoint.last_binding().watermark_ms());
    let end = shown
        .live
        .board()
        .end_of(symbol)
        .or(committed.map(|newest_ms| newest_ms.saturating_add(size.ms())));
    let bars = match end {
        Some(end) => newest(&*shown.store, symbol, &shown.live.sizes, *size, *limit, end)
            .await
            .map_err(failed)?,
        None => Vec::new(),
    };
    let Some(checkpoint) = checkpoint.filter(|_| !bars.is_empty()) else {
        return Err(Refusal(
            StatusCode::NOT_FOUND,
            format!("no windows of {symbol}"),
        ));
    };
    let bars: Vec<Value> = bars
        .iter()
        .map(|bar| told(symbol, *size, bar, &checkpoint))
        .collect();
    Ok(
        json!({ "symbol": symbol.as_str(), "size": size.to_string(), "policy": Policy::Sip.name(), "bars": bars }),
    )
}

/// A bar as `tapeflow bars` prints it, but for its start, which is in milliseconds here.
fn told(symbol: &Symbol, size: WindowSize, bar: &StoredBar, checkpoint: &Checkpoint) -> Value {
    let mut told = columns::json(
        &bars::COLUMNS[2..],
        &bars::values(symbol, size, bar, Policy::Sip, checkpoint)[2..],
    );
    told["start"] = bar.start.into();
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_question_is_told() {
        let ask = |pairs: &[(&str, &str)]| {
            let query = pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            asked(&query, &WindowSize::DEFAULTS)
                .map(|asked| (asked.symbol.to_string(), asked.limit))
                .map_err(|Refusal(code, _)| code.as_u16())
        };
        assert_eq!(
            ask(&[("symbol", "A"), ("size", "1m")]),
            Ok(("A".into(), USUAL))
        );
        assert_eq!(
            ask(&[("symbol", "A"), ("size", "1m"), ("limit", "1000")]),
            Ok(("A".into(), 1_000))
        );
        assert_eq!(ask(&[("symbol", "A"), ("size", "10m")]), Err(404));
        for bad in [
            &[("size", "1m")][..],
            &[("symbol", ""), ("size", "1m")],
            &[("symbol", "A")],
            &[("symbol", "A"), ("size", "7s")],
            &[("symbol", "A"), ("size", "1m"), ("limit", "0")],
            &[("symbol", "A"), ("size", "1m"), ("limit", "1001")],
        ] {
            assert_eq!(ask(bad), Err(400), "{bad:?}");
        }
    }
}
