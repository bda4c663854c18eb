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

/// What touches the world, and where alone it may be named, tests aside.
const ROOMS: [(&str, &[&str]); 5] = [
    ("scylla::", &["sinks/src/cassandra/"]),
    ("rusqlite::", &["sinks/src/sqlite/", "log/src/sqlite/"]),
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

/// The rows of the table under a heading of ARCHITECTURE.md, as the words in backticks of each cell.
fn architecture_table(heading: &str) -> Vec<Vec<Vec<String>>> {
    let text = read("ARCHITECTURE.md");
    let section = text
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .unwrap_or_else(|| panic!("ARCHITECTURE.md has a section {heading:?}"));
    let rows: Vec<_> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells
                .map(|cell| {
                    cell.split('`')
                        .skip(1)
                        .step_by(2)
                        .map(str::to_owned)
                        .collect()
                })
                .collect()
        })
        .collect();
    assert!(rows.len() > 5, "section {heading:?} has a table");
    rows
}

/// The crates of the workspace and which of each other they use: as normal dependencies, or with
/// those of tests too.
fn dependencies(with_tests: bool) -> BTreeMap<String, BTreeSet<String>> {
    let short = |name: &str| name.strip_prefix("tapeflow-").unwrap_or(name).to_owned();
    let metadata = metadata(&["--no-deps"]);
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies");
        all.iter()
            // `kind` is null for normal dependencies, "dev" or "build" for others.
            .filter(|dependency| with_tests || dependency["kind"].is_null())
            .filter_map(|dependency| dependency["name"].as_str())
            .filter(|name| name.starts_with("tapeflow"))
            .map(short)
            .collect()
    };
    packages(&metadata)
        .iter()
        .map(|package| {
            (
                short(package["name"].as_str().expect("a name")),
                of(package),
            )
        })
        .collect()
}

/// A cycle in a graph, if there is one.
fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    let mut left: BTreeMap<&String, BTreeSet<&String>> = graph
        .iter()
        .map(|(from, to)| {
            (
                from,
                to.iter().filter(|to| graph.contains_key(*to)).collect(),
            )
        })
        .collect();
    // What depends on nothing that is left is in no cycle.
    loop {
        let free: Vec<&String> = left
            .iter()
            .filter(|(_, to)| to.is_empty())
            .map(|(from, _)| *from)
            .collect();
        if free.is_empty() {
            break;
        }
        for node in free {
            left.remove(node);
            left.values_mut().for_each(|to| {
                to.remove(node);
            });
        }
    }
    let mut path: Vec<&String> = vec![left.keys().next()?];
    loop {
        let next = *left[path.last()?].first()?;
        if let Some(at) = path.iter().position(|node| *node == next) {
            return Some(path[at..].iter().map(|node| (*node).clone()).collect());
        }
        path.push(next);
    }
}

#[test]
fn crates_use_each_other_exactly_along_the_arrows_of_the_architecture_document() {
    let drawn: BTreeMap<String, BTreeSet<String>> = architecture_table("Arrows")
        .into_iter()
        .map(|row| (row[0][0].clone(), row[1].iter().cloned().collect()))
        .collect();
    let found = dependencies(false);
    let mut faults = Vec::new();
    for (name, used) in &drawn {
        match found.get(name) {
            Some(real) if real == used => {}
            Some(real) => {
                faults
                    .extend(real.difference(used).map(|other| {
                        format!("{name} uses {other}, which the table does not draw")
                    }));
                faults.extend(used.difference(real).map(|other| {
                    format!("the table draws {name} to {other}, which it does not use")
                }));
            }
            None => faults.push(format!("{name} is in the table and not in the workspace")),
        }
    }
    // Tests and benches use the rooms, and no room uses them.
    for (name, used) in &found {
        if !drawn.contains_key(name) {
            let by = drawn.iter().filter(|(_, used)| used.contains(name));
            faults.extend(by.map(|(by, _)| format!("{by} uses {name}, which is not in the table")));
        }
        faults.extend(
            used.iter()
                .filter(|other| !found.contains_key(*other))
                .map(|other| format!("{name} uses {other}, which is not in the workspace")),
        );
    }
    none("arrows", faults);
}

#[test]
fn no_crate_depends_on_itself_by_way_of_its_tests() {
    let graph = dependencies(true);
    assert!(graph.len() > 10, "the workspace has crates");
    assert_eq!(
        cycle(&graph),
        None,
        "a cycle of dependencies, tests included"
    );
}

#[test]
fn a_cycle_is_found() {
    let graph = |edges: &[(&str, &[&str])]| -> BTreeMap<String, BTreeSet<String>> {
        let edge = |(from, to): &(&str, &[&str])| {
            (
                (*from).to_owned(),
                to.iter().map(|to| (*to).to_owned()).collect(),
            )
        };
        edges.iter().map(edge).collect()
    };
    assert_eq!(
        cycle(&graph(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])),
        None
    );
    let found = cycle(&graph(&[("a", &["b"]), ("b", &["c"]), ("c", &["b"])]));
    assert_eq!(found, Some(vec!["b".to_owned(), "c".to_owned()]));
    assert_eq!(cycle(&graph(&[("a", &["a"])])), Some(vec!["a".to_owned()]));
}

/// The code of a file without comments and without what follows `#[cfg(test)]`.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or(text);
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// The paths that a `use` tree or an expression names, from their first segment on.
fn paths(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((before, inner)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return vec![
            path.split("::")
                .map(|part| part.trim().to_owned())
                .collect(),
        ];
    };
    let before: Vec<String> = before
        .split("::")
        .map(|part| part.trim().to_owned())
        .filter(|part| !part.is_empty())
        .collect();
    let inner = inner.trim().strip_suffix('}').unwrap_or(inner);
    let (mut found, mut depth, mut begin) = (Vec::new(), 0, 0);
    let mut parts = Vec::new();
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inner[begin..]);
    for part in parts.into_iter().filter(|part| !part.trim().is_empty()) {
        for path in paths(part) {
            found.push([before.clone(), path].concat());
        }
    }
    found
}

