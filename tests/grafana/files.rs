//! Reads and parses the files in `grafana/`.

use std::{fs, path::Path};

use libtest_mimic::Failed;
use serde_json::Value;

/// Reads a file of `grafana/`.
pub(crate) fn text(path: &str) -> Result<String, Failed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("grafana")
        .join(path);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

/// Parses a JSON file of `grafana/`.
pub(crate) fn json(path: &str) -> Result<Value, Failed> {
    serde_json::from_str(&text(path)?).map_err(|error| format!("{path}: {error}").into())
}

/// Parses a YAML file of `grafana/`. A duplicate key is an error.
pub(crate) fn yaml(path: &str) -> Result<Value, Failed> {
    serde_norway::from_str(&text(path)?).map_err(|error| format!("{path}: {error}").into())
}

/// Parses all dashboards, sorted by file name.
pub(crate) fn dashboards() -> Result<Vec<(String, Value)>, Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("grafana/dashboards");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?
            .file_name()
            .into_string()
            .map_err(|name| format!("{} is not UTF-8", name.display()))?;
        let dashboard = json(&format!("dashboards/{name}"))?;
        found.push((name, dashboard));
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    if found.len() < 2 {
        Err("fewer than two dashboards in grafana/dashboards".into())
    } else {
        Ok(found)
    }
}

/// The panels of a dashboard, including those inside rows, without the rows themselves.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = list(&dashboard["panels"])
        .flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])));
    all.filter(|panel| panel["type"] != "row").collect()
}

/// The items of an array; none for any other value.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A string; empty for any other value.
pub(crate) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Fails with all errors, if there are any.
pub(crate) fn none(what: &str, errors: &[String]) -> Result<(), Failed> {
    if errors.is_empty() {
        Ok(())
    } else {
        Err(format!("{what}:\n  {}", errors.join("\n  ")).into())
    }
}
