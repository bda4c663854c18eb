//! The tree itself: what files, crates, licences and documents must keep to. Each test lists
//! everything it finds, not the first error.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Lines a Rust file may have: a file is one idea.
const MOST_LINES: usize = 800;

/// Which of our crates each of our crates may use, tests aside.
const ARROWS: [(&str, &[&str]); 11] = [
    ("tapeflow-schemas", &[]),
    // Written from the design, so that it can contradict the code.
    ("tapeflow-model", &[]),
    ("tapeflow-ingest", &["tapeflow-schemas"]),
    ("tapeflow-sinks", &["tapeflow-schemas"]),
    ("tapeflow-dataflow", &["tapeflow-schemas", "tapeflow-sinks"]),
    // It checks the others, so it may share no rule with them.
    ("tapeflow-oracle", &["tapeflow-schemas"]),
    (
        "tapeflow",
        &[
            "tapeflow-schemas",
            "tapeflow-ingest",
            "tapeflow-sinks",
            "tapeflow-dataflow",
            "tapeflow-oracle",
            "tapeflow-throughput",
        ],
    ),
    // It knows the job as a process and by its bars, not by its code.
    (
        "tapeflow-throughput",
        &["tapeflow-schemas", "tapeflow-sinks"],
    ),
    // It runs the binary, and is used by nobody.
    (
        "tapeflow-chaos",
        &[
            "tapeflow-schemas",
            "tapeflow-ingest",
            "tapeflow-sinks",
            "tapeflow-dataflow",
        ],
    ),
    (
        "tapeflow-restart",
        &["tapeflow-schemas", "tapeflow-sinks", "tapeflow-throughput"],
    ),
    (
        "tapeflow-simulation",
        &[
            "tapeflow-schemas",
            "tapeflow-sinks",
            "tapeflow-dataflow",
            "tapeflow-oracle",
        ],
    ),
];

/// What touches the world, and where alone it may be named, tests aside.
const ROOMS: [(&str, &[&str]); 5] = [
    ("scylla::", &["sinks/src/cassandra/"]),
    ("rusqlite::", &["sinks/src/sqlite/"]),
    (
        "rdkafka::",
        &[
            "dataflow/src/log_kafka",
            "ingest/src/publish_kafka",
            "src/kafka.rs",
            "tests/chaos/src/topics.rs",
            "bench/throughput/src/topic.rs",
        ],
    ),
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
            "console/src/clock.rs",
            "tests/chaos/src/feed.rs",
            "bench/throughput/src/lib.rs",
        ],
    ),
];

/// Licences that an Apache-2.0 program may carry along.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
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
fn metadata(arguments: &[&str]) -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(arguments)
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

#[test]
fn crates_use_each_other_only_along_the_arrows() {
    let metadata = metadata(&["--no-deps"]);
    let arrows = BTreeMap::from(ARROWS);
    let mut seen = BTreeSet::new();
    let mut errors = Vec::new();
    for package in packages(&metadata) {
        let name = package["name"].as_str().expect("a name");
        seen.insert(name);
        let Some(allowed) = arrows.get(name) else {
            errors.push(format!("{name} is not in the list"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let of = dependency["name"].as_str().expect("a name");
            // `kind` is null for normal dependencies, "dev" or "build" for others.
            if dependency["kind"].is_null() && of.starts_with("tapeflow") && !allowed.contains(&of)
            {
                errors.push(format!("{name} uses {of}"));
            }
        }
    }
    errors.extend(
        arrows
            .keys()
            .filter(|name| !seen.contains(*name))
            .map(|name| format!("{name} is in the list and not in the workspace")),
    );
    none("arrows", errors);
}

/// Whether an SPDX expression can be satisfied with allowed licences: `OR`, and the old `/`, need
/// one side, `AND` needs both.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = either(&mut words);
    allowed && words.peek().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words<'_>) -> bool {
    let mut allowed = both(words);
    while words.next_if_eq(&"OR").is_some() {
        allowed |= both(words);
    }
    allowed
}

fn both(words: &mut Words<'_>) -> bool {
    let mut allowed = one(words);
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut Words<'_>) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let allowed = either(words);
        return words.next_if_eq(&")").is_some() && allowed;
    }
    let Some(name) = words.next() else {
        return false;
    };
    match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => LICENCES.contains(&format!("{name} WITH {exception}").as_str()),
        None => LICENCES.contains(&name),
    }
}

