//! Dashboards against the schema of Grafana 11.3, which refuses every unknown key.

use jsonschema::Validator;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::files::{self, list, none, panels, word};

/// Transformations of Grafana 11.3 that the dashboards may use. The schema accepts any name.
const TRANSFORMATIONS: [&str; 8] = [
    "calculateField",
    "filterByValue",
    "filterFieldsByName",
    "joinByField",
    "limit",
    "merge",
    "organize",
    "sortBy",
];

/// Breaks a dashboard in one way.
type Break = fn(&mut Value);

/// The schemas by name: `dashboard`, `timeseries.options`, `timeseries.custom` and so on, and those
/// of the queries.
struct Schemas {
    grafana: Value,
    queries: Value,
}

impl Schemas {
    fn load() -> Result<Self, Failed> {
        Ok(Self {
            grafana: files::json("schema/grafana-11.3.json")?,
            queries: files::json("schema/queries.json")?,
        })
    }

    /// The schema of this name. A panel type without a schema is an error.
    fn named(&self, name: &str) -> Result<Validator, String> {
        let schema = self
            .grafana
            .get(name)
            .or_else(|| self.queries.get(name))
            .ok_or_else(|| format!("no schema {name}: add it to grafana/schema/make"))?;
        jsonschema::validator_for(schema).map_err(|error| format!("schema {name}: {error}"))
    }

    fn check(&self, name: &str, at: &str, value: &Value, errors: &mut Vec<String>) {
        match self.named(name) {
            // The message quotes the whole value, which can be the dashboard.
            Ok(schema) => errors.extend(schema.iter_errors(value).map(|error| {
                let said: String = error.to_string().chars().take(300).collect();
                format!("{at}{}: {said}", error.instance_path())
            })),
            Err(error) => errors.push(format!("{at}: {error}")),
        }
    }

