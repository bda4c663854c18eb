//! One word for one thing: no text file uses a word that the table "Retired words" in
//! `docs/glossary.md` replaces by another.
//!
//! A retired word matches in any case, with or without a final `s`, and as a part of an identifier:
//! `flush stamp` is found in `flush_stamp`, `FlushStamp` and `flush-stamps`. It does not match
//! inside a longer word: `stamp` is not found in `timestamp`.

use std::{
    collections::BTreeSet,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

const GLOSSARY: &str = "docs/glossary.md";

/// Files that may use retired words, and why. A folder ends with `/`.
const EXEMPT: [(&str, &str); 7] = [
    (GLOSSARY, "it lists the retired words"),
    ("CHANGELOG.md", "it may name what was renamed"),
    (".git-blame-ignore-revs", "it quotes subjects of commits"),
    ("Cargo.lock", "it names packages of others"),
    ("LICENSE", "the text of the Apache licence"),
    (
        "grafana/schema/grafana-11.3.json",
        "a copy of Grafana's own schema",
    ),
    (
        "tests/words.rs",
        "it quotes retired words to test the matcher",
    ),
];

/// Endings of generated files and of data. They are not written by hand.
const NOT_PROSE: [&str; 5] = [".jsonl", ".csv", ".sum", ".png", ".lock"];

/// Names of other people's things that contain a retired word.
const FOREIGN: [&str; 5] = [
    // Apache ZooKeeper.
    "zoo keeper",
    // Kubernetes' and Compose's time between SIGTERM and SIGKILL.
    "grace period",
    // An option of Cassandra's tables.
    "gc grace seconds",
    // The command of buildah that builds a Dockerfile.
    "buildah bud",
    // A method of timely's input handles.
    "for each stamp",
];

/// A row of the table.
#[derive(Debug)]
struct Retired {
    words: Vec<String>,
    instead: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The table under the heading "Retired words".
fn retired(glossary: &str) -> Vec<Retired> {
    let section = glossary
        .split("\n## ")
        .find(|section| section.starts_with("Retired words"))
        .expect("the glossary has a section \"Retired words\"");
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [word, instead] = cells[..] else {
            panic!("a row of the table has two cells: {row}")
        };
        let word = word
            .strip_prefix('`')
            .and_then(|word| word.strip_suffix('`'))
            .unwrap_or_else(|| panic!("a retired word is in backticks: {row}"));
        let words = tokens(word).into_iter().map(|token| token.word).collect();
        Retired {
            words,
            instead: instead.to_owned(),
        }
    })
    .collect()
}

/// A word of a line, in lower case, and where it is.
#[derive(Debug)]
struct Token {
    word: String,
    start: usize,
    end: usize,
}

/// The words of a line. An identifier falls into its parts: `JobHead` and `job_head` into two.
fn tokens(line: &str) -> Vec<Token> {
    let bytes = line.as_bytes();
    let mut found: Vec<Token> = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        if !bytes[start].is_ascii_alphabetic() {
            start += 1;
            continue;
        }
        let mut end = start + 1;
        while end < bytes.len() && bytes[end].is_ascii_alphabetic() {
            let after_lower =
                bytes[end - 1].is_ascii_lowercase() && bytes[end].is_ascii_uppercase();
            // The last capital of a run begins the next word: `XMLFile` is `xml` and `file`.
            let ends_capitals = bytes[end - 1].is_ascii_uppercase()
                && bytes[end].is_ascii_uppercase()
                && bytes.get(end + 1).is_some_and(u8::is_ascii_lowercase);
            if after_lower || ends_capitals {
                break;
            }
            end += 1;
        }
        found.push(Token {
            word: line[start..end].to_ascii_lowercase(),
            start,
            end,
        });
        start = end;
    }
    found
}

/// Whether a phrase begins at this token. Its last word may have an `s` at the end.
fn begins(line: &str, tokens: &[Token], at: usize, phrase: &[String]) -> bool {
    let Some(here) = tokens.get(at..at + phrase.len()) else {
        return false;
    };
    let last = phrase.len() - 1;
    let words = here
        .iter()
        .zip(phrase)
        .enumerate()
        .all(|(n, (token, word))| {
            token.word == *word || n == last && token.word.strip_suffix('s') == Some(word)
        });
    words
        && here
            .windows(2)
            .all(|pair| matches!(&line[pair[0].end..pair[1].start], "" | "_" | "-" | " "))
}

