//! `GET /bars?symbol=AAPL&size=1m&limit=240`: the newest windows of a symbol as the store has them, oldest first, decimals exact.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{Query, State, rejection::QueryRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tapeflow_schemas::{
    Price, Symbol, WindowSize,
    decimal::{SCALE, format_fixed},
};
use tapeflow_sinks::{
    Policy, StoreError,
    store::{Store, StoredRow},
};

use super::Shown;

/// Windows in one answer.
const MOST: usize = 1_000;
/// Windows in one answer unless asked otherwise.
const USUAL: usize = 240;
/// A symbol may be silent for a while: each look into the past goes this many times further back than the one before.
const FURTHER: i64 = 4;
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

/// Answers with the rows as JSON, or with `{"error": ...}`.
pub(super) async fn bars(State(shown): State<Arc<Shown>>, query: Result<Query<HashMap<String, String>>, QueryRejection>) -> Response {
    let found = match query {
        Ok(Query(query)) => match asked(&query, &shown.live.sizes) {
            Ok(asked) => {
                tokio::time::timeout(PATIENCE, find(&shown, &asked)).await.unwrap_or_else(|_| Err(Refusal::unavailable("the store is busy")))
            }
            Err(refusal) => Err(refusal),
        },
        Err(fault) => Err(Refusal::bad(fault.body_text())),
    };
    let (code, answer) = match found {
        Ok(answer) => (StatusCode::OK, answer),
        Err(Refusal(code, why)) => (code, json!({ "error": why })),
    };
    (code, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], answer.to_string()).into_response()
}

fn asked(query: &HashMap<String, String>, sizes: &[WindowSize]) -> Result<Asked, Refusal> {
    let symbol = query.get("symbol").ok_or_else(|| Refusal::bad("symbol is missing"))?;
    let symbol = Symbol::new(symbol).map_err(|fault| Refusal::bad(format!("symbol: {fault}")))?;
    let size: WindowSize =
        query.get("size").ok_or_else(|| Refusal::bad("size is missing"))?.parse().map_err(|fault| Refusal::bad(format!("size: {fault}")))?;
    if !sizes.contains(&size) {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("the job keeps no windows of {size}")));
    }
    let limit = match query.get("limit") {
        None => USUAL,
        Some(text) => text.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(|| Refusal::bad(format!("limit is 1 to {MOST}")))?,
    };
    Ok(Asked { symbol, size, limit })
}

async fn find(shown: &Shown, asked: &Asked) -> Result<Value, Refusal> {
    let failed = |fault: StoreError| Refusal::unavailable(fault.to_string());
    let _place = shown.questions.acquire().await.map_err(|_| Refusal::unavailable("ending"))?;
    let newest_ms = shown.live.board().newest_ms(&asked.symbol);
    let newest_ms = match newest_ms {
        Some(newest_ms) => Some(newest_ms),
        None => shown.store.head().await.map_err(failed)?.and_then(|head| head.last_binding().max_event_ms()),
    };
    let rows = match newest_ms {
        Some(newest_ms) => newest(&*shown.store, &asked.symbol, asked.size, newest_ms, asked.limit, asked.limit).await.map_err(failed)?,
        None => Vec::new(),
    };
    if rows.is_empty() {
        return Err(Refusal(StatusCode::NOT_FOUND, format!("there are no windows of {}", asked.symbol)));
    }
    let rows: Vec<Value> = rows.iter().map(row).collect();
    Ok(json!({ "symbol": asked.symbol.as_str(), "size": asked.size.to_string(), "rows": rows }))
}

/// The newest rows up to an event time, ascending, at most `limit`: of as many windows, then of ever more of the past until there are `enough`.
pub(super) async fn newest(
    store: &dyn Store,
    symbol: &Symbol,
    size: WindowSize,
    newest_ms: i64,
    limit: usize,
    enough: usize,
) -> Result<Vec<StoredRow>, StoreError> {
    // A day of New York ends at another hour than one of UTC: the window of the newest event begins in any case before this.
    let end = newest_ms.saturating_add(size.ms());
    let (mut to, mut back) = (end, i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(2).saturating_mul(size.ms()));
    let mut rows: Vec<StoredRow> = Vec::new();
    loop {
        let from = end.saturating_sub(back);
        let mut found = store.rows(symbol, size, from..to).await?;
        found.append(&mut rows);
        rows = found;
        // Nothing was traded before 1970, but the window may begin before.
        if rows.len() >= enough || from < -2 * WindowSize::DEFAULTS[4].ms() {
            break;
        }
        (to, back) = (from, back.saturating_mul(FURTHER));
    }
    rows.drain(..rows.len().saturating_sub(limit));
    Ok(rows)
}

fn row(row: &StoredRow) -> Value {
    let totals = &row.state.totals;
    let sums = totals.of_policy(Policy::Sip);
    let price = |price: Option<Price>| price.map(|price| price.to_string());
    json!({
        "start": row.start,
        "open": price(totals.open()),
        "high": price(totals.high),
        "low": price(totals.low),
        "close": price(totals.close()),
        "vwap": sums.vwap_e8().map(|vwap| format_fixed(vwap, SCALE)),
        "volume": format_fixed(sums.volume_e8, SCALE),
        "notional": format_fixed(sums.notional_e16, 2 * SCALE),
        "trades": sums.trades,
        "revision": totals.revision,
        "epoch": row.state.epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_question_is_told() {
        let ask = |pairs: &[(&str, &str)]| {
            let query = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            asked(&query, &WindowSize::DEFAULTS).map(|asked| (asked.symbol.to_string(), asked.limit)).map_err(|Refusal(code, _)| code.as_u16())
        };
        assert_eq!(ask(&[("symbol", "A"), ("size", "1m")]), Ok(("A".into(), USUAL)));
        assert_eq!(ask(&[("symbol", "A"), ("size", "1m"), ("limit", "1000")]), Ok(("A".into(), 1_000)));
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