    /// All errors of a dashboard.
    fn errors(&self, dashboard: &Value) -> Vec<String> {
        let mut errors = Vec::new();
        // The schema describes targets of Grafana's own annotations. Those of another data source
        // are queries of it.
        let mut plain = dashboard.clone();
        let annotations = plain["annotations"]["list"].as_array_mut();
        for annotation in annotations.into_iter().flatten() {
            let Some(target) = annotation
                .as_object_mut()
                .and_then(|of| of.remove("target"))
            else {
                continue;
            };
            let query = format!("{}.query", word(&annotation["datasource"]["type"]));
            let at = format!("annotation {}", annotation["name"]);
            self.check(&query, &at, &target, &mut errors);
        }
        self.check("dashboard", "", &plain, &mut errors);
        for panel in panels(dashboard) {
            let (at, kind) = (word(&panel["title"]), word(&panel["type"]));
            self.check(
                &format!("{kind}.options"),
                &format!("{at}: options"),
                &panel["options"],
                &mut errors,
            );
            let custom = panel.pointer("/fieldConfig/defaults/custom");
            if let Some(custom) = custom {
                self.check(
                    &format!("{kind}.custom"),
                    &format!("{at}: custom"),
                    custom,
                    &mut errors,
                );
            }
            for target in list(&panel["targets"]) {
                let query = format!("{}.query", word(&target["datasource"]["type"]));
                self.check(&query, &format!("{at}: target"), target, &mut errors);
            }
            for transformation in list(&panel["transformations"]) {
                if !TRANSFORMATIONS.contains(&word(&transformation["id"])) {
                    errors.push(format!("{at}: transformation {}", transformation["id"]));
                }
            }
        }
        for variable in
            list(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query")
        {
            let query = format!("{}.variable", word(&variable["datasource"]["type"]));
            self.check(
                &query,
                &format!("variable {}", variable["name"]),
                &variable["query"],
                &mut errors,
            );
        }
        errors
    }
}

pub(crate) fn dashboards() -> Result<(), Failed> {
    let schemas = Schemas::load()?;
    for (name, dashboard) in files::dashboards()? {
        none(&name, &schemas.errors(&dashboard))?;
        if dashboard["schemaVersion"] != 39 {
            return Err(format!("{name}: 39 is the schema version of Grafana 11.3").into());
        }
    }
    Ok(())
}

/// Each broken dashboard is refused. Without this test, a schema that allows everything would pass.
pub(crate) fn broken() -> Result<(), Failed> {
    let schemas = Schemas::load()?;
    let valid = files::json("dashboards/market.json")?;
    let breaks: [(&str, Break); 10] = [
        ("a key of the dashboard", |d| d["refesh"] = json!("5s")),
        ("a key of a panel", |d| {
            d["panels"][0]["descripton"] = json!("")
        }),
        ("a missing type", |d| {
            drop(
                d["panels"][0]
                    .as_object_mut()
                    .and_then(|panel| panel.remove("type")),
            )
        }),
        ("a colour mode", |d| {
            d["panels"][0]["fieldConfig"]["defaults"]["color"]["mode"] = json!("rainbow")
        }),
        ("a key of a panel's options", |d| {
            d["panels"][0]["options"]["colourMode"] = json!("value")
        }),
        ("a value of a panel's options", |d| {
            d["panels"][3]["options"]["tooltip"]["mode"] = json!("some")
        }),
        ("a key of a field's settings", |d| {
            d["panels"][3]["fieldConfig"]["defaults"]["custom"]["lineWith"] = json!(1)
        }),
        ("a key of a query", |d| {
            d["panels"][3]["targets"][0]["rawQeury"] = json!(true)
        }),
        ("a variable's refresh", |d| {
            d["templating"]["list"][0]["refresh"] = json!(7)
        }),
        ("a transformation", |d| {
            d["panels"][3]["transformations"][0]["id"] = json!("sortby")
        }),
    ];
    none("the unbroken dashboard", &schemas.errors(&valid))?;
    let passed: Vec<String> = breaks
        .into_iter()
        .filter(|(_, change)| {
            let mut dashboard = valid.clone();
            change(&mut dashboard);
            dashboard == valid || schemas.errors(&dashboard).is_empty()
        })
        .map(|(what, _)| what.to_owned())
        .collect();
    none("not refused", &passed)
}

pub(crate) fn described() -> Result<(), Failed> {
    for (name, dashboard) in files::dashboards()? {
        let mut errors = Vec::new();
        for panel in panels(&dashboard) {
            let (title, defaults) = (word(&panel["title"]), &panel["fieldConfig"]["defaults"]);
            let wanting = [
                ("description", word(&panel["description"]).len() < 20),
                ("title", title.is_empty()),
                ("unit", word(&defaults["unit"]).is_empty()),
                (
                    "thresholds",
                    list(&defaults["thresholds"]["steps"]).count() == 0,
                ),
                (
                    "query of its own data source",
                    !list(&panel["targets"])
                        .any(|target| target["datasource"] == panel["datasource"]),
                ),
            ];
            errors.extend(
                wanting
                    .into_iter()
                    .filter(|(_, wanting)| *wanting)
                    .map(|(what, _)| format!("{title}: no {what}")),
            );
        }
        none(&name, &errors)?;
    }
    Ok(())
}

pub(crate) fn places() -> Result<(), Failed> {
    for (name, dashboard) in files::dashboards()? {
        let mut errors = Vec::new();
        let all: Vec<&Value> = list(&dashboard["panels"]).collect();
        let place = |panel: &Value| {
            let [x, y, w, h] =
                ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_i64().unwrap_or(-1));
            (x..x + w, y..y + h)
        };
        for (at, panel) in all.iter().enumerate() {
            let (across, down) = place(panel);
            if across.start < 0
                || down.start < 0
                || across.is_empty()
                || down.is_empty()
                || across.end > 24
            {
                errors.push(format!("{}: outside the 24 columns", panel["title"]));
            }
            for other in &all[..at] {
                let (other_across, other_down) = place(other);
                if across.start < other_across.end
                    && other_across.start < across.end
                    && down.start < other_down.end
                    && other_down.start < down.end
                {
                    errors.push(format!("{} overlaps {}", panel["title"], other["title"]));
                }
                if panel["id"] == other["id"] {
                    errors.push(format!(
                        "{} and {} have one id",
                        panel["title"], other["title"]
                    ));
                }
            }
        }
        none(&name, &errors)?;
    }
    Ok(())
}
