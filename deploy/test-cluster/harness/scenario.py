"""The steps of the test, in order, and what each measures."""

import collections
import json
import os
import re
import sys
import tempfile
import time

import kube
from environment import ADDRESS, CQL, IMAGE, KEYSPACE, TOPIC
from observations import Observations, TimedOut

RELEASE = "tapeflow"
JOB = "app.kubernetes.io/component=dataflow"
FEED = "app.kubernetes.io/component=ingest"
PROCESSES = "dataflow.processes"
SETTLE_EPOCHS = 8
STEADY_S = 10


class Scenario:
    """Collects figures in its fields, and in `errors` everything that makes the test fail."""

    def __init__(self, options, environment):
        self.options, self.environment = options, environment
        self.observations = None
        self.kills, self.rescales, self.memory = collections.defaultdict(list), [], {}
        self.errors = []
        self.first_bar_s = self.installed_s = self.ready_s = self.steady_gap_s = None
        self.reinstalled_s = self.streaming_since = self.stopped_at = None
        self.verified = self.kubernetes = ""

    def run(self):
        symbols = self.symbols()
        script = [sys.executable, "-B", self.script("reader.py")]
        store = [ADDRESS, str(CQL), KEYSPACE]
        self.observations = Observations([kube.CLUSTER, "exec", *script, *store, symbols[0]])
        self.start(symbols)
        for _ in range(self.options.rounds):
            self.kill_in_each_way()
        for _ in range(self.options.rounds):
            for count in (4, 1, 2):
                self.rescale(count)
        self.reinstall(symbols)
        self.stop_feed()
        if self.options.corrupt:
            self.corrupt()
        self.verify()
        self.errors += self.observations.regressions()

    def end(self):
        if self.observations:
            self.observations.end()

    @staticmethod
    def script(name):
        return os.path.join(os.path.dirname(os.path.abspath(__file__)), name)

    def symbols(self):
        """The symbols of the simulated market, the most traded first."""
        seed, count = str(self.options.seed), str(self.options.symbols)
        with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
            market = ["--seed", seed, "--market-symbols", count, "--trades", "50000"]
            kube.run(self.options.binary, "simulate", "--out", file.name, *market)
            found = collections.Counter(re.findall(r'"s":"([^"]+)"', file.read()))
        return [symbol for symbol, _ in found.most_common()]

    def install(self, symbols):
        """Runs helm install; returns when it began."""
        repository, tag = IMAGE.rsplit(":", 1)
        simulated = {
            "enabled": True,
            "seed": self.options.seed,
            "rate": self.options.rate,
            "symbols": self.options.symbols,
        }
        values = {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "kafka": {"brokers": self.environment.brokers(), "topic": TOPIC},
            "cassandra": {"contactPoints": f"{ADDRESS}:{CQL}", "keyspace": KEYSPACE},
            "dataflow": {"processes": 2},
            "ingest": {"symbols": symbols, "simulated": simulated},
        }
        begun = time.monotonic()
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            kube.helm("install", RELEASE, self.options.chart, "-f", file.name, "--timeout", "180s")
        took = time.monotonic() - begun
        self.installed_s = self.installed_s or took
        self.environment.log(f"helm install returned after {took:.1f} s")
        return begun

    def start(self, symbols):
        """Installs the release while neither the topic nor the tables exist."""
        version = json.loads(kube.kubectl("version", "-o", "json"))
        self.kubernetes = version["serverVersion"]["gitVersion"]
        self.environment.log(
            f"helm install: {len(symbols)} symbols, {self.options.rate} trades a second,"
            f" seed {self.options.seed}, 2 processes"
        )
        begun = self.install(symbols)
        first = self.observations.until("the first bar", lambda line: "epoch" in line, 180)
        self.streaming_since = first["at"]
        self.first_bar_s = self.streaming_since - begun
        self.environment.log(f"first bar {self.first_bar_s:.1f} s after the start of helm install")
        kube.until_one_job(JOB, 2)
        self.ready_s = time.monotonic() - begun
        kube.until_ready(FEED, 1)
        self.environment.log(f"all pods are ready; {STEADY_S} s without kills")
        begun = self.observations.epochs_on(SETTLE_EPOCHS, "bars after the start")
        self.observations.until(
            f"{STEADY_S} s without kills", lambda line: line["at"] > begun + STEADY_S, 60
        )
        self.steady_gap_s = self.observations.gap(begun, begun + STEADY_S)
        self.environment.log(f"without kills, longest gap {self.steady_gap_s:.2f} s")
        self.record_memory(2)

    def reinstall(self, symbols):
        """Uninstalls the release and installs it again: the job continues where it stopped."""
        kube.helm("uninstall", RELEASE, "--wait", "--timeout", "120s")
        kube.until_ready(JOB, 0)
        kube.until_ready(FEED, 0)
        begun = self.install(symbols)
        what = "a bar after the second install"
        self.reinstalled_s = self.observations.fresh_after(begun, what)
        kube.until_one_job(JOB, 2)
        self.observations.epochs_on(SETTLE_EPOCHS, "bars after the second install")
        took = f"{self.reinstalled_s:.1f} s after the start of helm install"
        self.environment.log(f"reinstalled: first fresh bar {took}")

    # --- kills

    def kill_in_each_way(self):
        def delete(pod):
            name = pod["metadata"]["name"]
            how = ("--grace-period=0", "--force", "--wait=false")
            kube.kubectl("delete", "pod", name, *how)

        for number in (0, 1):
            self.kill(
                "kill -9 of the process of the job in pod N",
                number,
                lambda pod: kube.kill(kube.job(pod)[1]),
            )
            self.kill(
                "kill -9 of process 1 of the container of pod N",
                number,
                lambda pod: kube.kill(kube.job(pod)[0]),
            )
            self.kill("kubectl delete pod N --grace-period=0 --force", number, delete)

    def kill(self, label, number, how):
        """Kills something of the pod with this number and measures the recovery."""
        what = label.replace("pod N", f"pod {number}")
        found = kube.until_one_job(JOB, 2)
        pod = next(pod for name, pod in found.items() if name.endswith(f"-{number}"))
        self.observations.epochs_on(2, f"bars before: {what}")
        killed_at = time.monotonic()
        how(pod)
        took = self.observations.fresh_after(killed_at, what)
        self.kills[label].append((number, took))
        kube.until_one_job(JOB, 2)
        ready = time.monotonic() - killed_at
        self.observations.epochs_on(SETTLE_EPOCHS, f"bars after: {what}")
        self.environment.log(f"{what}: first fresh bar {took:.2f} s, all pods ready {ready:.1f} s")

    # --- changes of size

    def rescale(self, count):
        before = len(kube.pods(JOB))
        what = f"{before} -> {count} processes"
        last = self.observations.until(
            f"{what}: a line before", lambda line: True, 30, time.monotonic()
        )
        begun = time.monotonic()
        change = ("--reuse-values", "--set", f"{PROCESSES}={count}", "--timeout", "180s")
        kube.helm("upgrade", RELEASE, self.options.chart, *change)
        commanded = time.monotonic() - begun
        self.observations.until(
            f"{what}: another generation",
            lambda line: line["generation"] > last["generation"],
            120,
            begun,
        )
        kube.until_one_job(JOB, count)
        settled = self.observations.epochs_on(SETTLE_EPOCHS, f"bars after: {what}")
        gap = self.observations.gap(begun, settled)
        self.rescales.append((before, count, gap, settled - begun, commanded))
        self.environment.log(
            f"{what}: longest gap {gap:.2f} s, settled after {settled - begun:.1f} s"
            f" (helm upgrade returned after {commanded:.1f} s)"
        )
        self.record_memory(count)

    def record_memory(self, count):
        def of(selector):
            return [kube.memory_mb(pod) for pod in kube.pods(selector).values()]

        self.memory[f"dataflow, processes: {count}"] = of(JOB)
        self.memory["ingest and the simulated market"] = of(FEED)

    # --- the end

    def stop_feed(self):
        """Stops the feed and waits until the job has committed the whole topic."""
        deployments = kube.kubectl("get", "deployments", "-l", FEED, "-o", "name").split()
        self.stopped_at = time.monotonic()
        for deployment in deployments:
            kube.kubectl("scale", deployment, "--replicas=0")
        kube.until_ready(FEED, 0)
        deadline = time.monotonic() + 120
        while True:
            status = self.on_the_job("status", "--format", "json")
            lag = json.loads(status)["lag"]
            if lag and all(partition["uncommitted"] == 0 for partition in lag):
                records = sum(partition["end"] for partition in lag)
                return self.environment.log(
                    f"feed stopped; committed all {records} records of {len(lag)} partitions"
                )
            if time.monotonic() > deadline:
                raise TimedOut(f"the job did not commit the whole topic within 120 s: {status}")
            time.sleep(0.2)

    def on_the_job(self, command, *options, check=True):
        """The output of a tapeflow command on the store and the topic."""
        store = ("--store", self.environment.store())
        log = ("--brokers", self.environment.brokers(), "--topic", TOPIC)
        return self.environment.tapeflow(command, *store, *log, *options, check=check)

    def corrupt(self):
        """Changes a bar, to check that the test fails."""
        script = [sys.executable, "-B", self.script("corrupt.py")]
        output = kube.run(kube.CLUSTER, "exec", *script, ADDRESS, str(CQL), KEYSPACE)
        self.environment.log(f"--corrupt: changed the bar of {output.strip()}")

    def verify(self):
        output = self.on_the_job("verify", check=False).strip()
        self.verified = output.splitlines()[-1] if output else "no output"
        self.environment.log(f"verify: {self.verified}")
        differences = self.verified_count("differences?")
        trades = self.verified_count("trades? accepted") or 0
        bars = self.verified_count("bars? compared") or 0
        if differences != 0:
            self.errors.append(f"verify: {output[-2000:]}")
        # An empty topic has no differences either.
        least = int((self.stopped_at - self.streaming_since) * self.options.rate / 2)
        if trades < least or not bars:
            self.errors.append(
                f"verify: {trades} trades accepted and {bars} bars compared;"
                f" at least {least} trades were expected"
            )
        kube.until_one_job(JOB, 2)

    def verified_count(self, noun):
        """The number before a noun in the last line of verify; None if it is missing."""
        found = re.search(rf"([\d,]+) {noun}\b", self.verified)
        return int(found[1].replace(",", "")) if found else None
