"""What is done to the job, in order, and what is measured."""

import collections
import json
import os
import re
import sys
import tempfile
import time

import kube
from seen import Seen, Stuck
from setting import ADDRESS, CQL, IMAGE, KEYSPACE, TOPIC

RELEASE = "tapeflow"
JOB = "app.kubernetes.io/component=dataflow"
FEED = "app.kubernetes.io/component=ingest"
PROCESSES = "dataflow.processes"
SETTLE_EPOCHS = 8
STEADY_S = 10


class Scenario:
    """The figures collect in `starts`, `kills`, `rescales` and `memory`; what must not be, in `faults`."""

    def __init__(self, options, setting):
        self.options, self.setting = options, setting
        self.seen = None
        self.kills, self.rescales, self.memory, self.faults = collections.defaultdict(list), [], {}, []
        self.first_row_s = self.installed_s = self.ready_s = self.steady_gap_s = self.again_s = self.streaming_since = self.stopped_at = None
        self.verified = self.kubernetes = ""

    def play(self):
        symbols = self.market()
        here = os.path.dirname(os.path.abspath(__file__))
        self.seen = Seen([kube.CLUSTER, "exec", sys.executable, "-B", os.path.join(here, "reader.py"), ADDRESS, str(CQL), KEYSPACE, symbols[0]])
        self.begin(symbols)
        for _ in range(self.options.rounds):
            self.kill_everything_once()
        for _ in range(self.options.rounds):
            for count in (4, 1, 2):
                self.rescale(count)
        self.install_again(symbols)
        self.drain()
        if self.options.spoil:
            self.spoil()
        self.verify()
        self.faults += self.seen.went_back()

    def end(self):
        if self.seen:
            self.seen.end()

    def market(self):
        """The symbols of the simulated market, the most traded first: what ingest subscribes to."""
        with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
            count = str(self.options.symbols)
            kube.run(self.options.binary, "simulate", "--out", file.name, "--seed", str(self.options.seed), "--symbols", count, "--trades", "50000")
            found = collections.Counter(re.findall(r'"s":"([^"]+)"', file.read()))
        return [symbol for symbol, _ in found.most_common()]

    def install(self, symbols):
        """Returns when it began."""
        repository, tag = IMAGE.rsplit(":", 1)
        values = {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "kafka": {"brokers": self.setting.brokers(), "topic": TOPIC},
            "cassandra": {"contactPoints": f"{ADDRESS}:{CQL}", "keyspace": KEYSPACE},
            "dataflow": {"processes": 2},
            "ingest": {"symbols": symbols, "simulated": {"enabled": True, "seed": self.options.seed, "rate": self.options.rate, "symbols": self.options.symbols}},
        }
        begun = time.monotonic()
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            kube.helm("install", RELEASE, self.options.chart, "-f", file.name, "--timeout", "180s")
        self.installed_s = self.installed_s or time.monotonic() - begun
        self.setting.say(f"helm install itself took {time.monotonic() - begun:.1f} s")
        return begun

    def begin(self, symbols):
        """On a topic and tables that are not there yet."""
        self.kubernetes = json.loads(kube.kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
        self.setting.say(f"helm install: {len(symbols)} symbols, {self.options.rate} trades a second, seed {self.options.seed}, 2 processes")
        begun = self.install(symbols)
        self.streaming_since = self.seen.until("the first row", lambda line: "epoch" in line, 180)["at"]
        self.first_row_s = self.streaming_since - begun
        self.setting.say(f"first row {self.first_row_s:.1f} s after the start of helm install")
        kube.until_one_job(JOB, 2)
        self.ready_s = time.monotonic() - begun
        kube.until_ready(FEED, 1)
        self.setting.say("all pods ready; a while without faults")
        begun = self.seen.epochs_on(SETTLE_EPOCHS, "rows after the start")
        self.seen.until("ten seconds without faults", lambda line: line["at"] > begun + STEADY_S, 60)
        self.steady_gap_s = self.seen.gap(begun, begun + STEADY_S)
        self.setting.say(f"longest time without a fresh row, nothing disturbed: {self.steady_gap_s:.2f} s")
        self.note_memory(2)

    def install_again(self, symbols):
        """Takes the release away and installs it anew: it goes on where it stopped."""
        kube.helm("uninstall", RELEASE, "--wait", "--timeout", "120s")
        kube.until_ready(JOB, 0)
        kube.until_ready(FEED, 0)
        begun = self.install(symbols)
        self.again_s = self.seen.fresh_after(begun, "a row after the second install")
        kube.until_one_job(JOB, 2)
        self.seen.epochs_on(SETTLE_EPOCHS, "rows after the second install")
        self.setting.say(f"uninstalled and installed again: first fresh row {self.again_s:.1f} s after the start of helm install")

    # --- kills

    def kill_everything_once(self):
        for at in (0, 1):
            self.kill(f"kill -9 of the process of the job in pod {at}", at, lambda pod: kube.kill(kube.job(pod)[1]))
            self.kill(f"kill -9 of process 1 of the container of pod {at}", at, lambda pod: kube.kill(kube.job(pod)[0]))
            self.kill(
                f"kubectl delete pod {at} --grace-period=0 --force",
                at,
                lambda pod: kube.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", "--wait=false"),
            )

    def kill(self, what, at, how):
        found = kube.until_one_job(JOB, 2)
        pod = next(pod for name, pod in found.items() if name.endswith(f"-{at}"))
        self.seen.epochs_on(2, f"rows before: {what}")
        killed_at = time.monotonic()
        how(pod)
        took = self.seen.fresh_after(killed_at, what)
        self.kills[what.replace(" 0", " N").replace(" 1 --", " N --").replace("pod 1", "pod N")].append((at, took))
        kube.until_one_job(JOB, 2)
        ready = time.monotonic() - killed_at
        self.seen.epochs_on(SETTLE_EPOCHS, f"rows after: {what}")
        self.setting.say(f"{what}: first fresh row {took:.2f} s, all pods ready {ready:.1f} s")

    # --- changes of size

    def rescale(self, count):
        before = len(kube.pods(JOB))
        head = self.seen.until("a look before the change", lambda line: True, 30, time.monotonic())
        begun = time.monotonic()
        kube.helm("upgrade", RELEASE, self.options.chart, "--reuse-values", "--set", f"{PROCESSES}={count}", "--timeout", "180s")
        commanded = time.monotonic() - begun
        what = f"{before} -> {count} processes"
        self.seen.until(f"{what}: another generation", lambda line: line["generation"] > head["generation"], 120, begun)
        kube.until_one_job(JOB, count)
        settled = self.seen.epochs_on(SETTLE_EPOCHS, f"rows after: {what}")
        gap = self.seen.gap(begun, settled)
        self.rescales.append((before, count, gap, settled - begun, commanded))
        self.setting.say(f"{what}: longest time without a fresh row {gap:.2f} s; over after {settled - begun:.1f} s (helm upgrade itself {commanded:.1f} s)")
        self.note_memory(count)

    def note_memory(self, count):
        figures = [kube.memory_mb(pod) for pod in kube.pods(JOB).values()]
        self.memory[f"dataflow, {count} process(es)"] = figures
        self.memory["ingest, with the simulated feed beside it"] = [kube.memory_mb(pod) for pod in kube.pods(FEED).values()]

    # --- the end

    def drain(self):
        """Stops the feed, and waits until the job has committed all that is in the topic."""
        deployments = kube.kubectl("get", "deployments", "-l", FEED, "-o", "name").split()
        self.stopped_at = time.monotonic()
        for deployment in deployments:
            kube.kubectl("scale", deployment, "--replicas=0")
        kube.until_ready(FEED, 0)
        deadline = time.monotonic() + 120
        while True:
            said = self.setting.tapeflow("status", "--store", self.setting.store(), "--brokers", self.setting.brokers(), "--topic", TOPIC, "--format", "json")
            lag = json.loads(said)["lag"]
            if lag and all(partition["uncommitted"] == 0 for partition in lag):
                return self.setting.say(f"feed stopped; committed to the end of {len(lag)} partitions, {sum(partition['end'] for partition in lag)} records")
            if time.monotonic() > deadline:
                raise Stuck(f"the job did not come to the end of the topic within 120 s: {said}")
            time.sleep(0.2)

    def spoil(self):
        """Writes a wrong row, to see that the test fails."""
        here = os.path.dirname(os.path.abspath(__file__))
        said = kube.run(kube.CLUSTER, "exec", sys.executable, "-B", os.path.join(here, "spoil.py"), ADDRESS, str(CQL), KEYSPACE)
        self.setting.say(f"spoiled, as asked: {said.strip()}")

    def verify(self):
        said = self.setting.tapeflow(
            "verify", "--store", self.setting.store(), "--brokers", self.setting.brokers(), "--topic", TOPIC, check=False
        ).strip()
        self.verified = said.splitlines()[-1] if said else "nothing"
        self.setting.say(f"verify: {self.verified}")
        counts = {key: int(value.replace(",", "")) for value, key in re.findall(r"([\d,]+) (differences|trades accepted|rows compared)", self.verified)}
        if counts.get("differences") != 0:
            self.faults.append(f"verify: {said[-2000:]}")
        # An empty topic would verify as well.
        least = int((self.stopped_at - self.streaming_since) * self.options.rate / 2)
        if counts.get("trades accepted", 0) < least or not counts.get("rows compared"):
            self.faults.append(f"only {counts.get('trades accepted', 0)} trades came through, at least {least} were expected")
        kube.until_one_job(JOB, 2)
