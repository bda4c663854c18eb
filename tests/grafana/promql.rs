//! PromQL of dashboards and alert rules: every expression parses, and names metrics of the code.

use std::collections::{BTreeMap, BTreeSet};

use libtest_mimic::Failed;
use promql_parser::{
    parser::{self, Expr, LabelModifier, VectorSelector},
    util::{ExprVisitor, walk_expr},
};
use tapeflow_schemas::metric::{Kind, Metric};

use crate::files::{self, list, none, panels, word};

/// Labels that Prometheus adds to every series it scrapes, and the label of histogram buckets.
const LABELS_OF_ALL: [&str; 3] = ["instance", "job", "le"];

/// What Prometheus itself says of each target: whether the last scrape succeeded.
const UP: &str = "up";

/// An expression, its place, and the labels that its legend or its annotations name.
struct Expression {
    at: String,
    text: String,
    labels: Vec<String>,
}

/// The labels that a template names: the texts in `{{...}}`, without `prefix`.
fn labels_of(text: &str, prefix: &str) -> Vec<String> {
    let inside = text
        .split("{{")
        .skip(1)
        .filter_map(|rest| rest.split_once("}}"));
    inside
        .map(|(inside, _)| inside.trim())
        .map(|inside| inside.strip_prefix(prefix).unwrap_or(inside).to_owned())
        .collect()
}

/// All expressions of dashboards and rules, with Grafana's variables filled in.
fn expressions() -> Result<Vec<Expression>, Failed> {
    let mut found = Vec::new();
    for (name, dashboard) in files::dashboards()? {
        for panel in panels(&dashboard) {
            for target in list(&panel["targets"])
                .filter(|target| target["datasource"]["type"] == "prometheus")
            {
                let at = format!("{name}: {} {}", panel["title"], target["refId"]);
                found.push(Expression {
                    at,
                    text: word(&target["expr"]).to_owned(),
                    labels: labels_of(word(&target["legendFormat"]), ""),
                });
            }
        }
        for variable in list(&dashboard["templating"]["list"])
            .filter(|variable| variable["datasource"]["type"] == "prometheus")
        {
            let query = word(&variable["query"]["query"]);
            let inside = query
                .strip_prefix("label_values(")
                .and_then(|rest| rest.strip_suffix(')'))
                .and_then(|inside| inside.rsplit_once(','));
            let (text, label) = inside
                .ok_or_else(|| format!("{name}: {query} is not label_values(metric, label)"))?;
            found.push(Expression {
                at: format!("{name}: variable {}", variable["name"]),
                text: text.to_owned(),
                labels: vec![label.trim().to_owned()],
            });
        }
    }
    for group in list(&files::yaml("alerts/tapeflow.rules.yaml")?["groups"]) {
        for rule in list(&group["rules"]) {
            let labels = list(&serde_json::json!([
                rule["annotations"]["summary"],
                rule["annotations"]["description"]
            ]))
            .flat_map(|text| labels_of(word(text), ".Labels."))
            .collect();
            found.push(Expression {
                at: format!("alert {}", rule["alert"]),
                text: word(&rule["expr"]).to_owned(),
                labels,
            });
        }
    }
    for expression in &mut found {
        for (variable, value) in [
            ("$__rate_interval", "1m"),
            ("$__range", "1h"),
            ("$job", ".*"),
        ] {
            expression.text = expression.text.replace(variable, value);
        }
    }
    if found.len() < 40 {
        Err(format!("{} expressions", found.len()).into())
    } else {
        Ok(found)
    }
}

/// The series that an expression reads, and the labels that it names.
#[derive(Default)]
struct Reads {
    series: BTreeSet<String>,
    labels: BTreeSet<String>,
    /// Whether a selector names no metric.
    nameless: bool,
}

impl Reads {
    fn of(text: &str) -> Result<Self, String> {
        let parsed = parser::parse(text)?;
        let mut reads = Self::default();
        walk_expr(&mut reads, &parsed)?;
        Ok(reads)
    }

