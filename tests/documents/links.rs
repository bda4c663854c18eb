//! The relative links of all Markdown files: each leads to a file, and to a heading of it if it
//! names one.

use std::{collections::BTreeSet, fs, path::PathBuf};

use tapeflow_support::{binary::root, blocks::read};

/// All Markdown files by their path from the root, but for those in folders that git ignores.
pub(crate) fn markdown_files() -> Vec<String> {
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
            let name = entry.file_name().into_string().expect("UTF-8");
            if ignored.contains(name.as_str()) {
                continue;
            }
            let path = folder.join(&name);
            if entry.file_type().expect("a kind").is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The lines outside of fenced blocks, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            return None;
        }
        (!in_block).then_some((at + 1, line))
    })
}

/// What is in backticks on one line, with the number of the line.
pub(crate) fn inline_code(text: &str) -> Vec<(usize, String)> {
    prose(text)
        .flat_map(|(at, line)| {
            line.split('`')
                .skip(1)
                .step_by(2)
                .map(move |code| (at, code.to_owned()))
        })
        .collect()
}

/// The targets of `[text](target)` and `![text](target)`, with the number of the line.
fn targets(text: &str) -> Vec<(usize, String)> {
    prose(text)
        .flat_map(|(at, line)| {
            line.split("](")
                .skip(1)
                .filter_map(|rest| rest.split_once(')'))
                .map(move |(target, _)| (at, target.to_owned()))
        })
        .collect()
}

/// The anchors of a document's headings, as forges make them: lower case, hyphens for spaces, no
/// other punctuation, and a number where a heading repeats.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text).filter(|(_, line)| line.starts_with('#')) {
        let slug: String = line
            .trim_start_matches('#')
            .trim()
            .chars()
            .flat_map(char::to_lowercase)
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let mut anchor = slug.clone();
        let mut repeats = 0;
        while !anchors.insert(anchor) {
            repeats += 1;
            anchor = format!("{slug}-{repeats}");
        }
    }
    anchors
}

/// Each relative link that leads nowhere.
pub(crate) fn broken() -> Vec<String> {
    let mut broken = Vec::new();
    let mut relative = 0;
    for document in markdown_files() {
        let text = read(&document);
        let folder = root().join(&document);
        let folder = folder.parent().expect("in a folder");
        for (at, target) in targets(&text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            relative += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() {
                root().join(&document)
            } else {
                folder.join(path)
            };
            let leads = if anchor.is_empty() {
                file.exists()
            } else {
                fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor))
            };
            if !leads {
                broken.push(format!("{document}:{at}: {target}"));
            }
        }
    }
    assert!(relative > 20, "the documents link to each other");
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_are_those_of_a_forge() {
        let text =
            "# Moving, and going back\n## A `code` word\n```sh\n# no heading\n```\n## A\n## A\n";
        let want = ["moving-and-going-back", "a-code-word", "a", "a-1"];
        assert_eq!(anchors(text), want.into_iter().map(str::to_owned).collect());
    }
}
