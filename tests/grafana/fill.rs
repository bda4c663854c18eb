//! What Grafana and the Cassandra plugin make of a query before Cassandra sees it: variables first
//! (in the browser), then macros (in the plugin).

use std::collections::BTreeMap;

/// The values of a dashboard's variables; Grafana's own `__from` and `__to` too.
pub(crate) type Values = BTreeMap<String, Vec<String>>;

/// `${name}` and `${name:format}`. A list without a format is separated by commas, and an empty one
/// is nothing at all: that is what the plugin asks for.
///
/// # Errors
/// A variable nobody has, or a format that no query here needs.
pub(crate) fn variables(text: &str, values: &Values) -> Result<String, String> {
    let mut parts = text.split("${");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inside, rest) = part
            .split_once('}')
            .ok_or_else(|| format!("${{ without an end: {text}"))?;
        let (name, format) = inside.split_once(':').unwrap_or((inside, "csv"));
        let chosen = values
            .get(name)
            .ok_or_else(|| format!("no variable {name}: {text}"))?;
        filled += &match format {
            "csv" => chosen.join(","),
            "singlequote" => chosen
                .iter()
                .map(|value| format!("'{}'", value.replace('\'', "\\'")))
                .collect::<Vec<_>>()
                .join(","),
            other => return Err(format!("no format {other}: {text}")),
        };
        filled += rest;
    }
    Ok(filled)
}

/// The plugin's macros, in its order. They take no parentheses.
///
/// # Errors
/// A dollar sign that is left: Cassandra would not take it.
pub(crate) fn macros(text: &str, from_ms: i64, to_ms: i64) -> Result<String, String> {
    let seconds = |ms: i64| ms.div_euclid(1_000).to_string();
    let filled = text
        .replace("$__timeFrom", &from_ms.to_string())
        .replace("$__timeTo", &to_ms.to_string())
        .replace("$__unixEpochFrom", &seconds(from_ms))
        .replace("$__unixEpochTo", &seconds(to_ms));
    if filled.contains('$') {
        Err(format!(
            "neither a variable nor a macro of the plugin: {filled}"
        ))
    } else {
        Ok(filled)
    }
}
