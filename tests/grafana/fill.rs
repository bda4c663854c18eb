//! Fills in a query as Grafana does: variables first (in the browser), then macros (in the
//! Cassandra plugin).

use std::collections::BTreeMap;

/// The values of a dashboard's variables, including Grafana's own `__from` and `__to`.
pub(crate) type Values = BTreeMap<String, Vec<String>>;

/// Replaces `${name}` and `${name:format}`. A list without a format is joined by commas, and an
/// empty list becomes an empty text, as the plugin requests.
///
/// # Errors
/// If a variable is unknown, or a format is not one that the dashboards use.
pub(crate) fn variables(text: &str, values: &Values) -> Result<String, String> {
    let mut parts = text.split("${");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (inside, rest) = part
            .split_once('}')
            .ok_or_else(|| format!("${{ without }}: {text}"))?;
        let (name, format) = inside.split_once(':').unwrap_or((inside, "csv"));
        let chosen = values
            .get(name)
            .ok_or_else(|| format!("unknown variable {name}: {text}"))?;
        filled += &match format {
            "csv" => chosen.join(","),
            "singlequote" => chosen
                .iter()
                .map(|value| format!("'{}'", value.replace('\'', "\\'")))
                .collect::<Vec<_>>()
                .join(","),
            other => return Err(format!("unknown format {other}: {text}")),
        };
        filled += rest;
    }
    Ok(filled)
}

/// Replaces the plugin's macros, in the plugin's order. They have no parentheses.
///
/// # Errors
/// If a dollar sign remains, which Cassandra would refuse.
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
