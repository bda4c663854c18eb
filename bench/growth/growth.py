#!/usr/bin/env python3
"""How the cost of a trade grows with the market, the windows and the job: `tapeflow bench`, one
setting changed at a time, each run checked by `tapeflow verify`.

    bench/growth/growth.py --binary target/dist/tapeflow --report bench/results/growth.md \\
        -- --brokers 127.0.0.1:19092 --cassandra 127.0.0.1:19042

What follows `--` is passed on to every run. Runs of one table take turns, in rounds, so that what
else the machine does falls on all of them alike; a figure is the median of its rounds. A ratio is
that to the first row of its table. Code 0: every run was right.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Longer than any run here takes, in seconds.
RUN_S = 1800

# Name, what stays the same, and the flags of each row.
TABLES = {
    "symbols": (
        ["--trades", "200000"],
        [["--market-symbols", str(count)] for count in (1_000, 10_000, 100_000, 1_000_000)],
    ),
    "symbols, one size": (
        ["--trades", "1000000", "--sizes", "1m"],
        [["--market-symbols", str(count)] for count in (1_000, 10_000, 100_000, 1_000_000)],
    ),
    "sizes": (
        ["--trades", "200000"],
        [
            ["--sizes", sizes]
            for sizes in ("1m", "1m,5m", "1m,5m,1h", "1m,5m,1h,1d", "1s,1m,5m,1h,1d")
        ],
    ),
    "late trades": (
        ["--trades", "200000"],
        [[], ["--late", "0.1%:30m"], ["--late", "1%:30m"]],
    ),
    "workers": (
        ["--trades", "1000000", "--sizes", "1m"],
        [["--workers", str(count)] for count in (1, 2, 4)],
    ),
    "processes": (
        ["--trades", "1000000", "--sizes", "1m", "--workers", "1"],
        [["--processes", str(count)] for count in (1, 2, 4)],
    ),
    "partitions": (
        ["--trades", "1000000", "--sizes", "1m"],
        [["--partitions", str(count)] for count in (4, 16, 64)],
    ),
    "trades": (
        ["--sizes", "1m"],
        [["--trades", str(count)] for count in (1_000_000, 5_000_000, 20_000_000)],
    ),
}


def run(binary, flags):
    """The report of one run. Ends the program if it failed or was wrong."""
    command = [binary, "bench", "--json", *flags]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=RUN_S, check=False
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        sys.exit(f"code {done.returncode}: {' '.join(command)}")
    report = json.loads(lines[-1])
    if not report["correct"]:
        sys.exit(f"wrong bars: {' '.join(command)}")
    return report


def figures(report):
    """What a row tells: each a number for which less is better, but for trades a second."""
    trades = report["trades"]
    return {
        "cpu": report["cpu_us_per_trade"]["total"],
        "elsewhere": report["cpu_seconds_elsewhere"] * 1e6 / trades,
        "rate": report["trades_per_second"],
        "writes": report["bars_written"] / trades,
        "memory": report["peak_memory_mb"],
    }


def measure(binary, flags, rows, rounds):
    """The medians of each row's figures."""
    found = [[] for _ in rows]
    for number in range(rounds):
        for at, row in enumerate(rows):
            begun = time.monotonic()
            found[at].append(figures(run(binary, flags + row)))
            took = time.monotonic() - begun
            cpu = found[at][-1]["cpu"]
            print(f"  round {number + 1}: {' '.join(row) or '-'}: {cpu:.2f} us, {took:.0f} s", flush=True)
    return [
        {key: statistics.median(one[key] for one in runs) for key in runs[0]} for runs in found
    ]


def table(name, fixed, rows, medians):
    """One table in Markdown."""
    lines = [
        f"## {name[0].upper()}{name[1:]}",
        "",
        f"`tapeflow bench {' '.join(fixed)}`",
        "",
        "| | CPU a trade, us | ratio | CPU of everything else a trade, us | trades/s |"
        " writes a trade | peak memory, MB | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    first = medians[0]
    for row, median in zip(rows, medians):
        label = f"`{' '.join(row)}`" if row else "none"
        cpu, memory = median["cpu"] / first["cpu"], median["memory"] / first["memory"]
        lines.append(
            f"| {label} | {median['cpu']:.2f} | {cpu:.2f} | {median['elsewhere']:.1f} |"
            f" {median['rate']:,.0f} | {median['writes']:.3f} | {median['memory']:.0f} |"
            f" {memory:.2f} |"
        )
    return lines + [""]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", default="target/dist/tapeflow")
    parser.add_argument("--only", action="append", choices=sorted(TABLES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--report", type=Path, help="write the tables to this file")
    parser.add_argument("flags", nargs="*", help="of every run, behind --")
    given = parser.parse_args()
    binary = str(Path(given.binary).resolve())
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    lines = [
        "# How cost grows",
        "",
        f"`bench/growth/growth.py`, commit `{commit}`, {time.strftime('%Y-%m-%d')}, on"
        f" {platform.machine()}; medians of {given.rounds} rounds by turns.",
        "Every bar of every run was recomputed, with 0 differences. *CPU of everything else* is",
        "that of the whole machine but the job: the servers, and whatever else ran.",
        "",
    ]
    for name, (fixed, rows) in TABLES.items():
        if given.only and name not in given.only:
            continue
        print(name, flush=True)
        medians = measure(binary, given.flags + fixed, rows, given.rounds)
        lines += table(name, fixed, rows, medians)
        if given.report:
            given.report.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
