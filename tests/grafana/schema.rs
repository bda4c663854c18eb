//! Dashboards against the schema of Grafana 11.3, which refuses every word it does not know.

use jsonschema::Validator;
use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::files::{self, list, none, panels, word};

/// Transformations of Grafana 11.3 that dashboards here may use; the schema takes any name.
const TRANSFORMATIONS: [&str; 7] = [
    "filterByValue",
    "filterFieldsByName",
    "joinByField",
    "limit",
    "merge",
    "organize",
    "sortBy",
];

/// Changes something in a dashboard that may not be changed.
type Spoil = fn(&mut Value);

/// The schemas by name: `dashboard`, `timeseries.options`, `timeseries.custom` and so on, and the
/// queries.
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

    /// One of them; a panel type without one is a fault of whoever drew it.
    fn named(&self, name: &str) -> Result<Validator, String> {
        let schema = self
            .grafana
            .get(name)
            .or_else(|| self.queries.get(name))
            .ok_or_else(|| format!("no schema {name}: add it to grafana/schema/make"))?;
        jsonschema::validator_for(schema).map_err(|fault| format!("schema {name}: {fault}"))
    }

    fn check(&self, name: &str, at: &str, value: &Value, faults: &mut Vec<String>) {
        match self.named(name) {
            // What did not match is printed whole, and may be the dashboard.
            Ok(schema) => faults.extend(schema.iter_errors(value).map(|fault| {
                let said: String = fault.to_string().chars().take(300).collect();
                format!("{at}{}: {said}", fault.instance_path())
            })),
            Err(fault) => faults.push(format!("{at}: {fault}")),
        }
    }

    /// Everything the schemas have to say of a dashboard.
    fn faults(&self, dashboard: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        self.check("dashboard", "", dashboard, &mut faults);
        for panel in panels(dashboard) {
            let (at, kind) = (word(&panel["title"]), word(&panel["type"]));
            self.check(
                &format!("{kind}.options"),
                &format!("{at}: options"),
                &panel["options"],
                &mut faults,
            );
            let custom = panel.pointer("/fieldConfig/defaults/custom");
            if let Some(custom) = custom {
                self.check(
                    &format!("{kind}.custom"),
                    &format!("{at}: custom"),
                    custom,
                    &mut faults,
                );
            }
            for target in list(&panel["targets"]) {
                let query = format!("{}.query", word(&target["datasource"]["type"]));
                self.check(&query, &format!("{at}: target"), target, &mut faults);
            }
            for transformation in list(&panel["transformations"]) {
                if !TRANSFORMATIONS.contains(&word(&transformation["id"])) {
                    faults.push(format!("{at}: transformation {}", transformation["id"]));
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
                &mut faults,
            );
        }
        faults
    }
}

pub(crate) fn dashboards() -> Result<(), Failed> {
    let schemas = Schemas::load()?;
    for (name, dashboard) in files::dashboards()? {
        none(&name, &schemas.faults(&dashboard))?;
        if dashboard["schemaVersion"] != 39 {
            return Err(format!("{name}: 39 is the schema version of Grafana 11.3").into());
        }
    }
    Ok(())
}

/// Each way of misspelling is found. Without this a schema that allows everything would pass.
pub(crate) fn spoilt() -> Result<(), Failed> {
    let schemas = Schemas::load()?;
    let sound = files::json("dashboards/market.json")?;
    let spoil: [(&str, Spoil); 10] = [
        ("a word of the dashboard", |d| d["refesh"] = json!("5s")),
        ("a word of a panel", |d| {
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
        ("a word of a panel's options", |d| {
            d["panels"][0]["options"]["colourMode"] = json!("value")
        }),
        ("a value of a panel's options", |d| {
            d["panels"][3]["options"]["tooltip"]["mode"] = json!("some")
        }),
        ("a word of a field's settings", |d| {
            d["panels"][3]["fieldConfig"]["defaults"]["custom"]["lineWith"] = json!(1)
        }),
        ("a word of a query", |d| {
            d["panels"][3]["targets"][0]["rawQeury"] = json!(true)
        }),
        ("a variable's refresh", |d| {
            d["templating"]["list"][0]["refresh"] = json!(7)
        }),
        ("a transformation", |d| {
            d["panels"][3]["transformations"][0]["id"] = json!("sortby")
        }),
    ];
    none("the sound one", &schemas.faults(&sound))?;
    let passed: Vec<String> = spoil
        .into_iter()
        .filter(|(_, change)| {
            let mut dashboard = sound.clone();
            change(&mut dashboard);
            dashboard == sound || schemas.faults(&dashboard).is_empty()
        })
        .map(|(what, _)| what.to_owned())
        .collect();
    none("not refused", &passed)
}

pub(crate) fn told() -> Result<(), Failed> {
    for (name, dashboard) in files::dashboards()? {
        let mut faults = Vec::new();
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
            faults.extend(
                wanting
                    .into_iter()
                    .filter(|(_, wanting)| *wanting)
                    .map(|(what, _)| format!("{title}: no {what}")),
            );
        }
        none(&name, &faults)?;
    }
    Ok(())
}

pub(crate) fn places() -> Result<(), Failed> {
    for (name, dashboard) in files::dashboards()? {
        let mut faults = Vec::new();
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
                faults.push(format!("{}: outside the 24 columns", panel["title"]));
            }
            for other in &all[..at] {
                let (other_across, other_down) = place(other);
                if across.start < other_across.end
                    && other_across.start < across.end
                    && down.start < other_down.end
                    && other_down.start < down.end
                {
                    faults.push(format!("{} lies over {}", panel["title"], other["title"]));
                }
                if panel["id"] == other["id"] {
                    faults.push(format!(
                        "{} and {} have one id",
                        panel["title"], other["title"]
                    ));
                }
            }
        }
        none(&name, &faults)?;
    }
    Ok(())
}
