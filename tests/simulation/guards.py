#!/usr/bin/env python3
"""Takes the job's guards out, one at a time, and shows that the simulation notices.

    python3 tests/simulation/guards.py            # all of them
    python3 tests/simulation/guards.py filter     # those with this word in their name

For each guard it changes the real source, plays seeds until one fails, and puts the source back. A guard whose absence no seed notices is a
failure: either the guard is not needed, or the simulation does not reach it. Files with uncommitted changes are not touched.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEST = "a_thousand_histories_of_faults_lose_nothing_double_nothing_and_show_nobody_a_wrong_row"
COMMAND = ["cargo", "test", "--quiet", "--locked", "-p", "tapeflow-simulation", "--test", "seeds", "a_thousand"]

# Name; file; what stands there; what it is replaced by. Names are those of the wrong variants in ARCHITECTURE.md.
GUARDS = [
    ("no epoch filter when a row is read back", "dataflow/src/state.rs", "if epoch > resident.epoch {", "if epoch > 0 {"),
    (
        "epochs of a replay committed before all of it is acknowledged",
        "dataflow/src/leader.rs",
        "let acknowledged = if acknowledged < self.replayed_at { committed } else { acknowledged };",
        "",
    ),
    ("evicting before acknowledgement", "dataflow/src/state.rs", "if !resident.acknowledged {", "if false {"),
    (
        "committing without waiting for acknowledgements",
        "dataflow/src/lead.rs",
        "frontier.first().map_or(u64::MAX, |first| first.saturating_sub(1))",
        "frontier.first().map_or(u64::MAX, |_| u64::MAX)",
    ),
    (
        "an epoch taken before all of its partials are there",
        "dataflow/src/state.rs",
        "keeper.take_next(|time| !frontier.less_equal(time))",
        "keeper.take_next(|time| !frontier.is_empty() || *time > 0)",
    ),
    (
        "fresh cuts for epochs bound and not committed",
        "sinks/src/decide.rs",
        "    head.generation += 1;\n",
        "    head.generation += 1;\n    head.bound.clear();\n",
    ),
    (
        "an unknown outcome resolved by generation and version alone",
        "sinks/src/decide.rs",
        "if observed == Some(proposed) {",
        "if observed.is_some_and(|head| (head.generation, head.version) == (proposed.generation, proposed.version)) {",
    ),
    (
        "stamps from the writers' own clocks",
        "sinks/src/decide.rs",
        "    let stamp = head.next_stamp(now_us);\n    let mut next",
        "    let stamp = now_us;\n    let mut next",
    ),
    (
        "evictions forgotten in the rule of what need not be read",
        "dataflow/src/state.rs",
        "self.evicted_up_to[size] = self.evicted_up_to[size].max(Some(key.start));",
        "",
    ),
    (
        "rows of before this generation not read",
        "dataflow/src/state.rs",
        "head.max_event_ms().is_some_and(|max| key.start <= max)",
        "head.max_event_ms().is_some_and(|max| key.start <= max && max < 0)",
    ),
    (
        "an acknowledgement of an older write taken for that of the latest",
        "dataflow/src/state.rs",
        ".filter(|resident| resident.epoch == write.state.epoch)",
        "",
    ),
    (
        "records handed over twice counted twice",
        "dataflow/src/source.rs",
        "if record.offset < state.next {",
        "if record.offset < 0 {",
    ),
    (
        "a sealed epoch released before it is bound",
        "dataflow/src/leader.rs",
        "            self.counts.insert(seal.epoch, seal.counts);\n",
        "            self.counts.insert(seal.epoch, seal.counts);\n"
        "            acts.push(Act::Say(Down::Bound { epoch: seal.epoch, stamp: self.head.last_stamp + 1 }));\n",
    ),
    (
        "the views' later changes ignored while a window is loaded",
        "dataflow/src/views/windows.rs",
        "(Some(before), _) => *before,",
        "(Some(_), row) => row.map(|row| Standing::of(&row.totals)),",
    ),
    (
        "a window of the views let go before its rows are acknowledged",
        "dataflow/src/views/windows.rs",
        ".filter(|(at, _)| at + EPOCHS_AHEAD <= time)",
        ".filter(|(at, _)| *at < time)",
    ),
    (
        "no limit for zombies: a row newer than one's own time is taken",
        "dataflow/src/state.rs",
        "if resident.epoch > newest {",
        "if resident.epoch == u64::MAX {",
    ),
    (
        "the history of an epoch written after its commit",
        "sinks/src/workflow.rs",
        "if !history.is_empty() {\n        until_answered",
        "if history.len() > 99 {\n        until_answered",
    ),
    (
        "directory entries left out when a replayed row is not new",
        "dataflow/src/state.rs",
        "if before.is_none() || replaying {",
        "if before.is_none() && !replaying {",
    ),
]


def take_out(file, old, new):
    path = ROOT / file
    if subprocess.run(["git", "diff", "--quiet", "HEAD", "--", file], cwd=ROOT).returncode != 0:
        raise SystemExit(f"{file} has uncommitted changes")
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{file} has {text.count(old)} places that read {old!r}: mend {__file__}")
    return path, text, text.replace(old, new)


def main():
    words = sys.argv[1:]
    survived = []
    for name, file, old, new in GUARDS:
        if words and not any(word in name for word in words):
            continue
        path, before, after = take_out(file, old, new)
        try:
            path.write_text(after)
            ended = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True)
        finally:
            path.write_text(before)
        said = ended.stdout + ended.stderr
        if "could not compile" in said:
            print(said)
            raise SystemExit(f"{name}: does not compile")
        failed = ended.returncode != 0 and TEST in said
        first = next((found.group(0) for found in re.finditer(r"seed \d+: [^\"]*", said)), "a panic")
        print(f"| {name} | {file} | {'noticed' if failed else 'NOT NOTICED'} | {first[:160]} |", flush=True)
        if not failed:
            survived.append(name)
    if survived:
        raise SystemExit(f"{len(survived)} guard(s) whose absence nothing notices: {', '.join(survived)}")


if __name__ == "__main__":
    main()
