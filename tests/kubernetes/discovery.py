"""Changes what an API server says about the workers of a gateway, under load, and looks at what the gateway does.

    discovery.py service -- COMMAND...     # EndpointSlices; COMMAND starts the API server again
    discovery.py pods                      # labels of pods, a selector, an InferencePool

`tests/kubernetes/discovery` starts everything. Standard library only.
"""

import http.client
import json
import os
import pathlib
import signal
import ssl
import subprocess
import sys
import threading
import time
from urllib.parse import urlsplit

CLIENTS = 8
TOKENS = 15
# A gateway that follows within this time follows "at once"; what is printed says how long it took.
FOLLOWS = 1.0
PATIENCE = 60.0
SLICES = "/apis/discovery.k8s.io/v1/namespaces/llm/endpointslices"
POOLS = "/apis/inference.networking.k8s.io/v1/namespaces/llm/inferencepools"
PODS = "/api/v1/namespaces/llm/pods"
LOG = pathlib.Path(os.environ["GATEWAY_LOG"])
FAILS, AGAIN = "the discovery source does not answer", "the discovery source answers again"


class Failure(Exception):
    """What is not as it must be."""


def api(method, path, body=None, kind="application/json"):
    """Asks the API server as an administrator."""
    url = urlsplit(os.environ["API_URL"])
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=20, context=context)
    headers = {"authorization": "Bearer a-token-for-a-test", "content-type": kind}
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status >= 300:
        raise Failure(f"{method} {path}: {answer.status} {text.decode()}")


def admin(path):
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["ADMIN_PORT"]), timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def state():
    return json.loads(admin("/api/v1/state")[1])


def workers(eligible=True):
    """Ids of the gateway's workers by pool."""
    pools = state()["pools"]
    return {
        pool["name"]: sorted(it["id"] for it in pool["workers"] if it["eligible"] or not eligible) for pool in pools
    }


def away():
    return [name for source in state()["discovery"] for name in source["away"]]


def age():
    line = next(it for it in admin("/metrics")[1].splitlines() if it.startswith('traffic_dam_discovery_age_seconds{source="kubernetes"}'))
    return float(line.rsplit(" ", 1)[1])


def logged(words):
    return LOG.read_text().count(words)


