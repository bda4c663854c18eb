"""What the test runs on: the image, the cluster, Kafka and Cassandra."""

import atexit
import os
import signal
import subprocess
import sys
import time

import kube

ADDRESS = "10.99.0.1"
KAFKA, CQL = 19092, 19042
TOPIC, KEYSPACE = "trades", "tapeflow"
IMAGE = "localhost/tapeflow:test"


class Environment:
    """Starts and stops everything. `down` may be called at any time, and more than once."""

    def __init__(self, options):
        self.options = options
        self.root = os.path.dirname(os.path.dirname(kube.HERE))
        default = os.path.join(self.root, "target/cluster")
        self.folder = os.path.realpath(os.environ.get("TAPEFLOW_CLUSTER_DIR") or default)
        self.stack = os.path.join(self.root, "deploy/dev/stack")
        self.variables = {
            **os.environ,
            "TAPEFLOW_STACK_DIR": os.path.join(self.folder, "stack"),
            "TAPEFLOW_STACK_ADDRESS": ADDRESS,
        }
        self.begun = time.monotonic()
        self.started = False

    def log(self, text):
        print(f"{time.monotonic() - self.begun:6.1f} s  {text}", flush=True)

    def check(self):
        """Fails before anything is started if something is missing."""
        binary, image = self.options.binary, self.options.image
        if os.geteuid() != 0:
            raise RuntimeError("needs root, to create namespaces, mounts and containers")
        if not os.path.exists(os.path.join(self.folder, "pause.tar")):
            raise RuntimeError(f"the cluster is not built: run {kube.CLUSTER} build")
        if not os.path.isfile(binary):
            raise RuntimeError(f"{binary} is missing: run cargo build --profile dist --locked")
        if image and not os.path.isfile(image):
            raise RuntimeError(f"--image: {image} is missing")
        if not os.path.isfile(os.path.join(self.options.chart, "Chart.yaml")):
            raise RuntimeError(f"--chart: {self.options.chart} has no Chart.yaml")

    def up(self):
        """Builds the image, starts the cluster and the servers."""
        atexit.register(self.down)
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, lambda number, _: sys.exit(128 + number))
        image = self.options.image
        if not image:
            image = os.path.join(self.folder, "tapeflow.tar")
            script = os.path.join(kube.HERE, "image.py")
            binary = f"{self.options.binary}:/usr/local/bin/tapeflow"
            kube.run(sys.executable, script, image, IMAGE, binary)
        self.log(f"image: {os.path.getsize(image) / 1e6:.0f} MB")
        # Before `up`, because the cluster's network has no route to the Internet.
        kube.run(self.stack, "jars", env=self.variables)
        self.started = True
        kube.run(kube.CLUSTER, "up", image)
        self.log("cluster: up")
        kube.run(self.stack, "wipe", env=self.variables)
        kube.run(kube.CLUSTER, "exec", self.stack, "up", env=self.variables)
        self.log("Kafka and Cassandra: up")

    def tapeflow(self, *arguments, check=True):
        """Runs a command of the binary in the cluster's network; returns its output."""
        return kube.run(kube.CLUSTER, "exec", self.options.binary, *arguments, check=check)

    def brokers(self):
        return f"{ADDRESS}:{KAFKA}"

    def store(self):
        return f"cassandra://{ADDRESS}:{CQL}/{KEYSPACE}"

    def save_logs(self):
        """Writes the state of the pods, their events and their logs to a file."""
        path = os.path.join(self.folder, "log", "failure.log")
        commands = [
            ("get", "pods", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            ("describe", "pods"),
        ]
        pods = kube.kubectl("get", "pods", "-o", "name", check=False).split()
        for pod in pods:
            for previous in ("--previous=true", "--previous=false"):
                options = ("--all-containers", "--prefix", "--tail=300", previous)
                commands.append(("logs", pod, *options))
        with open(path, "w", encoding="utf-8") as file:
            for command in commands:
                output = kube.kubectl(*command, check=False)
                file.write(f"--- kubectl {' '.join(command)}\n{output}\n")
        self.log(f"logs of the pods: {path}")

    def down(self):
        """Stops everything, once."""
        if not self.started or self.options.keep:
            return
        self.started = False
        subprocess.run(
            [self.stack, "wipe"], env=self.variables, stdout=subprocess.DEVNULL, check=False
        )
        done = subprocess.run([kube.CLUSTER, "down"], capture_output=True, text=True, check=False)
        self.log(f"cluster: {'down' if done.returncode == 0 else done.stdout + done.stderr}")
