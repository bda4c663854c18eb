"""The cluster as the test uses it: kubectl and helm by way of ./cluster, and the processes of a pod as this machine sees them."""

import glob
import json
import os
import signal
import subprocess
import time

from seen import Stuck

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLUSTER = os.path.join(HERE, "cluster")
HTTP_PORT = 8080


def run(*command, check=True, **options):
    """A command's output; the end of what it said in the exception if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: code {done.returncode}\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def kubectl(*arguments, **options):
    return run(CLUSTER, "kubectl", *arguments, **options)


def helm(*arguments):
    return run(CLUSTER, "helm", *arguments)


def pods(selector):
    """Pods that are not being deleted, by name."""
    found = json.loads(kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def is_ready(pod):
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in pod.get("status", {}).get("conditions", []))


def until_ready(selector, count, timeout_s=120):
    """Waits until there are exactly `count` pods, all ready; returns them."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = pods(selector)
        # Those on their way out count too: a rescale is over when they are gone.
        names = kubectl("get", "pods", "-l", selector, "-o", "name").split()
        if len(names) == len(found) == count and all(is_ready(pod) for pod in found.values()):
            return found
        if time.monotonic() > deadline:
            table = kubectl("get", "pods", "-o", "wide", check=False)
            raise Stuck(f"{count} ready pods of {selector}: not within {timeout_s} s\n{table}")
        time.sleep(0.2)


def status(pod):
    """What a pod's process says of itself at /status, by way of the API server; None while it says nothing."""
    path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}:{HTTP_PORT}/proxy/status"
    said = kubectl("get", "--raw", path, check=False)
    try:
        return json.loads(said)["job"]
    except (ValueError, KeyError):
        return None


def until_one_job(selector, count, timeout_s=120):
    """Waits until there are exactly `count` pods, all ready, whose processes say that they are one job of `count` processes; returns the pods."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = until_ready(selector, count, max(1, deadline - time.monotonic()))
        said = [status(pod) for pod in found.values()]
        if all(said):
            places = sorted((job["process"], job["processes"]) for job in said)
            if places == [(place, count) for place in range(count)] and len({job["generation"] for job in said}) == 1:
                return found
        if time.monotonic() > deadline:
            raise Stuck(f"{count} pods are not one job within {timeout_s} s; they say {said}")
        time.sleep(0.2)


def processes(pod):
    """Pid and command line of each process of a pod, from its cgroup."""
    uid = pod["metadata"]["uid"]
    found = {}
    for root in glob.glob("/sys/fs/cgroup/kubepods") + glob.glob("/sys/fs/cgroup/*/kubepods"):
        for folder, _, files in os.walk(root):
            if uid not in folder or "cgroup.procs" not in files:
                continue
            with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
                for pid in file.read().split():
                    try:
                        with open(f"/proc/{pid}/cmdline", "rb") as line:
                            found[int(pid)] = line.read().decode(errors="replace").split("\0")
                    except OSError:
                        pass
    return found


def of_status(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise RuntimeError(f"no {field} of process {pid}")


def job(pod):
    """The pids of a pod's supervisor and of the process of the job that it runs."""
    programs = {pid: line for pid, line in processes(pod).items() if os.path.basename(line[0]) == "tapeflow"}
    children = [pid for pid in programs if of_status(pid, "PPid") in programs]
    parents = [pid for pid in programs if pid not in children]
    if len(parents) != 1 or len(children) != 1:
        raise Stuck(f"pod {pod['metadata']['name']}: not one supervisor and one process of the job, but {programs}")
    return parents[0], children[0]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def memory_mb(pod):
    """Resident memory of a pod's processes now, and the sum of their largest, in MB; without the one that holds its namespaces."""
    now = peak = 0
    for pid, line in processes(pod).items():
        if os.path.basename(line[0]) == "tapeflow":
            now += of_status(pid, "VmRSS")
            peak += of_status(pid, "VmHWM")
    return now / 1000, peak / 1000
