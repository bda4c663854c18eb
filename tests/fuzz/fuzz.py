#!/usr/bin/env python3
"""Builds the fuzz targets with coverage, and runs them.

    tests/fuzz/fuzz.py                          every target, a minute each
    tests/fuzz/fuzz.py --seed 1                 the same inputs each time, as CI does
    tests/fuzz/fuzz.py --seconds 3600 --report bench/results/fuzz.md
    tests/fuzz/fuzz.py --target record          one target
    tests/fuzz/fuzz.py --target record FILE...  these inputs, once each

Two targets run at a time (--jobs). What a run learns is kept in target/fuzz/corpus/, and the next
one goes on from there. With --seed it starts from the committed seeds alone and draws the same
inputs for the same code, so that CI refuses a change for what the change does; runs without it
look for new ones. An input that breaks a property
is in target/fuzz/found/, and is printed with the command that repeats it.
"""

import argparse
import base64
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "fuzz"
# An input that takes longer costs without a bound. Measured in seconds, as libFuzzer counts.
INPUT_S = 10
# The most memory of a run. An input of a few kB needs none; the fuzzer keeps its corpus in it.
RSS_MIB = 512
# What a target may take beyond its time to start and to end.
SLACK_S = 120
# The last lines of a run that failed.
SHOWN_LINES = 60


def target_directory():
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()


def build():
    """The binary of all targets. Dependencies are those that the tests have built."""
    command = ["cargo", "test", "--workspace", "--locked", "--no-run"]
    command += ["--features", "tapeflow-fuzz/libfuzzer", "--test", "libfuzzer"]
    command += ["--message-format", "json-render-diagnostics"]
    environment = os.environ | {
        "RUSTC_WORKSPACE_WRAPPER": str(HERE / "instrument"),
        "CARGO_INCREMENTAL": "0",
    }
    built = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "libfuzzer":
            return Path(message["executable"])
    sys.exit("cargo has built no binary of the fuzz targets")


def targets():
    """Every target's longest input in bytes, by its name, as src/lib.rs lists them."""
    text = (HERE / "src" / "lib.rs").read_text()
    found = re.findall(r'name: "(\w+)",\s*max_len: ([\d_]+),', text)
    return {name: int(length.replace("_", "")) for name, length in found}


