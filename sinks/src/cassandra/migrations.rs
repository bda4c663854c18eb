//! The numbered migrations in `cassandra/migrations/`, and the decision which of them still have to
//! run.

use sha2::{Digest, Sha256};
use tapeflow_protocol::StoreError;

/// A numbered file of statements. Each statement is idempotent. A file has run when it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number, from 1 without a gap.
    pub version: u32,
    /// The name of its file without the extension.
    pub name: &'static str,
    /// Its text.
    pub cql: &'static str,
}

/// All migrations of this binary, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "0001_bars",
        cql: include_str!("../../../cassandra/migrations/0001_bars.cql"),
    },
    Migration {
        version: 2,
        name: "0002_checkpoint",
        cql: include_str!("../../../cassandra/migrations/0002_checkpoint.cql"),
    },
    Migration {
        version: 3,
        name: "0003_dead_letters",
        cql: include_str!("../../../cassandra/migrations/0003_dead_letters.cql"),
    },
    Migration {
        version: 4,
        name: "0004_views",
        cql: include_str!("../../../cassandra/migrations/0004_views.cql"),
    },
    Migration {
        version: 5,
        name: "0005_feed_gaps",
        cql: include_str!("../../../cassandra/migrations/0005_feed_gaps.cql"),
    },
    Migration {
        version: 6,
        name: "0006_expired",
        cql: include_str!("../../../cassandra/migrations/0006_expired.cql"),
    },
];

/// A migration that a keyspace has recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) version: i32,
    pub(super) checksum: String,
}

impl Migration {
    /// The statements, without comments and line breaks.
    pub(super) fn statements(&self) -> Vec<String> {
        // No text literal in a migration contains `--` or a semicolon. A test checks this.
        let lines = self
            .cql
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default());
        let code = lines
            .flat_map(str::split_whitespace)
            .collect::<Vec<_>>()
            .join(" ");
        code.split(';')
            .map(str::trim)
            .filter(|statement| !statement.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// A fingerprint of the statements. After a release comments and layout may change, and the
    /// statements may not.
    pub(super) fn checksum(&self) -> String {
        Sha256::digest(self.statements().join(";"))
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// The migrations of `known` that still have to run in a keyspace that has recorded `recorded`.
///
/// # Errors
/// A newer binary created the keyspace, or its migrations had other statements than this binary's.
pub(super) fn outstanding(
    keyspace: &str,
    known: &'static [Migration],
    recorded: &[Recorded],
) -> Result<&'static [Migration], StoreError> {
    let latest = known.last().map_or(0, |migration| migration.version);
    let found = recorded
        .iter()
        .map(|record| record.version)
        .max()
        .unwrap_or(0);
    if i64::from(found) > i64::from(latest) {
        return Err(StoreError::Broken(format!(
            "keyspace {keyspace} has tables of version {found}, made by a newer tapeflow; \
             this one knows version {latest}: use the newer one"
        )));
    }
    let mut run = 0;
    for migration in known {
        match recorded
            .iter()
            .find(|record| i64::from(record.version) == i64::from(migration.version))
        {
            Some(record) if record.checksum == migration.checksum() => run += 1,
            Some(_) => {
                return Err(StoreError::Broken(format!(
                    "migration {} ran in keyspace {keyspace} with other statements than this \
                     tapeflow's: use the tapeflow that made it, or another keyspace",
                    migration.name
                )));
            }
            None => break,
        }
    }
    if run < recorded.len() {
        return Err(StoreError::Broken(format!(
            "the migrations recorded in keyspace {keyspace} have a gap after number {run}: \
             use another keyspace"
        )));
    }
    Ok(&known[run..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(versions: &[usize]) -> Vec<Recorded> {
        let record = |n: &usize| {
            let checksum = MIGRATIONS
                .get(n - 1)
                .map_or_else(String::new, Migration::checksum);
            Recorded {
                version: i32::try_from(*n).expect("small"),
                checksum,
            }
        };
        versions.iter().map(record).collect()
    }

    fn error(recorded: &[Recorded]) -> String {
        outstanding("k", MIGRATIONS, recorded)
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn migrations_are_numbered_without_a_gap_and_each_is_in_the_list() {
        let files = std::fs::read_dir(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../cassandra/migrations"
        ))
        .expect("the folder");
        let mut names: Vec<_> = files
            .map(|file| {
                file.expect("a file")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        assert_eq!(
            names,
            MIGRATIONS
                .iter()
                .map(|migration| format!("{}.cql", migration.name))
                .collect::<Vec<_>>()
        );
        for (migration, number) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(migration.version, number);
            assert!(
                migration.name.starts_with(&format!("{number:04}_")),
                "{}",
                migration.name
            );
        }
    }

    #[test]
    fn every_statement_is_whole_and_bears_running_twice() {
        for migration in MIGRATIONS {
            let statements = migration.statements();
            assert!(!statements.is_empty());
            for statement in &statements {
                assert!(statement.contains("IF NOT EXISTS"), "{statement}");
                assert_eq!(
                    statement.matches('\'').count() % 2,
                    0,
                    "a text literal was cut: {statement}"
                );
                assert!(
                    !statement.to_lowercase().contains("time_to_live"),
                    "no TTL: {statement}"
                );
            }
            assert_eq!(
                statements.len(),
                migration.cql.matches("CREATE TABLE").count(),
                "{}",
                migration.name
            );
        }
    }

    #[test]
    fn comments_do_not_change_a_checksum_and_statements_do() {
        let plain = Migration {
            version: 1,
            name: "0001_x",
            cql: "CREATE TABLE a (b int PRIMARY KEY);",
        };
        let commented = Migration {
            cql: "-- why; not\nCREATE TABLE a (\n  b int PRIMARY KEY -- key\n);\n",
            ..plain
        };
        // Layout inside brackets adds a blank, so both texts have the same layout there.
        let spaced = Migration {
            cql: "CREATE TABLE a ( b int PRIMARY KEY );",
            ..plain
        };
        assert_eq!(commented.checksum(), spaced.checksum());
        assert_ne!(
            plain.checksum(),
            Migration {
                cql: "CREATE TABLE a (b text PRIMARY KEY);",
                ..plain
            }
            .checksum()
        );
    }

    #[test]
    fn what_has_not_run_is_outstanding() {
        for run in 0..=MIGRATIONS.len() {
            let have = recorded(&(1..=run).collect::<Vec<_>>());
            assert_eq!(
                outstanding("k", MIGRATIONS, &have).expect("understood"),
                &MIGRATIONS[run..]
            );
        }
    }

    #[test]
    fn a_keyspace_of_another_binary_is_refused() {
        assert!(error(&recorded(&[1, 2, 3, 4, 5, 6, 7])).contains("newer tapeflow"));
        let mut changed = recorded(&[1, 2]);
        changed[1].checksum = "0".into();
        assert!(
            error(&changed).contains("0002_checkpoint ran in keyspace k with other statements")
        );
        assert!(error(&recorded(&[1, 3])).contains("a gap after number 1"));
    }
}