def until(what, holds):
    """Waits until something holds. Returns the time that it took."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > PATIENCE:
            raise Failure(f"not within {PATIENCE:.0f} s: {what}; the state is {json.dumps(state()['discovery'])}, {workers(False)}")
        time.sleep(0.02)
    return time.monotonic() - began


class Load:
    """Clients that send one request after the other."""

    def __init__(self):
        self.lock = threading.Lock()
        # When each request began, its worker, and what was wrong with it.
        self.answers = []
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.client, args=(number,), daemon=True) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def client(self, number):
        connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["USER_PORT"]), timeout=60)
        body = {"model": "sim", "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
        body["messages"] = [{"role": "user", "content": f"Client {number} asks why water finds its level."}]
        while not self.ended.is_set():
            began, worker, fault = time.monotonic(), None, None
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
                answer = connection.getresponse()
                worker = answer.headers.get("x-traffic-dam-worker")
                text = answer.read()
                if answer.status != 200:
                    fault = f"{answer.status} {text[:200]!r}"
                elif b"data: [DONE]" not in text:
                    fault = "cut off"
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                fault = repr(error)
            with self.lock:
                self.answers.append((began, worker, fault))

    def since(self, moment):
        with self.lock:
            return [answer for answer in self.answers if answer[0] >= moment]

    def follow(self, moment, names):
        """Waits until all of these workers, and no others, get requests. Returns how long after `moment` that was."""
        wanted = {f"llm/{name}" for name in names}

        def holds():
            answers = self.since(moment)
            strays = [began for began, worker, _ in answers if worker not in wanted]
            settled = [worker for began, worker, _ in answers if not strays or began > max(strays)]
            return wanted <= set(settled) and len(settled) >= 10 * len(wanted)

        until(f"requests go to {sorted(wanted)}", holds)
        answers = self.since(moment)
        firsts = [min(began for began, worker, _ in answers if worker == name) - moment for name in wanted]
        strays = [began - moment for began, worker, _ in answers if worker not in wanted]
        took = max(firsts + strays)
        if took > FOLLOWS:
            raise Failure(f"traffic followed after {took * 1000:.0f} ms: firsts {firsts}, strays {strays}")
        return took

    def check(self):
        """Fails if any request failed. Returns how many there were."""
        with self.lock:
            faults = [answer for answer in self.answers if answer[2]]
            count = len(self.answers)
        if faults:
            raise Failure(f"{len(faults)} of {count} requests failed: {faults[:3]}")
        return count

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        return self.check()


def endpoint(number, ready=True, terminating=False):
    return {
        "addresses": [f"10.88.0.{number}"],
        "conditions": {"ready": ready and not terminating, "serving": ready, "terminating": terminating},
        "targetRef": {"kind": "Pod", "namespace": "llm", "name": f"w{number}", "uid": f"uid-{number}"},
    }


def slice_(name, endpoints):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "vllm"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        "endpoints": endpoints,
    }


def names(numbers):
    return [f"w{number}" for number in numbers]


def scale(load):
    """2 → 6 → 3 workers, as a Deployment would: new ones come unready, those that go end first."""
    api("POST", SLICES, slice_("vllm-1", [endpoint(1), endpoint(2)]))
    until("the gateway is ready", lambda: admin("/readyz")[0] == 200 and len(workers().get("chat", [])) == 2)
    load = Load()
    load.follow(time.monotonic(), names([1, 2]))
    api("POST", SLICES, slice_("vllm-2", [endpoint(number, ready=False) for number in (3, 4, 5, 6)]))
    until("those that are not ready are known", lambda: len(workers(False)["chat"]) == 6)
    moment = time.monotonic()
    api("PUT", f"{SLICES}/vllm-2", slice_("vllm-2", [endpoint(number) for number in (3, 4, 5, 6)]))
    more = load.follow(moment, names(range(1, 7)))
    moment = time.monotonic()
    api("PUT", f"{SLICES}/vllm-2", slice_("vllm-2", [endpoint(3)] + [endpoint(it, terminating=True) for it in (4, 5, 6)]))
    fewer = load.follow(moment, names([1, 2, 3]))
    # For a moment the third is in both slices.
    api("PUT", f"{SLICES}/vllm-1", slice_("vllm-1", [endpoint(1), endpoint(2), endpoint(3)]))
    api("PUT", f"{SLICES}/vllm-2", slice_("vllm-2", []))
    until("those that ended are forgotten", lambda: len(workers(False)["chat"]) == 3)
    print(f"2 → 6 → 3 workers under load: traffic followed after {more * 1000:.0f} and {fewer * 1000:.0f} ms, {load.check()} requests, 0 failed")
    return load


def odd_sets(load):
    """What is more often a mistake than meant changes nothing; and what is no pod is no worker."""
    everyone = [endpoint(number, ready=False) for number in (1, 2, 3)]
    api("PUT", f"{SLICES}/vllm-1", slice_("vllm-1", everyone))
    stranger = endpoint(6)
    stranger["targetRef"]["namespace"] = "other"
    api("POST", SLICES, slice_("vllm-3", [stranger]))
    time.sleep(1)
    load.follow(time.monotonic(), names([1, 2, 3]))
    api("PUT", f"{SLICES}/vllm-1", slice_("vllm-1", [endpoint(1), endpoint(2), endpoint(3)]))
    print(f"all unready at once, and an endpoint of another namespace: nothing changed, {load.check()} requests, 0 failed")


def rights_away(load):
    kubectl, rights = os.environ["KUBECTL"], os.environ["RIGHTS"]
    answered = logged(AGAIN)
    run = lambda *command: subprocess.run([kubectl, *command], check=True, stdout=subprocess.DEVNULL)
    moment = time.monotonic()
    run("-n", "llm", "delete", "rolebinding", "dam-traffic-dam-discovery")
    until("the log names the right", lambda: logged("may not `watch` `endpointslices` in namespace `llm` (403)") > 0)
    said = time.monotonic() - moment
    until("the state says so", lambda: away() == ["llm/vllm"])
    if age() < 5:
        raise Failure(f"discovery_age_seconds is {age()}")
    told = time.monotonic() - moment
    api("PUT", f"{SLICES}/vllm-2", slice_("vllm-2", [endpoint(4)]))
    load.follow(time.monotonic(), names([1, 2, 3]))
    moment = time.monotonic()
    run("apply", "-f", rights)
    until("the log and the state say so", lambda: not away() and logged(AGAIN) > answered)
    back = time.monotonic() - moment
    load.follow(time.monotonic(), names([1, 2, 3, 4]))
    print(f"rights taken away: in the log after {said:.1f} s, away after {told:.1f} s; given back: {back:.1f} s, {load.check()} requests, 0 failed")


def server_away(load, command):
    pid, failed, answered = int(os.environ["API_PID"]), logged(FAILS), logged(AGAIN)
    moment = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until("the state says so", lambda: away() == ["llm/vllm"])
    told = time.monotonic() - moment
    if logged(FAILS) == failed or age() < 5:
        raise Failure(f"the log says it {logged(FAILS) - failed} times, discovery_age_seconds is {age()}")
    load.follow(time.monotonic(), names([1, 2, 3, 4]))
    with open(os.environ["API_LOG"], "ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def answers():
        try:
            api("GET", "/readyz")
            return True
        except (OSError, Failure):
            return False

    until("the API server answers", answers)
    moment = time.monotonic()
    api("PUT", f"{SLICES}/vllm-2", slice_("vllm-2", [endpoint(5)]))
    until("the log and the state say so", lambda: not away() and logged(AGAIN) > answered)
    back = time.monotonic() - moment
    load.follow(time.monotonic(), names([1, 2, 3, 5]))
    print(f"API server killed: away after {told:.1f} s; back: {back:.1f} s, {load.check()} requests, 0 failed")
    return server


def pod(number, labels, ready=True):
    """A pod that runs, as its node would report it."""
    name = f"w{number}"
    container = {"name": "worker", "image": "worker"}
    meta = {"name": name, "labels": labels}
    api("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}})
    address = f"10.88.0.{number}"
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    status["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
    api("PATCH", f"{PODS}/{name}/status", {"status": status}, "application/merge-patch+json")


def pods():
    """Labels of pods, a selector and an InferencePool."""
    for name in ("vllm-1", "vllm-2", "vllm-3"):
        api("DELETE", f"{SLICES}/{name}")
    pod(1, {"traffic-dam/pool": "code", "traffic-dam/slots": "4"})
    pod(2, {})
    pod(3, {"traffic-dam/pool": "batch"})
    pod(4, {"app": "other"})
    pod(5, {"app": "infer"})
    pod(6, {"app": "infer"}, ready=False)
    pool = {"selector": {"matchLabels": {"app": "infer"}}, "targetPorts": [{"number": 8000}]}
    meta = {"name": "infer"}
    api("POST", POOLS, {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": meta, "spec": pool})
    endpoints = [endpoint(number) for number in (1, 2, 3)]
    for it in endpoints:
        del it["targetRef"]["uid"]
    api("POST", SLICES, slice_("vllm-1", endpoints))
    expected = {"code": ["llm/w1"], "chat": ["llm/w2"], "other": ["llm/w4"], "infer": ["llm/w5"]}
    until(f"the workers are {expected}", lambda: {k: v for k, v in workers().items() if v} == expected)
    slots = {it["id"]: it["limit"] for it in next(it for it in state()["pools"] if it["name"] == "code")["workers"]}
    if slots["llm/w1"] > 4:
        raise Failure(f"the label lowers nothing: {slots}")
    if not logged("its label `traffic-dam/pool` is `batch`, but the settings list `chat`, `code`"):
        raise Failure("the log says nothing about the label that is not listed")
    api("PATCH", f"{POOLS}/infer", {"spec": {"selector": {"matchLabels": {"app": "other"}}}}, "application/merge-patch+json")
    until("the selector of the InferencePool has changed", lambda: "llm/w5" not in workers().get("infer", []))
    print("labels choose within the settings; a selector and an InferencePool find their pods")


def main():
    if sys.argv[1] == "pods":
        return pods()
    server, load = None, None
    try:
        load = scale(load)
        odd_sets(load)
        rights_away(load)
        server = server_away(load, sys.argv[3:])
        print(f"in all {load.end()} requests, 0 failed")
    finally:
        if server:
            # The next part still needs it; the script that started this one ends it.
            pathlib.Path(os.environ["API_LOG"]).with_suffix(".pid").write_text(str(server.pid))
    return None


try:
    main()
except Failure as failure:
    sys.exit(f"discovery: {failure}")