/// Which files of a crate use which, by the modules that they name after `crate::` and `super::`. A
/// declaration (`mod`) and a re-export (`pub use`) are no use.
fn uses_between_files(folder: &str) -> BTreeMap<String, BTreeSet<String>> {
    let sources: Vec<(String, String)> = sources()
        .into_iter()
        .filter_map(|(path, text)| Some((path.strip_prefix(folder)?.to_owned(), code(&text))))
        .collect();
    assert!(!sources.is_empty(), "{folder} has Rust files");
    let module = |path: &str| -> Vec<String> {
        let parts = path.trim_end_matches(".rs").split('/').map(str::to_owned);
        let mut parts: Vec<String> = parts.collect();
        if parts
            .last()
            .is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str()))
        {
            parts.pop();
        }
        parts
    };
    let files: BTreeMap<Vec<String>, String> = sources
        .iter()
        .map(|(path, _)| (module(path), path.clone()))
        .collect();
    // What the root re-exports is used where it is defined.
    let mut exports: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, text) in sources
        .iter()
        .filter(|(path, _)| path == "lib.rs" || path == "main.rs")
    {
        for tree in text
            .split("pub use ")
            .skip(1)
            .filter_map(|rest| rest.split(';').next())
        {
            for path in paths(tree) {
                let path: Vec<String> = path
                    .into_iter()
                    .filter(|part| !["self", "crate"].contains(&part.as_str()))
                    .collect();
                if let Some((name, from)) = path.split_last() {
                    exports.insert(name.clone(), from.to_vec());
                }
            }
        }
        let _ = path;
    }
    let mut graph = BTreeMap::new();
    for (path, text) in &sources {
        let own = module(path);
        let mut used = BTreeSet::new();
        let mut note = |mut target: Vec<String>| {
            if let Some(from) = target.first().and_then(|name| exports.get(name)) {
                target = from.clone();
            }
            // The longest part that is a file.
            while !files.contains_key(&target) && !target.is_empty() {
                target.pop();
            }
            if let Some(file) = files.get(&target).filter(|file| *file != path) {
                if !target.is_empty() {
                    used.insert(file.clone());
                }
            }
        };
        let without_exports = text
            .split("pub use ")
            .enumerate()
            .map(|(at, part)| match at {
                0 => part,
                _ => part.split_once(';').map_or("", |(_, rest)| rest),
            })
            .collect::<Vec<_>>()
            .join("\n");
        for tree in without_exports.split("use ").skip(1) {
            let tree = tree.split(';').next().unwrap_or_default();
            for path in paths(&tree.replace('\n', " ")) {
                let (root, rest) = path.split_first().expect("a segment");
                let above = path.iter().take_while(|part| *part == "super").count();
                match root.as_str() {
                    "crate" => note(rest.to_vec()),
                    "super" if above <= own.len() => {
                        note([&own[..own.len() - above], &path[above..]].concat());
                    }
                    _ => {}
                }
            }
        }
        for rest in without_exports.split("crate::").skip(1) {
            let end = rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
                .unwrap_or(rest.len());
            let path = rest[..end].split("::").map(str::to_owned);
            note(path.filter(|part| !part.is_empty()).collect());
        }
        graph.insert(path.clone(), used);
    }
    graph
}

#[test]
fn no_files_of_the_dataflow_use_each_other_in_a_circle() {
    let graph = uses_between_files("dataflow/src/");
    let edges: usize = graph.values().map(BTreeSet::len).sum();
    assert!(
        edges > 50,
        "{edges} uses between files: the reading of `use` is broken"
    );
    assert_eq!(cycle(&graph), None, "a circle of files in dataflow/src");
}

#[test]
fn the_oracle_takes_only_vocabulary_from_schemas() {
    let found = sources()
        .into_iter()
        .filter(|(path, _)| path.starts_with("verify/oracle/src/"))
        .flat_map(|(path, text)| {
            let trees: Vec<String> = code(&text)
                .split("tapeflow_schemas::")
                .skip(1)
                .map(|rest| rest.split(';').next().unwrap_or_default().to_owned())
                .collect();
            let taken = trees.iter().flat_map(|tree| paths(tree));
            // It checks the job, so it may not add up, encode or lay out bars and views as the job
            // does.
            taken
                .filter(|path| {
                    let name = path.first().map(String::as_str).unwrap_or_default();
                    [
                        "totals",
                        "bar",
                        "view",
                        "codec",
                        "Totals",
                        "Sums",
                        "BarState",
                        "BarWrite",
                        "ViewState",
                        "ViewEntry",
                        "ViewWrite",
                    ]
                    .contains(&name)
                })
                .map(|name| format!("{path}: {}", name.join("::")))
                .collect::<Vec<_>>()
        });
    none("shared rules", found);
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

/// What a document has in backticks on one line. The target `documents` follows its links.
fn references(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
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
    let documents = files().into_iter().filter(|path| {
        let in_root = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].contains(&path.as_str());
        in_root || path.starts_with("docs/")
    });
    let missing = documents.flat_map(|document| {
        references(&read(&document))
            .into_iter()
            .filter(|reference| is_path(reference) && !root().join(reference).exists())
            .map(move |path| format!("{document}: {path}"))
            .collect::<Vec<_>>()
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
