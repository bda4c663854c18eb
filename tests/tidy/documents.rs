//! What the documents name exists: paths, functions, tests, and the two commands.

use crate::{files, none, read, root, sources};

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
