//! Which crates use which: exactly what ARCHITECTURE.md draws, and never in a circle.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{metadata, none, packages, read};

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
    let metadata = metadata();
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
pub(crate) fn cycle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
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
