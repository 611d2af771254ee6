"""What the test on a real node asks of the cluster: kubectl, helm, Pods, and the gateways' own ports."""

import http.client
import json
import os
import pathlib
import subprocess
import time

CHART = "deploy/helm/traffic-dam"
GATEWAYS = "app.kubernetes.io/component=gateway"
PATIENCE = 120.0


class Failure(Exception):
    """What is not as it must be."""


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failure(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def kubectl(*command):
    return run("kubectl", "-n", "llm", *command)


def helm(*command):
    return run("helm", "-n", "llm", *command)


def upgrade(values, *more):
    """Installs the release `llm` with these values, or changes it to them."""
    return helm("upgrade", "--install", "llm", CHART, "-f", values, *more, "--wait", "--timeout", f"{PATIENCE:.0f}s")


def timed(act):
    began = time.monotonic()
    act()
    return time.monotonic() - began


def until(what, holds):
    """Waits until something holds. Returns the time that it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > PATIENCE:
            raise Failure(f"not within {PATIENCE:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - began


def pods(selector):
    return json.loads(kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]


def name(pod):
    return pod["metadata"]["name"]


def names(selector=GATEWAYS):
    return sorted(map(name, pods(selector)))


def nodes(selector=GATEWAYS):
    """The nodes where such Pods are, with as many entries as there are Pods."""
    return sorted(pod["spec"].get("nodeName", "none") for pod in pods(selector) if "deletionTimestamp" not in pod["metadata"])


def restarts(pod):
    return sum(it["restartCount"] for it in pod["status"].get("containerStatuses", []))


def is_ready(pod):
    conditions = {it["type"]: it["status"] for it in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def settled(selector, number):
    """Waits until there are so many Pods, all of them ready, and none that is going."""

    def holds():
        found = pods(selector)
        return len(found) == number and all(map(is_ready, found))

    return until(f"{number} Pods of {selector} are ready, and no others are left", holds)


def in_flight(pod):
    """The requests that a gateway has, as it says itself."""
    connection = http.client.HTTPConnection(pod["status"]["podIP"], 8081, timeout=10)
    connection.request("GET", "/metrics", headers={"host": "localhost", "authorization": f"Bearer {os.environ['ADMIN_TOKEN']}"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    if answer.status != 200:
        raise Failure(f"/metrics: {answer.status} {text}")
    return next(int(float(it.split()[1])) for it in text.splitlines() if it.startswith("traffic_dam_in_flight "))


def process(pod):
    """The process of a gateway, if it runs: its control group has the Pod's uid in its name."""
    uid = pod["metadata"]["uid"]
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if b"serve" in (folder / "cmdline").read_bytes().split(b"\0") and uid in (folder / "cgroup").read_text():
                return int(folder.name)
        except OSError:
            continue
    return None
