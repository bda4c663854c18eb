# Shortcuts for developers: https://just.systems, or run the lines by hand.

# Lists the recipes.
default:
    @just --list --unsorted

# Format, clippy, unit tests and tidy: the check before every commit.
check: format clippy unit tidy

# Says which files are not formatted.
format:
    cargo fmt --all --check

# Formats them.
fmt:
    cargo fmt --all

# Lints everything, tests and benches included.
clippy:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Tests inside the crates' own files: no server, no other process.
unit:
    cargo test --workspace --lib --bins --locked --quiet

# Rules for files, crates, words and documents.
tidy:
    cargo test --package tapeflow --test tidy --locked --quiet

# Every test, with real Kafka and Cassandra where Java and Maven are installed.
test:
    cargo test --workspace --locked

# Fuzzes every decoder; `just fuzz --seconds 3600 --report bench/results/fuzz.md` for an hour each.
fuzz *flags:
    tests/fuzz/fuzz.py {{flags}}

# API documentation of our own crates; a broken link fails.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Licences, banned crates and sources of dependencies; needs cargo-deny.
deny:
    cargo deny --locked --workspace check licenses bans sources

# The default run: a simulated market through the whole pipeline, in one process.
run:
    cargo run --release --locked

# The binary that images and benchmarks use: target/dist/tapeflow.
dist:
    cargo build --profile dist --locked

# Everything a change must pass, as CI does.
ci:
    .ci/run
