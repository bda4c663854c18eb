"""What the test stands on: image, cluster, Kafka and Cassandra; brought up, and taken down again whatever happened."""

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


class Setting:
    """All of it; `down` may be called at any time, and more than once."""

    def __init__(self, options):
        self.options = options
        self.root = os.path.dirname(os.path.dirname(kube.HERE))
        self.folder = os.path.realpath(os.environ.get("TAPEFLOW_CLUSTER_DIR") or os.path.join(self.root, "target/cluster"))
        self.stack = os.path.join(self.root, "deploy/dev/stack")
        self.environment = {**os.environ, "TAPEFLOW_STACK_DIR": os.path.join(self.folder, "stack"), "TAPEFLOW_STACK_ADDRESS": ADDRESS}
        self.begun = time.monotonic()
        self.started = False

    def say(self, text):
        print(f"{time.monotonic() - self.begun:6.1f} s  {text}", flush=True)

    def check(self):
        """Refuses before anything is started."""
        if os.geteuid() != 0:
            raise RuntimeError("needs root: namespaces, mounts and containers are made")
        if not os.path.exists(os.path.join(self.folder, "pause.tar")):
            raise RuntimeError(f"the cluster is not built: {kube.CLUSTER} build")
        wanted = self.options.image or self.options.binary
        if not os.path.isfile(wanted):
            raise RuntimeError(f"{wanted} is missing: cargo build --release --locked")
        if not os.path.isfile(self.options.binary):
            raise RuntimeError(f"{self.options.binary} is missing; it is asked for what the store holds, even with --image")
        if not os.path.isfile(os.path.join(self.options.chart, "Chart.yaml")):
            raise RuntimeError(f"there is no chart in {self.options.chart}")

    def up(self):
        """Image, cluster and servers."""
        atexit.register(self.down)
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, lambda number, _: sys.exit(128 + number))
        image = self.options.image
        if not image:
            image = os.path.join(self.folder, "tapeflow.tar")
            kube.run(sys.executable, os.path.join(kube.HERE, "image.py"), image, IMAGE, f"{self.options.binary}:/usr/local/bin/tapeflow")
        self.say(f"image: {os.path.getsize(image) / 1e6:.0f} MB")
        # Nothing leads out of the cluster's network, so what is to be downloaded is downloaded before.
        kube.run(self.stack, "jars", env=self.environment)
        self.started = True
        kube.run(kube.CLUSTER, "up", image)
        self.say("cluster: up")
        kube.run(self.stack, "wipe", env=self.environment)
        kube.run(kube.CLUSTER, "exec", self.stack, "up", env=self.environment)
        self.say("Kafka and Cassandra: up")

    def tapeflow(self, *arguments, check=True):
        """A command of the binary itself, in the cluster's network: on the topic and the store."""
        return kube.run(kube.CLUSTER, "exec", self.options.binary, *arguments, check=check)

    def brokers(self):
        return f"{ADDRESS}:{KAFKA}"

    def store(self):
        return f"cassandra://{ADDRESS}:{CQL}/{KEYSPACE}"

    def keep_evidence(self):
        """What the cluster says of itself, for whoever asks why it failed."""
        path = os.path.join(self.folder, "log", "failure.log")
        commands = [("get", "pods", "-o", "wide"), ("get", "events", "--sort-by=.lastTimestamp"), ("describe", "pods")]
        with open(path, "w", encoding="utf-8") as file:
            for command in commands:
                file.write(f"--- kubectl {' '.join(command)}\n{kube.kubectl(*command, check=False)}\n")
            for pod in kube.kubectl("get", "pods", "-o", "name", check=False).split():
                for previous in ("--previous=true", "--previous=false"):
                    said = kube.kubectl("logs", pod, "--all-containers", "--prefix", "--tail=300", previous, check=False)
                    file.write(f"--- kubectl logs {pod} {previous}\n{said}\n")
        self.say(f"what the pods said: {path}")

    def down(self):
        """Ends all of it, once."""
        if not self.started or self.options.keep:
            return
        self.started = False
        subprocess.run([self.stack, "wipe"], env=self.environment, stdout=subprocess.DEVNULL, check=False)
        said = subprocess.run([kube.CLUSTER, "down"], capture_output=True, text=True, check=False)
        self.say(f"cluster: {'down' if said.returncode == 0 else said.stdout + said.stderr}")
