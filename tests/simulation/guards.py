#!/usr/bin/env python3
"""Removes the job's guards, one at a time, and shows that the simulation notices.

    python3 tests/simulation/guards.py            # all of them
    python3 tests/simulation/guards.py filter     # those with this word in their name
    python3 tests/simulation/guards.py --check    # only that each guard is still in the source

For each guard the script changes the real source, runs seeds until one fails, and restores the
source. A guard whose absence no seed notices is an error: either the guard is not needed, or the
simulation does not reach it. The script does not touch files with uncommitted changes.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEST = "a_thousand_histories_of_faults_lose_nothing_double_nothing_and_show_no_reader_a_wrong_bar"
COMMAND = "cargo test --quiet --locked -p tapeflow-simulation --test seeds a_thousand".split()

# Name, file, text of the source and its replacement. bench/results/guards.md uses the same names.
GUARDS = [
    (
        "no epoch filter when a bar is read back",
        "dataflow/src/operators/bar_state.rs",
        "if *epoch > resident.epoch {",
        "if *epoch > 0 {",
    ),
    (
        "epochs of a replay committed before all of it is acknowledged",
        "dataflow/src/coordinator/decisions.rs",
        "if acknowledged < self.replayed_at {",
        "if false {",
    ),
    (
        "evicting before the acknowledgement",
        "dataflow/src/operators/bar_state.rs",
        "if !resident.acknowledged {",
        "if false {",
    ),
    (
        "committing without waiting for acknowledgements",
        "dataflow/src/operators/acknowledged.rs",
        ".map_or(u64::MAX, |first| first.saturating_sub(1))",
        ".map_or(u64::MAX, |_| u64::MAX)",
    ),
    (
        "an epoch taken before all of its partials are there",
        "dataflow/src/operators/bar_state.rs",
        ".take_next(|time| !frontier.less_equal(time))",
        ".take_next(|time| !frontier.is_empty() || *time > 0)",
    ),
    (
        "fresh cuts for epochs bound and not committed",
        "protocol/src/decide.rs",
        "    checkpoint.generation += 1;\n",
        "    checkpoint.generation += 1;\n    checkpoint.bound.clear();\n",
    ),
    (
        "an unknown outcome resolved by generation and version alone",
        "protocol/src/decide.rs",
        "if observed == Some(proposed) {",
        "if observed.is_some_and(|it| {\n"
        "        (it.generation, it.version) == (proposed.generation, proposed.version)\n"
        "    }) {",
    ),
    (
        "write timestamps from the writers' own clocks",
        "protocol/src/decide.rs",
        "    let write_timestamp = checkpoint.next_write_timestamp(now_us);\n    let mut next",
        "    let write_timestamp = now_us;\n    let mut next",
    ),
    (
        "evictions forgotten in the rule of what need not be read",
        "dataflow/src/operators/bar_state.rs",
        "self.evicted_up_to[size] = self.evicted_up_to[size].max(Some(key.start));",
        "",
    ),
    (
        "bars from before this generation not read",
        "dataflow/src/operators/bar_state.rs",
        ".is_some_and(|watermark| key.start <= watermark)",
        ".is_some_and(|watermark| key.start <= watermark && watermark < 0)",
    ),
    (
        "an acknowledgement of an older write taken for that of the latest",
        "dataflow/src/operators/bar_state.rs",
        ".filter(|resident| resident.epoch == epoch)",
        "",
    ),
    (
        "records handed over twice counted twice",
        "dataflow/src/operators/source.rs",
        "It must count once.\n            if record.offset < state.next {",
        "It must count once.\n            if record.offset < 0 {",
    ),
    (
        "a sealed epoch released before it is bound",
        "dataflow/src/coordinator/decisions.rs",
        "            self.counts.insert(seal.epoch, seal.counts);\n",
        "            self.counts.insert(seal.epoch, seal.counts);\n"
        "                    actions.push(Action::Broadcast(ToWorker::Bound {\n"
        "                        epoch: seal.epoch,\n"
        "                        write_timestamp: self.checkpoint.last_write_timestamp + 1,\n"
        "                    }));\n",
    ),
    (
        "the views' later changes ignored in a recount",
        "dataflow/src/views/recount.rs",
        "(Some(before), _) => *before,",
        "(Some(_), bar) => bar.map(|bar| BarValues::of(&bar.totals)),",
    ),
    (
        "a window of the views dropped before its views are acknowledged",
        "dataflow/src/views/view_state.rs",
        "if held.unacknowledged > 0 || is_needed {",
        "if is_needed {",
    ),
    (
        "what a stored view already contains added again in a replay",
        "dataflow/src/views/window_views.rs",
        "if *epoch > self.contains[at] {",
        "if *epoch > 0 {",
    ),
    (
        "a symbol that falls behind the boundary of a ranking kept in it",
        "dataflow/src/views/ranking.rs",
        ".map_or(self.complete, |last| order(bar, last) != Ordering::Greater)",
        ".is_none_or(|_| true)",
    ),
    (
        "no limit for zombies: a bar newer than one's own time is taken",
        "dataflow/src/operators/bar_state.rs",
        "if resident.epoch > newest {",
        "if resident.epoch == u64::MAX {",
    ),
    (
        "the history of an epoch written after its commit",
        "protocol/src/workflow.rs",
        "if !history.is_empty() {\n        until_answered",
        "if history.len() > 99 {\n        until_answered",
    ),
    (
        "the late flag never set",
        "dataflow/src/operators/combine.rs",
        "let late = window.end <= late_up_to;",
        "let late = window.end < i64::MIN;",
    ),
    (
        "sealing before all partitions have replayed",
        "dataflow/src/coordinator/decisions.rs",
        "if self.replayed < self.pace.peers {",
        "if false {",
    ),
    (
        "a cut made before the offsets below it are proven to have no record",
        "dataflow/src/operators/source.rs",
        "if self.reader.is_proven()? {",
        "if true {",
    ),
    (
        "offsets without a record at the end not bound",
        "dataflow/src/coordinator/decisions.rs",
        "now.lost != before.lost || now.next > before.next",
        "now.lost != before.lost",
    ),
    (
        "offsets that are gone given up without permission",
        "protocol/src/resume.rs",
        "    if !accept_loss {\n        return Err(Unreadable::Gone {",
        "    if false {\n        return Err(Unreadable::Gone {",
    ),
    (
        "the state of a replay without its lost records kept at a bound cut",
        "dataflow/src/operators/replay.rs",
        "if gap.is_some_and(|gap| !bound_without(cut, gap)) {",
        "if false {",
    ),
    (
        "the last record of a binding not compared with the log",
        "dataflow/src/operators/last_record.rs",
        "if found != last {",
        "if false {",
    ),
    (
        "directory entries left out when a replayed bar is not new",
        "dataflow/src/operators/bar_state.rs",
        "if before.is_none() || steps.is_some() {",
        "if before.is_none() && steps.is_none() {",
    ),
]


def without_guard(file, old, new):
    path = ROOT / file
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", file], cwd=ROOT).returncode != 0:
        raise SystemExit(f"{file} has uncommitted changes")
    text = path.read_text()
    if text.count(old) != 1:
        count = text.count(old)
        raise SystemExit(f"{file} has {count} places that read {old!r}: update {__file__}")
    return path, text, text.replace(old, new)


def check():
    missing = [
        f"{name}: {file} has {count} places that read {old!r}"
        for name, file, old, _ in GUARDS
        if (count := (ROOT / file).read_text().count(old)) != 1
    ]
    if missing:
        raise SystemExit("\n".join(missing))
    print(f"{len(GUARDS)} guards, each once in the source")


def main():
    words = sys.argv[1:]
    if words == ["--check"]:
        return check()
    survived = []
    for name, file, old, new in GUARDS:
        if words and not any(word in name for word in words):
            continue
        path, before, after = without_guard(file, old, new)
        try:
            path.write_text(after)
            ended = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True)
        finally:
            path.write_text(before)
        output = ended.stdout + ended.stderr
        if "could not compile" in output:
            print(output)
            raise SystemExit(f"{name}: does not compile")
        failed = ended.returncode != 0 and TEST in output
        breach = re.search(r"seed \d+: [^\"]*", output)
        first = breach.group(0) if breach else "a panic"
        result = "noticed" if failed else "NOT NOTICED"
        print(f"| {name} | {file} | {result} | {first[:160]} |", flush=True)
        if not failed:
            survived.append(name)
    if survived:
        names = ", ".join(survived)
        raise SystemExit(f"no seed notices the absence of {len(survived)} guard(s): {names}")


if __name__ == "__main__":
    main()
