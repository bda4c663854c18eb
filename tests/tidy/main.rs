//! The tree itself: what files, crates, licences and documents must keep to. Each test lists
//! everything it finds, not the first error.

mod arrows;
mod circles;
mod documents;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Lines a Rust file may have: a file is one idea.
const MOST_LINES: usize = 800;

/// What touches the world, and where alone it may be named, tests aside.
const ROOMS: [(&str, &[&str]); 5] = [
    ("scylla::", &["sinks/src/cassandra/", "bench/store/src/"]),
    (
        "rusqlite::",
        &[
            "sinks/src/sqlite/",
            "log/src/sqlite/",
            "bench/store/src/sqlite.rs",
        ],
    ),
    ("rdkafka::", &["log/src/kafka/"]),
    (
        "tokio_tungstenite::",
        &["ingest/src/finnhub/", "ingest/src/simulator/"],
    ),
    // A decision takes `now` as a parameter.
    (
        "SystemTime::now",
        &[
            "ingest/src/clock.rs",
            "dataflow/src/clock.rs",
            "console/src/",
            "tests/chaos/src/feed.rs",
            "bench/throughput/src/lib.rs",
        ],
    ),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the tree by their path from the root, but for what git ignores or keeps for itself.
fn files() -> Vec<String> {
    let ignored = read(".gitignore");
    let ignored: BTreeSet<&str> = ignored
        .lines()
        .map(|line| line.trim_matches('/'))
        .chain([".git"])
        .collect();
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("a name in UTF-8");
            let path = folder.join(&name);
            match entry.file_type().expect("a kind") {
                _ if ignored.contains(name.as_str()) => {}
                kind if kind.is_dir() => folders.push(path),
                _ => found.push(path.to_str().expect("a path in UTF-8").replace('\\', "/")),
            }
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files with their text.
fn sources() -> Vec<(String, String)> {
    let sources: Vec<_> = files()
        .into_iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| (path.clone(), read(&path)))
        .collect();
    assert!(sources.len() > 50, "the tree has Rust files");
    sources
}

fn none(what: &str, errors: impl IntoIterator<Item = String>) {
    let errors: Vec<String> = errors.into_iter().collect();
    assert!(errors.is_empty(), "{what}:\n  {}", errors.join("\n  "));
}

#[test]
fn every_rust_file_begins_by_saying_what_it_is_for() {
    none(
        "without //! at the top",
        sources()
            .into_iter()
            .filter(|(_, text)| !text.starts_with("//! "))
            .map(|(path, _)| path),
    );
}

#[test]
fn every_rust_file_is_a_part_of_something() {
    let sources = sources();
    let is_part = |path: &str| {
        let (folder, name) = path.rsplit_once('/').expect("in a folder");
        let (stem, of) = if name == "mod.rs" {
            (
                folder.rsplit_once('/').map_or(folder, |(_, last)| last),
                folder,
            )
        } else {
            (name.trim_end_matches(".rs"), path)
        };
        // A crate, or a test of its own; what another file names; or what the file beside its
        // folder, or in it, calls by its stem.
        let is_root = matches!(name, "main.rs" | "lib.rs" | "build.rs")
            || ["tests", "benches", "examples"]
                .iter()
                .any(|kind| folder == *kind || folder.ends_with(&format!("/{kind}")));
        is_root
            || sources
                .iter()
                .filter(|(other, _)| other != of)
                .any(|(_, text)| {
                    text.contains(&format!("/{name}\"]"))
                        || ["mod", "pub mod", "pub(crate) mod"]
                            .iter()
                            .any(|word| text.contains(&format!("{word} {stem};")))
                })
    };
    none(
        "in no crate",
        sources
            .iter()
            .filter(|(path, _)| !is_part(path))
            .map(|(path, _)| path.clone()),
    );
}

#[test]
fn no_rust_file_is_too_long() {
    let long = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > MOST_LINES);
    none(
        "longer than a file should be",
        long.map(|(path, text)| format!("{path}: {} lines", text.lines().count())),
    );
}

#[test]
fn nothing_is_left_unfinished() {
    // Spelt in two pieces, so that this file does not find itself.
    let words = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
    ];
    let found = sources().into_iter().flat_map(|(path, text)| {
        let hits = words
            .into_iter()
            .filter(|word| text.contains(word))
            .map(|word| format!("{path}: {word}"))
            .collect::<Vec<_>>();
        hits.into_iter()
    });
    none("unfinished", found);
}

#[test]
fn no_file_names_a_path_of_somebodys_machine() {
    let folders = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/ho", "me/"),
        concat!("/Us", "ers/"),
    ];
    let texts = files().into_iter().filter_map(|path| {
        fs::read_to_string(root().join(&path))
            .ok()
            .map(|text| (path, text))
    });
    let found = texts.flat_map(|(path, text)| {
        // From the root of the file system, and not in a folder that a variable names.
        let from_root = |line: &str, folder: &str| {
            line.match_indices(folder).any(|(at, _)| {
                !line[..at]
                    .ends_with(|before: char| before.is_alphanumeric() || "_}@\"".contains(before))
            })
        };
        let lines = text
            .lines()
            .enumerate()
            .filter(|(_, line)| folders.iter().any(|folder| from_root(line, folder)));
        lines
            .map(|(at, line)| format!("{path}:{}: {}", at + 1, line.trim()))
            .collect::<Vec<_>>()
    });
    none("paths of one machine", found);
}

#[test]
fn the_world_is_touched_only_where_it_may_be() {
    let found = sources()
        .into_iter()
        .filter(|(path, _)| path.contains("src/"))
        .flat_map(|(path, text)| {
            let outside = ROOMS.into_iter().filter(|(name, rooms)| {
                text.contains(name) && !rooms.iter().any(|room| path.starts_with(room))
            });
            outside
                .map(|(name, _)| format!("{path}: {name}"))
                .collect::<Vec<_>>()
        });
    none("outside their rooms", found);
}

/// What cargo says of the workspace.
fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--no-deps",
        ])
        .current_dir(root())
        .output()
        .expect("cargo starts");
    assert!(
        output.status.success(),
        "after `cargo fetch --locked` this works: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().expect("packages")
}

/// The licences of dependencies are checked by cargo-deny (`deny.toml`).
#[test]
fn our_own_licence_is_here() {
    assert!(read("LICENSE").contains("Apache License"));
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    let files = files();
    let names: Vec<&str> = files
        .iter()
        .filter_map(|path| path.strip_prefix("cassandra/migrations/"))
        .collect();
    assert!(!names.is_empty(), "there are migrations");
    none(
        "not the number expected",
        names
            .iter()
            .zip(1..)
            .filter(|(name, number)| {
                !name.starts_with(&format!("{number:04}_")) || !name.ends_with(".cql")
            })
            .map(|(name, _)| (*name).to_owned()),
    );
}