class Run:
    """One target: its command, and what became of it."""

    def __init__(self, binary, name, length, seconds, seed=None):
        self.name = name
        self.seconds = seconds
        self.work = target_directory() / "fuzz"
        self.corpus = self.work / "corpus" / name
        self.found = self.work / "found" / name
        if seed is not None:
            self.corpus = self.work / "seeded" / name
            shutil.rmtree(self.corpus, ignore_errors=True)
        for folder in (self.corpus, self.found):
            folder.mkdir(parents=True, exist_ok=True)
        dictionary = HERE / "dictionaries" / f"{name}.dict"
        self.command = [str(binary), f"-max_len={length}", f"-timeout={INPUT_S}"]
        self.command += [f"-rss_limit_mb={RSS_MIB}", f"-artifact_prefix={self.found}/"]
        if dictionary.exists():
            self.command.append(f"-dict={dictionary}")
        if seed is not None:
            self.command.append(f"-seed={seed}")
        self.environment = os.environ | {"TAPEFLOW_FUZZ_TARGET": name, "RUST_BACKTRACE": "1"}
        self.output = ""
        self.code = None
        self.inputs = []

    def fuzz(self):
        before = set(self.found.iterdir())
        begun = time.monotonic()
        command = self.command + [f"-max_total_time={self.seconds}", "-print_final_stats=1"]
        self.run(command + [str(self.corpus), str(HERE / "seeds" / self.name)], self.seconds)
        self.took = time.monotonic() - begun
        # A slow input alone is no failure.
        new = set(self.found.iterdir()) - before
        self.inputs = sorted(path for path in new if not path.name.startswith("slow-unit"))
        return self

    def repeat(self, files):
        self.run(self.command + files, INPUT_S * len(files))
        return self

    def run(self, command, seconds):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            self.output, _ = process.communicate(timeout=seconds + SLACK_S)
        except subprocess.TimeoutExpired:
            process.kill()
            self.output = process.communicate()[0] + f"\nit did not end after {seconds} s"
        except BaseException:
            process.kill()
            raise
        self.code = process.returncode

    def statistic(self, name):
        found = re.search(rf"^stat::{name}:\s+(\d+)$", self.output, re.MULTILINE)
        return int(found[1]) if found else 0

    def coverage(self):
        """Edges and features of the last line, as libFuzzer counts them, and the corpus."""
        lines = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)/(\S+)", self.output)
        return lines[-1] if lines else ("0", "0", "0", "0b")

    def line(self):
        edges, features, inputs, size = self.coverage()
        count = self.statistic("number_of_executed_units")
        return (
            f"{self.name:14} {count:>12,} inputs in {self.took:4.0f} s, {edges:>6} edges,"
            f" {features:>6} features, corpus {inputs} ({size}),"
            f" {self.statistic('peak_rss_mb')} MiB"
        )

    def explain(self):
        """What a person needs to repeat a failure, without this machine's files."""
        print("\n".join(self.output.splitlines()[-SHOWN_LINES:]))
        for path in self.inputs:
            content = path.read_bytes()
            print(f"\n{self.name}: an input of {len(content)} bytes breaks a property. Repeat it:\n")
            print(f"  echo {base64.b64encode(content).decode()} | base64 -d >found")
            print(f"  tests/fuzz/fuzz.py --target {self.name} found")
        print(f"\nThen keep it: tests/fuzz/seeds/{self.name}/, and `cargo test --workspace --test fuzz_seeds`.")


def report(path, runs, seconds):
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        "# Fuzzing",
        "",
        f"Every target for {seconds:,} s, on commit `{commit}`, {time.strftime('%Y-%m-%d')}:",
        "`tests/fuzz/fuzz.py --seconds N --report FILE` writes this file. Which properties each",
        "target checks is in `tests/fuzz/src/`.",
        "",
        "- *edges*: places of our own code that were reached; dependencies are not counted.",
        "- *corpus*: the inputs that reach something which no smaller one reaches.",
        "- *found*: inputs that break a property.",
        "",
        "| target | inputs | edges | features | corpus | peak memory | found |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        edges, features, inputs, size = run.coverage()
        count = run.statistic("number_of_executed_units")
        peak = run.statistic("peak_rss_mb")
        lines.append(
            f"| `{run.name}` | {count:,} | {int(edges):,} | {int(features):,} |"
            f" {int(inputs):,} ({size}) | {peak} MiB | {len(run.inputs)} |"
        )
    path.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=sorted(targets()))
    parser.add_argument("--seconds", type=int, default=60, help="of each target")
    parser.add_argument("--seed", type=int, help="draw the same inputs each time")
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--report", type=Path, help="write a table to this file")
    parser.add_argument("file", nargs="*", help="inputs to run once, with one --target")
    flags = parser.parse_args()
    chosen = {name: targets()[name] for name in flags.target or targets()}
    begun = time.monotonic()
    binary = build()
    print(f"built in {time.monotonic() - begun:.0f} s", flush=True)
    runs = [
        Run(binary, name, length, flags.seconds, flags.seed) for name, length in chosen.items()
    ]
    if flags.file:
        if len(runs) != 1:
            sys.exit("name the target of these inputs with --target")
        files = [str(Path(name).resolve()) for name in flags.file]
        print(runs[0].repeat(files).output)
        sys.exit(runs[0].code)
    printing = threading.Lock()

    def fuzz(run):
        run.fuzz()
        with printing:
            print(run.line(), flush=True)

    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        list(pool.map(fuzz, runs))
    if flags.report:
        report(flags.report, runs, flags.seconds)
    failed = [run for run in runs if run.code != 0]
    for run in failed:
        run.explain()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