/// Whether a name of other people covers these tokens.
fn is_foreign(line: &str, tokens: &[Token], part: &Range<usize>) -> bool {
    FOREIGN.iter().any(|phrase| {
        let phrase: Vec<String> = phrase.split(' ').map(str::to_owned).collect();
        (0..=part.start)
            .any(|at| at + phrase.len() >= part.end && begins(line, tokens, at, &phrase))
    })
}

/// The retired words of a line, with what to use instead, each one once.
fn found<'a>(line: &str, retired: &'a [Retired]) -> Vec<&'a Retired> {
    let lower = line.to_ascii_lowercase();
    let mut hinted = retired
        .iter()
        .filter(|retired| lower.contains(&retired.words[0]))
        .peekable();
    if hinted.peek().is_none() {
        return Vec::new();
    }
    let tokens = tokens(line);
    let is_used = |retired: &&Retired| {
        (0..tokens.len()).any(|at| {
            begins(line, &tokens, at, &retired.words)
                && !is_foreign(line, &tokens, &(at..at + retired.words.len()))
        })
    };
    hinted.filter(is_used).collect()
}

/// All files of the tree by their path from the root, but for what git ignores or keeps for itself.
fn files() -> Vec<String> {
    let ignored = fs::read_to_string(root().join(".gitignore")).expect(".gitignore");
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
                kind if kind.is_file() => found.push(path.to_str().expect("UTF-8").to_owned()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn is_exempt(path: &str) -> bool {
    NOT_PROSE.iter().any(|ending| path.ends_with(ending))
        || EXEMPT
            .iter()
            .any(|(exempt, _)| path == *exempt || exempt.ends_with('/') && path.starts_with(exempt))
}

#[test]
fn no_file_uses_a_retired_word() {
    let glossary = fs::read_to_string(root().join(GLOSSARY)).expect("the glossary");
    let retired = retired(&glossary);
    assert!(retired.len() > 30, "the table lists the retired words");
    let mut faults = Vec::new();
    for path in files().into_iter().filter(|path| !is_exempt(path)) {
        // The name of a file or folder is read as well as its text.
        for word in found(&path, &retired) {
            faults.push(format!("{path}: use {}", word.instead));
        }
        // A file that is not UTF-8 is not text.
        let Ok(text) = fs::read_to_string(root().join(&path)) else {
            continue;
        };
        for (at, line) in text.lines().enumerate() {
            for word in found(line, &retired) {
                faults.push(format!(
                    "{path}:{}: {:?}: use {}",
                    at + 1,
                    word.words.join(" "),
                    word.instead
                ));
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} retired words (see {GLOSSARY}):\n  {}",
        faults.len(),
        faults.join("\n  ")
    );
}

#[test]
fn every_exempt_file_exists() {
    for (path, reason) in EXEMPT {
        assert!(root().join(path).exists(), "{path} ({reason}) is gone");
    }
}

#[test]
fn retired_words_are_found_in_every_spelling_and_not_inside_others() {
    let table = "\n## Retired words\n\n| retired | use |\n|---|---|\n\
                 | `flush stamp` | recovery timestamp |\n| `stamp` | write timestamp |\n\
                 | `keeper` | bar state |\n| `grace` | allowed lateness |\n";
    let retired = retired(table);
    let count = |line: &str| found(line, &retired).len();
    for line in [
        "flush_stamp",
        "FlushStamp",
        "FLUSH_STAMP",
        "flush-stamps",
        "a flush stamp.",
    ] {
        assert_eq!(count(line), 2, "{line}");
    }
    for line in [
        "the stamp",
        "stamps",
        "last_stamp",
        "RowKeeper::new",
        "GRACE_MS",
    ] {
        assert_eq!(count(line), 1, "{line}");
    }
    for line in [
        "write_timestamp",
        "stamped",
        "Apache ZooKeeper",
        "stop_grace_period: 60s",
        "terminationGracePeriodSeconds",
        "input.for_each_stamp(|capability, data|",
        "bookkeeper",
    ] {
        assert_eq!(count(line), 0, "{line}");
    }
    assert_eq!(
        count("the stamp in for_each_stamp"),
        1,
        "a word of ours beside a foreign one"
    );
}
