//! Which files use which: no circle in the dataflow, and no shared rule between the job and its oracle.

use std::collections::{BTreeMap, BTreeSet};

use crate::{arrows::cycle, none, sources};

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
            if let Some(file) = files.get(&target).filter(|file| *file != path)
                && !target.is_empty()
            {
                used.insert(file.clone());
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
