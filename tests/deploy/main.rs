//! What is deployed: image, compose files and chart. They must name the same versions, settings
//! that the program knows, files that exist, and open no port to the world. Whether they are legal
//! compose and legal Kubernetes is for `deploy/compose/check` and `deploy/helm/check`.

mod old_producer;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_norway::Value;

fn path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn yaml(file: &str) -> Value {
    serde_norway::from_str(&read(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// `NAME=VALUE` lines of the one file.
fn versions() -> BTreeMap<String, String> {
    let text = read("deploy/versions.env");
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            line.split_once('=')
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .expect("NAME=VALUE")
        })
        .collect()
}

fn string<'a>(value: &'a Value, what: &str) -> &'a str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{what} is no text: {value:?}"))
}

/// Both compose files' services by file and name.
fn services() -> Vec<(&'static str, String, Value)> {
    let mut found = Vec::new();
    for file in ["deploy/compose/compose.yaml", "deploy/compose/finnhub.yaml"] {
        let mut all = yaml(file);
        all.apply_merge().expect("merge keys lead to mappings");
        for (name, service) in all["services"].as_mapping().expect("services") {
            found.push((file, string(name, "a name").to_owned(), service.clone()));
        }
    }
    assert!(found.len() > 8, "the compose files have services");
    found
}

fn list(value: &Value) -> Vec<Value> {
    match value {
        Value::Tagged(tagged) => list(&tagged.value),
        Value::Sequence(items) => items.clone(),
        _ => Vec::new(),
    }
}

fn none(what: &str, errors: Vec<String>) {
    assert!(errors.is_empty(), "{what}:\n  {}", errors.join("\n  "));
}

#[test]
fn versions_stand_in_one_file_and_all_others_say_the_same() {
    let versions = versions();
    let of = |name: &str| {
        versions
            .get(name)
            .map(String::as_str)
            .unwrap_or_else(|| panic!("{name} is not in deploy/versions.env"))
    };
    let mut errors = Vec::new();
    let mut same = |place: &str, found: &str, wanted: String| {
        if found != wanted {
            errors.push(format!("{place}: {found}, not {wanted}"));
        }
    };
    for line in read("deploy/image/Dockerfile")
        .lines()
        .filter_map(|line| line.strip_prefix("ARG "))
    {
        let (name, value) = line.split_once('=').expect("an argument has a default");
        same("deploy/image/Dockerfile", value, of(name).to_owned());
    }
    let rust_version = read("Cargo.toml").lines().find_map(|line| {
        line.strip_prefix("rust-version = ")
            .map(|v| v.trim_matches('"').to_owned())
    });
    let rust = of("RUST_VERSION")
        .rsplit_once('.')
        .map(|(minor, _)| minor.to_owned())
        .expect("major.minor.patch");
    same(
        "Cargo.toml: rust-version",
        &rust_version.expect("a Rust version"),
        rust,
    );

    let values = yaml("deploy/helm/tapeflow/values.yaml");
    let bundled = |server: &str, key: &str| string(&values["bundled"][server][key], key).to_owned();
    same(
        "the chart's Kafka",
        &bundled("kafka", "image"),
        format!("apache/kafka:{}", of("KAFKA_VERSION")),
    );
    same(
        "the chart's Cassandra",
        &bundled("cassandra", "image"),
        format!("cassandra:{}", of("CASSANDRA_VERSION")),
    );
    same(
        "the chart's Grafana",
        &bundled("grafana", "image"),
        format!("grafana/grafana:{}", of("GRAFANA_VERSION")),
    );
    let plugin = format!(
        "hadesarchitect-cassandra-datasource {}",
        of("GRAFANA_CASSANDRA_PLUGIN_VERSION")
    );
    same("the chart's plugin", &bundled("grafana", "plugin"), plugin);
    for (server, name) in [
        ("kafka", "KAFKA_VERSION"),
        ("cassandra", "CASSANDRA_VERSION"),
    ] {
        let file = format!("deploy/dev/{server}/pom.xml");
        assert!(
            read(&file).contains(&format!(">{}<", of(name))),
            "{file} has another version than {}",
            of(name)
        );
    }
    none("other versions", errors);
}

#[test]
fn compose_takes_every_version_from_the_one_file() {
    let versions = versions();
    let mut used: BTreeSet<String> = BTreeSet::new();
    let mut errors = Vec::new();
    for (file, name, service) in services() {
        let Some(image) = service["image"].as_str() else {
            continue;
        };
        if image != "tapeflow:local" && !image.contains("_VERSION:?}") {
            errors.push(format!("{file}: {name}: {image}"));
        }
    }
    none("images whose version stands elsewhere", errors);
    for part in read("deploy/compose/compose.yaml")
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split_once('}'))
    {
        let name = part.0.trim_end_matches(":?");
        if name.ends_with("_VERSION") {
            assert!(
                versions.contains_key(name),
                "deploy/versions.env lacks {name}"
            );
            used.insert(name.to_owned());
        }
    }
    assert_eq!(
        used,
        versions.into_keys().collect(),
        "versions that compose uses, and those there are"
    );
    assert_eq!(
        read("deploy/compose/.env"),
        read("deploy/versions.env"),
        "deploy/compose/.env leads to the one file"
    );
}