#[test]
fn licence_expressions_are_understood() {
    for allowed in [
        "MIT",
        "GPL-3.0 OR MIT",
        "MIT/Apache-2.0",
        "(MIT OR GPL-3.0) AND ISC",
        "Apache-2.0 WITH LLVM-exception OR X",
    ] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR ISC) AND GPL-3.0",
        "MIT WITH a-twist",
        "(MIT",
        "MIT ISC",
        "MIT AND",
    ] {
        assert!(!is_allowed(refused), "{refused}");
    }
}

#[test]
fn every_dependency_has_a_licence_that_may_be_used() {
    let version = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .arg("-vV")
        .output()
        .expect("rustc starts");
    let version = String::from_utf8(version.stdout).expect("text");
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("the host");
    // Packages of other systems may never have been downloaded.
    let metadata = metadata(&["--filter-platform", host]);
    assert!(
        packages(&metadata).len() > 100,
        "the whole tree of dependencies"
    );
    let refused = packages(&metadata)
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed));
    none(
        "licences",
        refused.map(|package| {
            format!(
                "{} {}: {}",
                package["name"], package["version"], package["license"]
            )
        }),
    );
    assert!(
        read("LICENSE").contains("Apache License"),
        "our own licence is here"
    );
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

/// What a document has in backticks on one line, and what its links lead to.
fn references(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
            found.extend(
                line.split("](")
                    .skip(1)
                    .filter_map(|rest| rest.split_once(')'))
                    .map(|(target, _)| target.to_owned()),
            );
        }
    }
    found
}

/// A path from the root; not an address, a flag's value or a file of the running program.
fn is_path(reference: &str) -> bool {
    let plain = reference
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let ending = [
        ".rs", ".md", ".toml", ".cql", ".avsc", ".py", ".csv", ".jsonl",
    ]
    .iter()
    .any(|ending| reference.ends_with(ending));
    plain && (reference.contains('/') || ending) && !reference.starts_with(['.', '/', '-'])
        || reference == ".ci/run"
}

/// `file::function`, or `folder::function`: a test or a function by its file's name.
fn is_function(reference: &str) -> Option<(&str, &str)> {
    let (file, function) = reference.split_once("::")?;
    let plain = |word: &str| {
        !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    (plain(file) && plain(function)).then_some((file, function))
}

#[test]
fn every_path_in_the_documents_exists() {
    let missing = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "MIGRATION.md",
    ]
    .into_iter()
    .flat_map(|document| {
        let paths: Vec<String> = references(&read(document))
            .into_iter()
            .filter(|reference| is_path(reference))
            .collect();
        paths
            .into_iter()
            .filter(|path| !root().join(path).exists())
            .map(move |path| format!("{document}: {path}"))
    });
    none("not there", missing);
}

#[test]
fn every_test_in_the_architecture_document_exists() {
    let sources = sources();
    let text = read("ARCHITECTURE.md");
    let references = references(&text);
    let functions: Vec<(&str, &str)> = references
        .iter()
        .filter_map(|reference| is_function(reference))
        .collect();
    assert!(
        functions.len() > 20,
        "the document names the tests that hold its invariants as `file::test`"
    );
    let missing = functions.into_iter().filter(|(file, function)| {
        !sources.iter().any(|(path, text)| {
            let named =
                path.ends_with(&format!("/{file}.rs")) || path.contains(&format!("/{file}/"));
            let spellings = [
                format!("fn {function}("),
                format!("fn {function}<"),
                format!("\"{function}\""),
            ];
            named && spellings.iter().any(|spelling| text.contains(spelling))
        })
    });
    none(
        "no such function or test",
        missing.map(|(file, function)| format!("{file}::{function}")),
    );
}

#[test]
fn the_two_commands_come_first_in_the_readme() {
    let text = read("README.md");
    let first = text.split("\n## ").next().expect("a beginning");
    for command in ["cargo run --release", "cargo test --workspace"] {
        assert!(
            first.lines().any(|line| line
                .split('#')
                .next()
                .is_some_and(|line| line.trim() == command)),
            "`{command}` stands before the first section"
        );
    }
}
