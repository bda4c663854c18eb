"""Runs each peer on one topic, measures all the same way, and compares each bar with tapeflow's.

Called by ./run, which downloads what the peers need.
"""

import argparse
import csv
import datetime
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDER = ROOT / "target/peers"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
# Packages that Flink accesses by reflection.
OPENED = [
    "java.util",
    "java.lang",
    "java.net",
    "java.nio",
    "java.time",
    "java.util.concurrent",
]
HEADER = (
    "| | version | seconds | trades/s | CPU a trade, us: whole | job alone | peak memory, MB"
    " | bars | differences | load before |"
)


def processes_of(session):
    """Pid, CPU seconds and resident bytes of each process of a session."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = pathlib.Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[3]) == session:
            yield int(entry), (int(fields[11]) + int(fields[12])) / TICKS, int(fields[21]) * PAGE


def measure(command, log, environment=None):
    """Runs a command in a new session. Returns seconds, CPU seconds (whole, job), peak memory and
    the version that the command reports."""
    began = time.time()
    with open(log, "w") as errors:
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
            env=environment,
        )
    cpu, samples, peak, over = {}, [(began, 0.0)], [0], threading.Event()

    def sample():
        while not over.is_set():
            resident = 0
            for process, seconds, memory in processes_of(child.pid):
                cpu[process] = seconds
                resident += memory
            peak[0] = max(peak[0], resident)
            samples.append((time.time(), sum(cpu.values())))
            over.wait(0.05)

    sampler = threading.Thread(target=sample)
    sampler.start()
    report = {}
    for line in child.stdout:
        if line.startswith("PEER "):
            report = json.loads(line[5:])
    # wait4 returns the CPU time too, which includes the time after the last sample.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    sampler.join()
    if child.returncode != 0:
        sys.exit(f"{command[0]} exited with code {child.returncode}; see {log}")
    whole = max(samples[-1][1], usage.ru_utime + usage.ru_stime)

    def cpu_at(moment):
        return min(samples, key=lambda point: abs(point[0] - moment))[1]

    return {
        "seconds": report["ended"] - report["began"] if report else time.time() - began,
        "cpu_whole": whole,
        "cpu_job": cpu_at(report["ended"]) - cpu_at(report["began"]) if report else whole,
        "peak_mb": round(peak[0] / 2**20),
        "version": report.get("version"),
    }


def tapeflow_bars(binary, store):
    """{(symbol, start in ms): (volume, VWAP, trades)}, of all trades whatever their conditions."""
    options = ["--store", store, "--size", "1m", "--policy", "all", "--format", "csv"]
    out = subprocess.run([binary, "bars", *options], check=True, capture_output=True, text=True)
    bars = {}
    for row in csv.DictReader(out.stdout.splitlines()):
        start = datetime.datetime.fromisoformat(row["start"].replace("Z", "+00:00"))
        key = row["symbol"], round(start.timestamp() * 1000)
        bars[key] = float(row["volume"]), float(row["vwap"]), int(row["trades"])
    return bars


def peer_bars(folder):
    """The bars that a peer wrote. A bar in a later batch of Spark replaces the earlier one."""
    bars = {}
    for name in sorted(glob.glob(f"{folder}/bars/**/*", recursive=True)):
        base = os.path.basename(name)
        if os.path.isdir(name) or base.startswith(("_", ".")) or base.endswith(".crc"):
            continue
        with open(name, newline="") as file:
            # High and low follow; they are not compared: README.md says why.
            for symbol, start, volume, vwap, trades, *_ in csv.reader(file):
                bars[symbol, int(start)] = float(volume), float(vwap), int(trades)
    return bars


def is_near(a, b):
    """Whether two numbers are equal but for rounding: tapeflow prints eight decimals of a VWAP."""
    return abs(a - b) <= max(1e-8, 1e-9 * max(abs(a), abs(b)))


def is_same(a, b):
    return a[2] == b[2] and is_near(a[0], b[0]) and is_near(a[1], b[1])


def differences(found, wanted):
    """The number of bars that are missing, superfluous or not the same."""
    keys = found.keys() | wanted.keys()
    same = [k for k in keys if k in found and k in wanted and is_same(found[k], wanted[k])]
    return len(keys) - len(same)


class Peers:
    """A function for each system: runs it and returns its measurements and bars."""

    def __init__(self, options, topic, environment):
        self.options, self.topic, self.environment = options, topic, environment

    def tapeflow(self, folder, number):
        binary, brokers = self.options.binary, self.options.brokers
        store = f"cassandra://{self.options.cassandra}/peers_{os.getpid()}_{number}"
        where = ["--brokers", brokers, "--topic", self.topic, "--store", store]
        subprocess.run(
            [binary, "init", *where],
            check=True,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        job = [binary, "dataflow", *where, "--sizes", "1m", "--workers", "2", "--until-end"]
        found = measure(job, folder / "log", self.environment)
        return found, tapeflow_bars(binary, store)

    def spark(self, folder, _):
        python = str(FOLDER / "venv/bin/python")
        schema = str(ROOT / "schemas/avro/trade_batch.v1.avsc")
        settings = [self.options.brokers, self.topic, "2", str(folder)]
        command = [python, str(HERE / "spark/spark_peer.py"), *settings]
        environment = self.environment | {"PYSPARK_PYTHON": python}
        found = measure([*command, schema, str(FOLDER / "spark")], folder / "log", environment)
        return found, peer_bars(folder)

    def flink(self, folder, _):
        java = ["java", "-Xmx4g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        java += [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        java += ["-cp", f"{FOLDER}/flink-classes:{FOLDER}/flink/*", "FlinkPeer"]
        settings = [self.options.brokers, self.topic, "2", str(folder)]
        found = measure([*java, *settings], folder / "log", self.environment)
        return found, peer_bars(folder)


def arguments():
    parser = argparse.ArgumentParser(prog="bench/peers/run")
    add = parser.add_argument
    add("--trades", type=int, default=5_000_000)
    add("--per-message", type=int, default=1, help="trades in a message")
    add("--rounds", type=int, default=1)
    add("--only", default="tapeflow,spark,flink", help="peers; tapeflow always runs")
    add("--brokers", default="127.0.0.1:19092")
    add("--cassandra", default="127.0.0.1:19042")
    # The profile `dist` has link-time optimisation, as the binary of the image.
    add("--binary", default=str(ROOT / "target/dist/tapeflow"))
    options = parser.parse_args()
    if not os.path.isfile(options.binary):
        parser.error(f"{options.binary} is missing: run cargo build --profile dist --locked")
    options.only = [name for name in options.only.split(",") if name != "tapeflow"]
    if unknown := set(options.only) - {"spark", "flink"}:
        parser.error(f"--only: unknown peers: {', '.join(sorted(unknown))}")
    return options


def preload(options, topic, environment):
    """Fills the topic unless it is full, and compares tapeflow's bars with a recomputation.

    Returns tapeflow's version.
    """
    print("filling the topic and verifying tapeflow's bars", file=sys.stderr)
    servers = ["--brokers", options.brokers, "--cassandra", options.cassandra]
    data = ["--trades", str(options.trades), "--per-message", str(options.per_message)]
    output = ["--bench-topic", topic, "--keep", "--json"]
    bench = [options.binary, "bench", *servers, *data, *output, "--sizes", "1m", "--workers", "2"]
    done = subprocess.run(bench, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    result = json.loads(done.stdout)
    if not result["correct"]:
        sys.exit(f"tapeflow bench found a difference: {result}")
    return result["version"]


def main():
    options = arguments()
    topic = f"tapeflow_bench_peers_{options.trades}_{options.per_message}"
    # Settings of the caller must not change what is measured.
    own = {name: value for name, value in os.environ.items() if not name.startswith("TAPEFLOW_")}
    environment = own | {"TAPEFLOW_HTTP": "off"}
    version = preload(options, topic, environment)
    peers = Peers(options, topic, environment)
    wanted, results = None, []
    for number in range(options.rounds):
        for peer in ["tapeflow", *options.only]:
            folder = FOLDER / "run" / peer
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            load = os.getloadavg()[0]
            found, bars = getattr(peers, peer)(folder, number)
            # tapeflow runs first.
            wanted = wanted or bars
            found |= {
                "version": found["version"] or version,
                "peer": peer,
                "trades": options.trades,
                "per_message": options.per_message,
                "bars": len(bars),
                "differences": differences(bars, wanted),
                "load_before": load,
            }
            results.append(found)
            with open(FOLDER / "results.jsonl", "a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{peer}: {found['seconds']:.1f} s", file=sys.stderr)
    print(HEADER)
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for result in results:
        print(table_row(result))
    sys.exit(1 if any(result["differences"] for result in results) else 0)


def table_row(result):
    trades, seconds = result["trades"], result["seconds"]
    cells = [
        result["peer"],
        result["version"],
        f"{seconds:.1f}",
        f"{trades / seconds:,.0f}",
        f"{result['cpu_whole'] / trades * 1e6:.2f}",
        f"{result['cpu_job'] / trades * 1e6:.2f}",
        result["peak_mb"],
        f"{result['bars']:,}",
        result["differences"],
        f"{result['load_before']:.1f}",
    ]
    return f"| {' | '.join(str(cell) for cell in cells)} |"


if __name__ == "__main__":
    main()
