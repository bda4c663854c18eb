//! What stands in `grafana/`, read and taken apart.

use std::{fs, path::Path};

use libtest_mimic::Failed;
use serde_json::Value;

/// A file of `grafana/`.
pub(crate) fn text(path: &str) -> Result<String, Failed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("grafana")
        .join(path);
    fs::read_to_string(&path).map_err(|fault| format!("{}: {fault}", path.display()).into())
}

/// A JSON file of `grafana/`.
pub(crate) fn json(path: &str) -> Result<Value, Failed> {
    serde_json::from_str(&text(path)?).map_err(|fault| format!("{path}: {fault}").into())
}

/// A YAML file of `grafana/`; a key that stands twice is refused.
pub(crate) fn yaml(path: &str) -> Result<Value, Failed> {
    serde_norway::from_str(&text(path)?).map_err(|fault| format!("{path}: {fault}").into())
}

/// All dashboards, by file name.
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
        Err("the dashboards are not there".into())
    } else {
        Ok(found)
    }
}

/// The panels of a dashboard, those in rows too, but not the rows.
pub(crate) fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = list(&dashboard["panels"])
        .flat_map(|panel| std::iter::once(panel).chain(list(&panel["panels"])));
    all.filter(|panel| panel["type"] != "row").collect()
}

/// The items of a list; none where there is no list.
pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text; empty where there is none.
pub(crate) fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Fails with every fault there is, not with the first.
pub(crate) fn none(what: &str, faults: &[String]) -> Result<(), Failed> {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(format!("{what}:\n  {}", faults.join("\n  ")).into())
    }
}
