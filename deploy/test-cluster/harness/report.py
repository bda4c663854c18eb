"""The figures as Markdown."""

import os
import statistics
import textwrap
import time

import kube


def markdown(options, scenario, took_s):
    lines = introduction(options, scenario, took_s)
    seconds = [
        ("`helm install` to the first bar, including topic and tables", scenario.first_bar_s),
        ("of which `helm install`, which waits for topic and tables", scenario.installed_s),
        ("`helm install` to all pods of the job ready", scenario.ready_s),
        ("reinstall: `helm install` to the first fresh bar", scenario.reinstalled_s),
        ("longest gap between fresh bars in 10 s without kills", scenario.steady_gap_s),
    ]
    rows = [(what, "not reached" if s is None else f"{s:.2f}") for what, s in seconds]
    lines += table("| | seconds |", "|---|---:|", rows)
    rows = []
    for what, kills in scenario.kills.items():
        took = [each for _, each in kills]
        rows.append((what, len(took), f"{statistics.median(took):.2f} / {max(took):.2f}"))
    header = "| killed, with two processes | times | kill to first fresh bar, s: median / largest |"
    lines += table(header, "|---|---:|---:|", rows)
    rows = [
        (f"{before} to {count}", f"{gap:.2f}", f"{settled:.1f}")
        for before, count, gap, settled, _ in scenario.rescales
    ]
    header = "| processes | longest gap between fresh bars, s | command to settled, s |"
    lines += table(header, "|---|---:|---:|", rows)
    rows = []
    for what, pods in scenario.memory.items():
        now = ", ".join(f"{each:.0f}" for each, _ in pods)
        peak = ", ".join(f"{each:.0f}" for _, each in pods)
        rows.append((what, now, peak))
    lines += table("| pods | memory now, MB | peak, MB |", "|---|---:|---:|", rows)
    return "\n".join(lines + conclusion(scenario)) + "\n"


def introduction(options, scenario, took_s):
    chart = os.path.relpath(options.chart, os.path.dirname(os.path.dirname(kube.HERE)))
    given = "" if chart == "deploy/helm/tapeflow" else f"--chart {chart} "
    given += "--image image.tar " if options.image else ""
    given += f"--rate {options.rate} --symbols {options.symbols} --seed {options.seed}"
    text = (
        f"{time.strftime('%Y-%m-%d')}. Two shared cores run everything: Kubernetes"
        f" {scenario.kubernetes} with one node, Kafka and Cassandra of `deploy/dev/stack`, the"
        f" simulated market, and the job (binary of the profile `dist`, chart `{chart}`)."
        f" {options.rate} trades a second, {options.symbols} symbols; {took_s:.0f} s in all."
        " `deploy/test-cluster/README.md` defines the figures."
    )
    return [
        "# On a real Kubernetes",
        "",
        "    deploy/test-cluster/cluster build",
        "    cargo build --profile dist --locked",
        f"    deploy/test-cluster/run {given} \\",
        f"      --rounds {options.rounds} --report bench/results/cluster.md",
        "",
        *textwrap.wrap(text, 100, break_on_hyphens=False),
        "",
    ]


def table(header, alignment, rows):
    if not rows:
        return []
    cells = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [header, alignment, *cells, ""]


def conclusion(scenario):
    items = [f"`tapeflow verify` at the end: {scenario.verified or 'not reached'}."]
    if scenario.observations:
        lines = scenario.observations.since(0)
        generations = lines[-1]["generation"] if lines else 0
        regressions = len(scenario.observations.regressions())
        items.append(
            f"Polls of the reader: {len(lines)}; generations of the job: {generations};"
            f" regressions: {regressions}."
        )
    first_lines = [error.splitlines()[0] for error in scenario.errors]
    items.append("Passed." if not first_lines else f"FAILED: {'; '.join(first_lines)}")
    wrapped = [
        textwrap.wrap(
            f"- {item}", 100, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False
        )
        for item in items
    ]
    return [line for item in wrapped for line in item]
