"""Access to the cluster: kubectl and helm through ./cluster, and the processes of a pod by their
pids on this machine."""

import glob
import json
import os
import signal
import subprocess
import time

from observations import TimedOut

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CLUSTER = os.path.join(HERE, "cluster")
HTTP_PORT = 8080


def run(*command, check=True, **options):
    """Runs a command and returns its output. If it fails, the error has the end of the output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        output = (done.stdout + done.stderr)[-4000:]
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{output}")
    return done.stdout


def kubectl(*arguments, **options):
    return run(CLUSTER, "kubectl", *arguments, **options)


def helm(*arguments):
    return run(CLUSTER, "helm", *arguments)


def pods(selector):
    """Pods that are not being deleted, by name."""
    found = json.loads(kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
    live = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
    return {pod["metadata"]["name"]: pod for pod in live}


def is_ready(pod):
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def until_ready(selector, count, timeout_s=120):
    """Waits until there are exactly `count` pods, all ready; returns them."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = pods(selector)
        # Pods that are being deleted count too: a rescale is complete when they are gone.
        names = kubectl("get", "pods", "-l", selector, "-o", "name").split()
        if len(names) == len(found) == count and all(is_ready(pod) for pod in found.values()):
            return found
        if time.monotonic() > deadline:
            table = kubectl("get", "pods", "-o", "wide", check=False)
            raise TimedOut(f"{count} ready pods of {selector}: not within {timeout_s} s\n{table}")
        time.sleep(0.2)


def status(pod):
    """The `job` of the pod's /status, through the API server; None if there is no answer."""
    path = f"/api/v1/namespaces/default/pods/{pod['metadata']['name']}:{HTTP_PORT}/proxy/status"
    answer = kubectl("get", "--raw", path, check=False)
    try:
        return json.loads(answer)["job"]
    except (ValueError, KeyError):
        return None


def until_one_job(selector, count, timeout_s=120):
    """Waits until there are exactly `count` pods, all ready, whose processes report one job of
    `count` processes; returns the pods."""
    deadline = time.monotonic() + timeout_s
    wanted = [(process, count) for process in range(count)]
    while True:
        found = until_ready(selector, count, max(1, deadline - time.monotonic()))
        jobs = [status(pod) for pod in found.values()]
        if all(jobs):
            numbers = sorted((job["process"], job["processes"]) for job in jobs)
            generations = {job["generation"] for job in jobs}
            if numbers == wanted and len(generations) == 1:
                return found
        if time.monotonic() > deadline:
            raise TimedOut(f"{count} pods are not one job within {timeout_s} s; /status: {jobs}")
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


def proc_status(pid, field):
    """A number of /proc/PID/status."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/status has no {field}")


def tapeflow_processes(pod):
    """Pid and command line of each process of a pod that runs tapeflow."""
    found = processes(pod).items()
    return {pid: line for pid, line in found if os.path.basename(line[0]) == "tapeflow"}


def job(pod):
    """The pids of a pod's supervisor and of the process of the job that it runs."""
    programs = tapeflow_processes(pod)
    children = [pid for pid in programs if proc_status(pid, "PPid") in programs]
    parents = [pid for pid in programs if pid not in children]
    if len(parents) != 1 or len(children) != 1:
        name = pod["metadata"]["name"]
        raise TimedOut(f"pod {name} must run a supervisor and its child, but runs {programs}")
    return parents[0], children[0]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def memory_mb(pod):
    """Resident memory of a pod's tapeflow processes, in MB: now, and the sum of their peaks."""
    now = peak = 0
    for pid in tapeflow_processes(pod):
        now += proc_status(pid, "VmRSS")
        peak += proc_status(pid, "VmHWM")
    return now / 1000, peak / 1000
