"""Runs each peer on one topic, measures all alike, and compares every row with tapeflow's. Called by ./run, which has fetched what they need."""
import argparse, csv, datetime, glob, json, os, pathlib, shutil, subprocess, sys, threading, time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
OPENED = ["java.util", "java.lang", "java.net", "java.nio", "java.time", "java.util.concurrent"]


def processes_of(session):
    """CPU seconds and resident bytes of each process of a session."""
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
    """Runs a command in a session of its own: when it ended, CPU over time, the largest memory, and what it said of itself."""
    began = time.time()
    with open(log, "w") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True, env=environment)
    cpu, course, peak, over = {}, [(began, 0.0)], [0], threading.Event()

    def sample():
        while not over.is_set():
            resident = 0
            for process, seconds, memory in processes_of(child.pid):
                cpu[process] = seconds
                resident += memory
            peak[0] = max(peak[0], resident)
            course.append((time.time(), sum(cpu.values())))
            over.wait(0.05)

    sampler = threading.Thread(target=sample)
    sampler.start()
    told = {}
    for line in child.stdout:
        if line.startswith("PEER "):
            told = json.loads(line[5:])
    # Waited for with its usage, so that the last moments of it count too.
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    sampler.join()
    if child.returncode != 0:
        sys.exit(f"{command[0]} ended with code {child.returncode}: see {log}")
    whole = max(course[-1][1], usage.ru_utime + usage.ru_stime)
    at = lambda moment: min(course, key=lambda point: abs(point[0] - moment))[1]
    job = at(told["ended"]) - at(told["began"]) if told else whole
    seconds = told["ended"] - told["began"] if told else time.time() - began
    return {"seconds": seconds, "cpu_whole": whole, "cpu_job": job, "peak_mb": round(peak[0] / 2**20), "version": told.get("version")}


def tapeflow_rows(binary, store):
    """(symbol, start in ms) to (volume, VWAP, trades), of all trades whatever their sale conditions."""
    out = subprocess.run([binary, "bars", "--store", store, "--size", "1m", "--policy", "all", "--format", "csv"], check=True, capture_output=True, text=True)
    rows = {}
    for row in csv.DictReader(out.stdout.splitlines()):
        start = datetime.datetime.fromisoformat(row["start"].replace("Z", "+00:00"))
        rows[row["symbol"], round(start.timestamp() * 1000)] = (
            float(row["volume"]), float(row["vwap"]), int(row["trades"]))
    return rows


def peer_rows(folder):
    """What a peer wrote. A later batch of Spark's says what a row has become."""
    rows = {}
    for name in sorted(glob.glob(f"{folder}/rows/**/*", recursive=True)):
        base = os.path.basename(name)
        if os.path.isdir(name) or base.startswith(("_", ".")) or base.endswith(".crc"):
            continue
        with open(name, newline="") as file:
            for symbol, start, volume, vwap, trades, *_ in csv.reader(file):
                # High and low are theirs of every trade, and tapeflow's of those that form prices.
                rows[symbol, int(start)] = (float(volume), float(vwap), int(trades))
    return rows


def differences(found, wanted):
    """Rows that are missing, too many, or not the same."""
    # tapeflow prints a VWAP rounded to eight places.
    near = lambda a, b: abs(a - b) <= max(1e-8, 1e-9 * max(abs(a), abs(b)))
    same = lambda a, b: a[2] == b[2] and all(near(x, y) for x, y in zip(a[:2], b[:2]))
    return sum(1 for key in found.keys() | wanted.keys() if key not in found or key not in wanted or not same(found[key], wanted[key]))


def main():
    parser = argparse.ArgumentParser(prog="bench/peers/run")
    parser.add_argument("--trades", type=int, default=5_000_000)
    parser.add_argument("--per-message", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="tapeflow,spark,flink")
    parser.add_argument("--brokers", default="127.0.0.1:19092")
    parser.add_argument("--cassandra", default="127.0.0.1:19042")
    parser.add_argument("--binary", default=str(ROOT / "target/dist/tapeflow"))
    arguments = parser.parse_args()
    folder = ROOT / "target/peers"
    topic = f"tapeflow_bench_peers_{arguments.trades}_{arguments.per_message}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TAPEFLOW_")} | {"TAPEFLOW_HTTP": "off"}

    # Fills the topic, unless it is there, and compares all rows with an independent recomputation.
    print("filling the topic, and checking tapeflow's own rows", file=sys.stderr)
    bench = [arguments.binary, "bench", "--brokers", arguments.brokers, "--cassandra", arguments.cassandra, "--sizes", "1m", "--workers", "2", "--json",
             "--trades", str(arguments.trades), "--per-message", str(arguments.per_message), "--bench-topic", topic, "--keep"]
    checked = json.loads(subprocess.run(bench, check=True, stdout=subprocess.PIPE, text=True, env=clean).stdout)
    assert checked["correct"], checked
    wanted, results = None, []
    for turn in range(arguments.rounds):
        for peer in ["tapeflow", *[name for name in arguments.only.split(",") if name != "tapeflow"]]:
            place = folder / "run" / peer
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            load = os.getloadavg()[0]
            if peer == "tapeflow":
                store = f"cassandra://{arguments.cassandra}/peers_{os.getpid()}_{turn}"
                where = ["--brokers", arguments.brokers, "--topic", topic, "--store", store]
                subprocess.run([arguments.binary, "init", *where], check=True, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                found = measure([arguments.binary, "dataflow", *where, "--sizes", "1m", "--workers", "2", "--until-end"], place / "log", clean)
                rows = tapeflow_rows(arguments.binary, store)
                wanted = wanted or rows
                found["version"] = checked["version"]
            elif peer == "spark":
                python = str(folder / "venv/bin/python")
                command = [python, str(HERE / "spark/spark_peer.py"), arguments.brokers, topic, "2", str(place), str(ROOT / "schemas/avro/trade_batch.v1.avsc"), str(folder / "spark")]
                found = measure(command, place / "log", clean | {"PYSPARK_PYTHON": python})
                rows = peer_rows(place)
            elif peer == "flink":
                opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
                command = ["java", "-Xmx4g", *opens, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{folder}/flink-classes:{folder}/flink/*",
                           "FlinkPeer", arguments.brokers, topic, "2", str(place)]
                found = measure(command, place / "log", clean)
                rows = peer_rows(place)
            else:
                sys.exit(f"--only: there is no {peer}")
            found |= {"peer": peer, "trades": arguments.trades, "per_message": arguments.per_message, "rows": len(rows), "differences": differences(rows, wanted), "load_before": load}
            results.append(found)
            with open(folder / "results.jsonl", "a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{peer}: {found['seconds']:.1f} s", file=sys.stderr)
    print("| | version | seconds | trades/s | CPU a trade, us: whole | of the job alone | peak memory, MB | rows | differences | load before |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for r in results:
        us = lambda seconds: f"{seconds / r['trades'] * 1e6:.2f}"
        print(f"| {r['peer']} | {r['version']} | {r['seconds']:.1f} | {r['trades'] / r['seconds']:,.0f} | {us(r['cpu_whole'])} | {us(r['cpu_job'])} | {r['peak_mb']} | {r['rows']:,} | {r['differences']} | {r['load_before']:.1f} |")
    sys.exit(1 if any(r["differences"] for r in results) else 0)


main()
