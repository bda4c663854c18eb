//! Provisioning files and alert rules: their shape, and that they agree with each other.

use std::collections::{BTreeMap, BTreeSet};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::files::{self, list, none, panels, word};

const DATA_SOURCES: &str = "provisioning/datasources/tapeflow.yaml";
const DASHBOARDS: &str = "provisioning/dashboards/tapeflow.yaml";
const ALERTING: &str = "provisioning/alerting/tapeflow.yaml";
const RULES: &str = "alerts/tapeflow.rules.yaml";
/// A full address, which opens from a message.
const RUNBOOKS: &str = "https://github.com/tapeflow/tapeflow/blob/main/grafana/README.md";

/// The keys of an object, sorted.
fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect();
    keys.sort_unstable();
    keys
}

fn is_duration(text: &str) -> bool {
    text.strip_suffix(['s', 'm', 'h'])
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// All rules of a file; pushes the errors of its groups to `errors`.
fn rules<'a>(file: &'a Value, of_group: &[&str], errors: &mut Vec<String>) -> Vec<&'a Value> {
    for group in list(&file["groups"]) {
        if keys(group) != of_group || !is_duration(word(&group["interval"])) {
            errors.push(format!(
                "a group has {:?}, {}",
                keys(group),
                group["interval"]
            ));
        }
    }
    list(&file["groups"])
        .flat_map(|group| list(&group["rules"]))
        .collect()
}

pub(crate) fn alerts() -> Result<(), Failed> {
    let (file, readme, tested) = (
        files::yaml(RULES)?,
        files::text("README.md")?,
        files::text("alerts-test.yaml")?,
    );
    let mut errors = Vec::new();
    if keys(&file) != ["groups"] {
        errors.push(format!("{RULES} has {:?}", keys(&file)));
    }
    let rules = rules(&file, &["interval", "name", "rules"], &mut errors);
    let mut names = BTreeSet::new();
    for rule in &rules {
        let (name, annotations) = (word(&rule["alert"]), &rule["annotations"]);
        let wrong = [
            (
                "its keys",
                keys(rule) != ["alert", "annotations", "expr", "for", "labels"],
            ),
            (
                "its name",
                !name.starts_with("Tapeflow") || !names.insert(name),
            ),
            ("for", !is_duration(word(&rule["for"]))),
            (
                "labels",
                keys(&rule["labels"]) != ["severity"]
                    || !["critical", "warning"].contains(&word(&rule["labels"]["severity"])),
            ),
            (
                "annotations",
                keys(annotations) != ["description", "runbook_url", "summary"],
            ),
            ("summary", word(&annotations["summary"]).len() < 20),
            ("description", word(&annotations["description"]).len() < 100),
            (
                "runbook_url",
                word(&annotations["runbook_url"]) != format!("{RUNBOOKS}#{}", name.to_lowercase()),
            ),
            (
                "a time it fires at, in grafana/alerts-test.yaml",
                !tested.contains(&format!("{{alertname=\"{name}\"")),
            ),
            (
                "a section in grafana/README.md",
                !readme.lines().any(|line| line == format!("### {name}")),
            ),
        ];
        errors.extend(
            wrong
                .into_iter()
                .filter(|(_, wrong)| *wrong)
                .map(|(what, _)| format!("{name}: {what}")),
        );
    }
    let sections = readme
        .lines()
        .filter_map(|line| line.strip_prefix("### Tapeflow"))
        .filter(|name| !names.contains(format!("Tapeflow{name}").as_str()));
    errors.extend(sections.map(|name| {
        format!("grafana/README.md has a runbook for Tapeflow{name}, which no rule defines")
    }));
    if rules.len() < 9 {
        errors.push(format!("{} rules", rules.len()));
    }
    none(RULES, &errors)
}

/// The data of a Grafana rule that fires when Prometheus would: the expression, whose values are
/// above 0 or missing, and a threshold of 0.
fn data(expression: &Value) -> Value {
    json!([
        {
            "refId": "A",
            "datasourceUid": "prometheus",
            "relativeTimeRange": { "from": 600, "to": 0 },
            "model": {
                "refId": "A",
                "datasource": { "type": "prometheus", "uid": "prometheus" },
                "editorMode": "code",
                "expr": expression,
                "instant": true,
                "range": false,
            },
        },
        {
            "refId": "C",
            "datasourceUid": "__expr__",
            "relativeTimeRange": { "from": 0, "to": 0 },
            "model": {
                "refId": "C",
                "datasource": { "type": "__expr__", "uid": "__expr__" },
                "type": "threshold",
                "expression": "A",
                "conditions": [{ "evaluator": { "type": "gt", "params": [0] } }],
            },
        },
    ])
}