    fn selector(&mut self, selector: &VectorSelector) {
        match &selector.name {
            Some(name) => drop(self.series.insert(name.clone())),
            None => self.nameless = true,
        }
        self.labels.extend(
            selector
                .matchers
                .matchers
                .iter()
                .map(|matcher| matcher.name.clone()),
        );
    }

    fn modifier(&mut self, modifier: Option<&LabelModifier>) {
        self.labels.extend(
            modifier
                .into_iter()
                .flat_map(|modifier| modifier.labels().labels.iter().cloned()),
        );
    }
}

impl ExprVisitor for Reads {
    type Error = String;

    fn pre_visit(&mut self, expression: &Expr) -> Result<bool, String> {
        match expression {
            Expr::VectorSelector(selector) => self.selector(selector),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs),
            Expr::Aggregate(aggregate) => self.modifier(aggregate.modifier.as_ref()),
            Expr::Binary(binary) => {
                if let Some(matching) = binary
                    .modifier
                    .as_ref()
                    .and_then(|modifier| modifier.matching.as_ref())
                {
                    self.modifier(Some(matching));
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

pub(crate) fn syntax() -> Result<(), Failed> {
    let mut errors = Vec::new();
    for expression in expressions()? {
        match Reads::of(&expression.text) {
            Ok(reads) if reads.series.is_empty() || reads.nameless => {
                errors.push(format!("{}: a selector without a metric", expression.at))
            }
            Ok(_) => {}
            Err(error) => errors.push(format!("{}: {error}: {}", expression.at, expression.text)),
        }
    }
    for wrong in [
        "sum(rate(tapeflow_ready[5m])",
        "rate(tapeflow_ready)",
        "sum by partition (tapeflow_ready)",
        "tapeflow_ready and on tapeflow_workers",
    ] {
        if Reads::of(wrong).is_ok() {
            errors.push(format!("accepted as PromQL: {wrong}"));
        }
    }
    none("PromQL", &errors)
}

/// The metric of a series. A histogram has three kinds of series.
fn metric(series: &str) -> Option<Metric> {
    Metric::ALL
        .iter()
        .copied()
        .find(|metric| match metric.kind() {
            Kind::Histogram => series
                .strip_prefix(metric.name())
                .is_some_and(|rest| ["_bucket", "_sum", "_count"].contains(&rest)),
            Kind::Counter | Kind::Gauge => series == metric.name(),
        })
}

pub(crate) fn metrics() -> Result<(), Failed> {
    let mut used: BTreeMap<&str, usize> = Metric::ALL
        .iter()
        .map(|metric| (metric.name(), 0))
        .collect();
    let mut errors = Vec::new();
    for expression in expressions()? {
        let series = Reads::of(&expression.text)?.series;
        for series in series.into_iter().filter(|series| series != UP) {
            match metric(&series) {
                Some(metric) => *used.entry(metric.name()).or_default() += 1,
                None => errors.push(format!("{}: no metric {series}", expression.at)),
            }
        }
    }
    errors.extend(
        used.into_iter()
            .filter(|(_, times)| *times == 0)
            .map(|(name, _)| format!("no panel and no alert uses {name}")),
    );
    if metric("tapeflow_freshness_seconds").is_some()
        || metric("tapeflow_ready_bucket").is_some()
        || metric("tapeflow_lag").is_some()
    {
        errors.push("series that do not exist are accepted".into());
    }
    none("metrics", &errors)
}

pub(crate) fn labels() -> Result<(), Failed> {
    let mut errors = Vec::new();
    for expression in expressions()? {
        let reads = Reads::of(&expression.text)?;
        let own: BTreeSet<&str> = reads
            .series
            .iter()
            .filter_map(|series| metric(series))
            .filter_map(Metric::label)
            .chain(LABELS_OF_ALL)
            .collect();
        let named = reads
            .labels
            .iter()
            .chain(&expression.labels)
            .filter(|label| !own.contains(label.as_str()));
        errors.extend(
            named.map(|label| format!("{}: its metrics have no label {label}", expression.at)),
        );
    }
    none("labels", &errors)
}
