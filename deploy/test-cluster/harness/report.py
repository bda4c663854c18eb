"""The figures as Markdown."""

import os
import statistics
import time


def markdown(options, scenario, took_s):
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    chart = os.path.relpath(options.chart, root)
    given = "" if chart == "deploy/helm/tapeflow" else f"--chart {chart} "
    given += "--image image.tar " if options.image else ""
    lines = [
        "# On a real Kubernetes",
        "",
        "    deploy/test-cluster/cluster build && cargo build --release --locked",
        f"    deploy/test-cluster/run {given}--rate {options.rate} --symbols {options.symbols} --seed {options.seed} --rounds {options.rounds} --report bench/results/cluster.md",
        "",
        f"{time.strftime('%Y-%m-%d')}, two shared cores that hold all of it: Kubernetes {scenario.kubernetes} of one node, Kafka and Cassandra of `deploy/dev/stack`, the simulated feed, and the job. The release binary,",
        f"chart `{chart}`; {options.rate} trades a second of {options.symbols} symbols; {took_s:.0f} s in all. `deploy/test-cluster/README.md` says what each figure is.",
        "",
        "| | seconds |",
        "|---|---:|",
        f"| `helm install` to the first row, the topic, keyspace and tables made on the way | {figure(scenario.first_row_s)} |",
        f"| of which `helm install` itself, which waits for topic, keyspace and tables | {figure(scenario.installed_s)} |",
        f"| `helm install` to all pods of the job ready | {figure(scenario.ready_s)} |",
        f"| uninstalled and installed again: `helm install` to the first fresh row | {figure(scenario.again_s)} |",
        f"| longest time without a fresh row, nothing disturbed, in ten seconds | {figure(scenario.steady_gap_s)} |",
        "",
    ]
    if scenario.kills:
        lines += ["| killed, of two processes | times | kill to first fresh row, s: median / largest |", "|---|---:|---:|"]
        for what, all_of_them in scenario.kills.items():
            seconds = [took for _, took in all_of_them]
            lines.append(f"| {what} | {len(seconds)} | {statistics.median(seconds):.2f} / {max(seconds):.2f} |")
        lines.append("")
    if scenario.rescales:
        lines += ["| processes | longest time without a fresh row, s | command to settled, s |", "|---|---:|---:|"]
        lines += [f"| {before} to {count} | {gap:.2f} | {settled:.1f} |" for before, count, gap, settled, _ in scenario.rescales]
        lines.append("")
    if scenario.memory:
        lines += ["| pods | memory now, MB | largest, MB |", "|---|---:|---:|"]
        for what, pods in scenario.memory.items():
            lines.append(f"| {what} | {', '.join(f'{now:.0f}' for now, _ in pods)} | {', '.join(f'{peak:.0f}' for _, peak in pods)} |")
        lines.append("")
    lines.append(f"- `tapeflow verify` at the end: {scenario.verified or 'not reached'}.")
    if scenario.seen:
        looks = scenario.seen.since(0)
        generations = looks[-1]["generation"] if looks else 0
        lines.append(f"- {len(looks)} looks of the reader, {generations} generations of the job; {len(scenario.seen.went_back())} times something went back.")
    lines.append(f"- {'All of it held.' if not scenario.faults else 'FAILED: ' + '; '.join(fault.splitlines()[0] for fault in scenario.faults)}")
    return "\n".join(lines) + "\n"


def figure(seconds):
    return "not reached" if seconds is None else f"{seconds:.2f}"