pub(crate) fn same_alerts() -> Result<(), Failed> {
    let (prometheus, grafana) = (files::yaml(RULES)?, files::yaml(ALERTING)?);
    let mut errors = Vec::new();
    if keys(&grafana) != ["apiVersion", "groups"] || grafana["apiVersion"] != 1 {
        errors.push(format!("{ALERTING} has {:?}", keys(&grafana)));
    }
    let wanted = rules(&prometheus, &["interval", "name", "rules"], &mut errors);
    let there = rules(
        &grafana,
        &["folder", "interval", "name", "orgId", "rules"],
        &mut errors,
    );
    let uids: BTreeSet<&str> = there.iter().map(|rule| word(&rule["uid"])).collect();
    let may_be_a_uid = |uid: &&str| {
        (1..=40).contains(&uid.len())
            && uid
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    if uids.len() != wanted.len() || there.len() != wanted.len() || !uids.iter().all(may_be_a_uid) {
        errors.push(format!(
            "{} rules, {} of Prometheus, under {uids:?}",
            there.len(),
            wanted.len()
        ));
    }
    for rule in wanted {
        let name = &rule["alert"];
        let Some(there) = there.iter().find(|there| there["title"] == *name) else {
            errors.push(format!("{name} is missing"));
            continue;
        };
        let mut expected = json!({
            "condition": "C",
            "noDataState": "OK",
            "execErrState": "Error",
            "title": name,
            "uid": there["uid"],
        });
        for same in ["for", "labels", "annotations"] {
            expected[same] = rule[same].clone();
        }
        expected["data"] = data(&rule["expr"]);
        if **there != expected {
            errors.push(format!(
                "{name} differs from the rule for Prometheus:\n  {there}\n  {expected}"
            ));
        }
        // Grafana may replace a dollar sign in a text by an environment variable.
        if there["annotations"].to_string().contains('$') {
            errors.push(format!("{name}: a dollar sign in its annotations"));
        }
    }
    none(ALERTING, &errors)
}

pub(crate) fn data_sources() -> Result<(), Failed> {
    let file = files::yaml(DATA_SOURCES)?;
    let mut errors = Vec::new();
    let mut provisioned = BTreeMap::new();
    for source in list(&file["datasources"]) {
        provisioned.insert(word(&source["uid"]), word(&source["type"]));
        if source["access"] != "proxy"
            || source["editable"] != false
            || !word(&source["url"]).starts_with("${")
        {
            errors.push(format!("{}: access, editable or url", source["name"]));
        }
    }
    let expected = BTreeMap::from([
        ("cassandra", "hadesarchitect-cassandra-datasource"),
        ("prometheus", "prometheus"),
    ]);
    if provisioned != expected || file["apiVersion"] != 1 {
        errors.push(format!("provisioned: {provisioned:?}"));
    }
    // The plugin does not start without a consistency. Below LOCAL_QUORUM a reader could see a bar
    // go back.
    let cassandra = list(&file["datasources"]).find(|source| source["uid"] == "cassandra");
    if cassandra.is_none_or(|source| source["jsonData"]["consistency"] != "LOCAL_QUORUM") {
        errors.push("consistency".into());
    }
    for (name, dashboard) in files::dashboards()? {
        let variables =
            list(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query");
        for asked in panels(&dashboard).into_iter().chain(variables) {
            let source = &asked["datasource"];
            if provisioned.get(word(&source["uid"])) != Some(&word(&source["type"])) {
                errors.push(format!(
                    "{name}: {} {} queries {source}",
                    asked["title"], asked["name"]
                ));
            }
        }
        for link in list(&dashboard["links"]) {
            let there = files::dashboards()?
                .iter()
                .any(|(_, other)| word(&link["url"]) == format!("/d/{}", word(&other["uid"])));
            if !there {
                errors.push(format!("{name}: a link to {}", link["url"]));
            }
        }
    }
    none(DATA_SOURCES, &errors)
}

pub(crate) fn variables() -> Result<(), Failed> {
    let readme = files::text("README.md")?;
    let mut errors = Vec::new();
    let sources = files::yaml(DATA_SOURCES)?;
    for source in list(&sources["datasources"]) {
        for (name, value) in source["secureJsonData"].as_object().into_iter().flatten() {
            if !word(value).starts_with("${") || !word(value).ends_with('}') {
                errors.push(format!("{}: {name} is in the file", source["name"]));
            }
        }
    }
    let provider = files::yaml(DASHBOARDS)?;
    if keys(&provider) != ["apiVersion", "providers"]
        || list(&provider["providers"])
            .any(|one| one["type"] != "file" || one["allowUiUpdates"] != false)
    {
        errors.push(format!("{DASHBOARDS}: its shape"));
    }
    for file in [DATA_SOURCES, DASHBOARDS] {
        let text = files::text(file)?;
        let found: Vec<&str> = text
            .split("${")
            .skip(1)
            .filter_map(|rest| rest.split_once('}'))
            .map(|(name, _)| name)
            .collect();
        if found.is_empty() {
            errors.push(format!("{file}: no variable"));
        }
        let missing = found.into_iter().filter(|name| {
            !name.starts_with("TAPEFLOW_GRAFANA_") || !readme.contains(&format!("`{name}`"))
        });
        errors.extend(
            missing.map(|name| format!("{file}: {name} is not documented in grafana/README.md")),
        );
    }
    none("provisioning", &errors)
}