#[test]
fn compose_opens_ports_on_loopback_alone() {
    let (mut ports, mut errors) = (BTreeMap::new(), Vec::new());
    for (file, name, service) in services() {
        for port in list(&service["ports"]) {
            let port = string(&port, "a port").to_owned();
            if !port.starts_with("127.0.0.1:") {
                errors.push(format!("{file}: {name}: {port}"));
            }
            // The feed's stands in both files: where there is no simulated market, ingest opens it
            // itself.
            if let Some(other) = ports.insert((file, port.clone()), name.clone()) {
                errors.push(format!("{file}: {name} and {other}: {port}"));
            }
        }
    }
    assert!(ports.len() > 6, "ports are opened");
    none("open to others than this machine, or twice", errors);
}

#[test]
fn what_compose_mounts_is_there() {
    let base = path("deploy/compose");
    let missing = services().into_iter().flat_map(|(file, name, service)| {
        let sources: Vec<String> = list(&service["volumes"])
            .iter()
            .filter_map(|v| v.as_str()?.split(':').next().map(str::to_owned))
            .collect();
        let gone = sources
            .into_iter()
            .filter(|source| source.starts_with('.'))
            .filter(|source| !base.join(source).exists())
            .collect::<Vec<_>>();
        gone.into_iter()
            .map(move |source| format!("{file}: {name}: {source}"))
    });
    none("not there", missing.collect());
    assert_eq!(
        read("deploy/compose/simulated-token").trim(),
        "simulated",
        "what the simulated market asks for"
    );
}

#[test]
fn containers_of_ours_in_compose_may_do_nothing_they_need_not() {
    let ours: Vec<_> = services()
        .into_iter()
        .filter(|(_, _, service)| service["image"].as_str() == Some("tapeflow:local"))
        .collect();
    assert_eq!(ours.len(), 4, "init, simulate, ingest, dataflow");
    for (_, name, service) in ours {
        assert_eq!(service["read_only"].as_bool(), Some(true), "{name}");
        assert_eq!(list(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(
            list(&service["security_opt"]),
            ["no-new-privileges:true"],
            "{name}"
        );
    }
    assert!(
        read("deploy/image/Dockerfile").contains("\nUSER 10001:10001\n"),
        "the image's user is a number and not root"
    );
}

/// Words of `--help` of a command.
fn help(command: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tapeflow"))
        .args([command, "--help"])
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "tapeflow {command} --help");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_setting_that_is_deployed_is_one_of_the_program() {
    let known: String = ["init", "simulate", "ingest", "dataflow"]
        .map(help)
        .concat();
    let mut places = Vec::new();
    for entry in fs::read_dir(path("deploy/helm/tapeflow/templates")).expect("templates") {
        let file = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8");
        places.push(format!("deploy/helm/tapeflow/templates/{file}"));
    }
    places.extend([
        "deploy/compose/compose.yaml".into(),
        "deploy/compose/finnhub.yaml".into(),
    ]);
    let (mut count, mut errors) = (0, Vec::new());
    for place in places {
        let text = read(&place);
        for name in text
            .split(|c: char| !c.is_ascii_uppercase() && c != '_')
            .filter(|word| word.starts_with("TAPEFLOW_"))
        {
            // Grafana's own, of its provisioning.
            if name.starts_with("TAPEFLOW_GRAFANA_") {
                continue;
            }
            count += 1;
            if !known.contains(&format!("[env: {name}=")) {
                errors.push(format!("{place}: {name}"));
            }
        }
    }
    assert!(count > 25, "{count} settings are given");
    none("settings the program does not know", errors);
}

#[test]
fn every_flag_that_compose_gives_is_one_of_its_command() {
    let mut errors = Vec::new();
    for (file, name, service) in services() {
        let words: Vec<String> = list(&service["command"])
            .iter()
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect();
        let Some((command, flags)) = words.split_first() else {
            continue;
        };
        if !["init", "simulate", "ingest", "dataflow"].contains(&command.as_str()) {
            assert!(
                service["image"]
                    .as_str()
                    .is_some_and(|image| !image.starts_with("tapeflow")),
                "{file}: {name}: {command} is no command of ours"
            );
            continue;
        }
        let help = help(command);
        let unknown_peers = flags.iter().filter(|flag| {
            flag.starts_with("--")
                && !help.contains(&format!("{flag} "))
                && !help.contains(&format!("{flag}\n"))
        });
        errors.extend(unknown_peers.map(|flag| format!("{file}: {name}: {command} {flag}")));
    }
    none("flags the program does not know", errors);
}

#[test]
fn prometheus_asks_the_processes_where_they_serve() {
    let targets = list(
        &yaml("deploy/compose/prometheus.yaml")["scrape_configs"][0]["static_configs"][0]["targets"],
    );
    let served: BTreeSet<String> = services()
        .into_iter()
        .filter_map(|(_, name, service)| {
            service["environment"]["TAPEFLOW_HTTP"]
                .as_str()
                .map(|at| at.replace("0.0.0.0", &name))
        })
        .collect();
    assert_eq!(
        targets
            .iter()
            .map(|target| string(target, "a target").to_owned())
            .collect::<BTreeSet<_>>(),
        served
    );
}
