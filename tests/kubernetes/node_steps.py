"""What an operator does to a release in a cluster, each step under load and with what must hold."""

import http.client
import json
import os
import pathlib
import re
import time
import urllib.parse
import urllib.request

from node_cluster import (
    CHART,
    GATEWAYS,
    PATIENCE,
    Failure,
    helm,
    in_flight,
    is_ready,
    kubectl,
    name,
    names,
    nodes,
    pods,
    process,
    restarts,
    settled,
    timed,
    until,
    upgrade,
)
from node_load import CALLERS, figures


def step(load, title, act, allowed=None):
    """Does something under load; no request may fail or meet a closed port that is not `allowed` to. Prints what it says."""
    began = time.monotonic()
    note = act()
    # What was under way when it was done has ended by then.
    time.sleep(1)
    last = time.monotonic()
    until("the requests of this step have ended", lambda: min(load.under_way) > last)
    answers = [answer for answer in load.since(began) if answer.began <= last]
    print(f"{title}: {note}; {figures(answers)}", flush=True)
    bad = [it for it in answers if (not allowed and it.refused) or (it.fault and not (allowed and allowed(it)))]
    if bad:
        raise Failure(f"{len(bad)} of {len(answers)} requests failed: {[(a.began - began, a) for a in bad[:5]]}")
    return answers


def roll_gateways():
    old = names()

    def act():
        kubectl("rollout", "restart", "deployment/llm-traffic-dam")
        kubectl("rollout", "status", "deployment/llm-traffic-dam")

    took, gone = timed(act), settled(GATEWAYS, 2)
    if set(old) & set(names()):
        raise Failure(f"not every gateway is new: {old}, {names()}")
    return f"rolled in {took:.1f} s, the last old one gone {gone:.1f} s later"


class Workers:
    """The blue workers of a pool. `known_as` and the number of one is what the gateways call it."""

    def __init__(self, pool, known_as):
        self.known_as = known_as
        self.set = f"statefulset/llm-traffic-dam-{pool}-blue"
        self.selector = f"traffic-dam/pool={pool},traffic-dam/colour=blue"

    def roll(self, number):
        took = timed(lambda: [kubectl("rollout", verb, self.set) for verb in ("restart", "status")])
        settled(self.selector, number)
        return f"{number} in {took:.1f} s"

    def scale(self, load, number, act=None):
        """Scales them, by `kubectl scale` or otherwise. Returns how long until exactly these get requests."""
        began = time.monotonic()
        (act or (lambda: kubectl("scale", self.set, f"--replicas={number}")))()
        expected = {f"{self.known_as}{index}" for index in range(number)}

        def holds():
            recent = [answer for answer in load.since(began) if answer.began > max(began, time.monotonic() - 4)]
            return len(recent) > 20 and {answer.worker for answer in recent} == expected

        until(f"{sorted(expected)} and no others get requests", holds)
        last = max((a.began for a in load.since(began) if a.worker not in expected), default=began) - began
        firsts = [min(a.began for a in load.since(began) if a.worker == worker) - began for worker in expected]
        settled(self.selector, number)
        return f"to {number}, followed after {max(firsts + [last]):.1f} s"

    def scales(self, load, *numbers):
        return "; ".join(self.scale(load, number) for number in numbers)


def delete(selector, number=2):
    """Deletes one of these Pods."""
    took = timed(lambda: kubectl("delete", "pod", names(selector)[0]))
    settled(selector, number)
    return f"the Pod was gone after {took:.1f} s"


def spread():
    """Two gateways are on two nodes."""
    if nodes() != ["node-1", "node-2"]:
        raise Failure(f"the gateways are on {nodes()}")


def drain_node(*selectors):
    """Everything leaves the second node, as for an upgrade of it; of each kind at most one at a time."""
    had = len(nodes()) + sum(len(nodes(it)) for it in selectors)
    before = [len(nodes(it)) for it in selectors]
    took = timed(lambda: kubectl("drain", "node-2", f"--timeout={PATIENCE:.0f}s"))
    settled(GATEWAYS, 2)
    for selector, number in zip(selectors, before):
        settled(selector, number)
    left = [it for selector in (GATEWAYS, *selectors) for it in nodes(selector) if it != "node-1"]
    if left:
        raise Failure(f"on the drained node: {left}")
    kubectl("uncordon", "node-2")
    return f"in {took:.1f} s; all {had} Pods are on the other one"


def autoscale(values, number):
    """An HPA takes the number of gateways over, then the chart takes it back."""
    began = time.monotonic()
    upgrade(values, "--set", f"autoscaling.enabled=true,autoscaling.maxReplicas={number}")
    until(f"the HPA has {number} gateways", lambda: sum(map(is_ready, pods(GATEWAYS))) == number)
    took = time.monotonic() - began
    time.sleep(3)
    upgrade(values)
    settled(GATEWAYS, 2)
    return f"{number} after {took:.1f} s, and back to 2"


def evict():
    """The PodDisruptionBudget lets one go at a time."""
    path = pathlib.Path(os.environ["WORK"]) / "eviction.json"
    said = []
    for pod in pods(GATEWAYS):
        meta = {"name": name(pod), "namespace": "llm"}
        path.write_text(json.dumps({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}))
        try:
            kubectl("create", "--raw", f"/api/v1/namespaces/llm/pods/{name(pod)}/eviction", "-f", str(path))
            said.append("went")
        except Failure as failure:
            said.append("stayed" if "disruption budget" in str(failure) else str(failure))
    if said != ["went", "stayed"]:
        raise Failure(f"of two gateways evicted at once: {said}")
    settled(GATEWAYS, 2)
    return "one went, the other stayed"


def kill(load, title, act):
    """One gateway dies without notice. What it had breaks; a request that begins after its death must not fail."""
    pod = pods(GATEWAYS)[0]
    pid, found = process(pod), {}

    def die():
        found["had"] = in_flight(pod)
        act(name(pod), pid)
        # A gateway that is deleted by force has a second left.
        while os.path.exists(f"/proc/{pid}"):
            try:
                found["had"] = in_flight(pod)
            except (OSError, http.client.HTTPException, Failure):
                time.sleep(0.002)
        found["died"] = time.monotonic()
        until("another runs in its place", lambda: all(process(it) not in (pid, None) for it in pods(GATEWAYS)))
        settled(GATEWAYS, 2)
        return f"{found['had']} requests in flight there at last"

    step(load, title, die, lambda answer: answer.began < found["died"] and not answer.fault[0].isdigit())


def switch(load, colour, act):
    """The chart's Job moves the work to a colour; no gateway is restarted."""
    before = [(name(pod), restarts(pod)) for pod in pods(GATEWAYS)]
    found = {}

    def count(answers):
        return {it: sum(f"-{it}-" in (answer.worker or "") for answer in answers) for it in ("blue", "green")}

    def act_and_count():
        found["began"] = time.monotonic()
        earlier = load.since(found["began"] - 3)
        act()
        found["done"] = time.monotonic()
        time.sleep(3)
        later = [answer for answer in load.since(found["done"]) if answer.began > found["done"]]
        old, new = count(earlier), count(later)
        other = "blue" if colour == "green" else "green"
        if old[colour] or new[other] or not old[other] or not new[colour]:
            raise Failure(f"answered before: {old}, after: {new}")
        first = min(answer.began for answer in load.since(found["began"]) if f"-{colour}-" in (answer.worker or ""))
        last = max(answer.began for answer in load.since(found["began"]) if f"-{other}-" in (answer.worker or ""))
        said = f"took {found['done'] - found['began']:.1f} s; before it {other} answered {old[other]} and {colour} 0, after it"
        return f"{said} {colour} {new[colour]} and {other} 0; both got requests for {max(0, last - first) * 1000:.0f} ms"

    step(load, f"switch to {colour}", act_and_count)
    after = [(name(pod), restarts(pod)) for pod in pods(GATEWAYS)]
    if before != after:
        raise Failure(f"gateways were restarted: {before}, {after}")


def demand(values):
    """What a ScaledObject of the chart asks is answered with the requests that the workers have and that wait."""
    scaled = "pools.chat.autoscaling.enabled=true,keda.prometheus=http://prometheus"
    text = helm("template", "llm", CHART, "-f", values, "--set", scaled, "--show-only", "templates/workers.yaml")
    # A folded text: lines until one that is less far in.
    query = re.search(r"query: >-\n((?: {10}.*\n)+)", text)[1]
    url = f"{os.environ['PROMETHEUS']}/api/v1/query?" + urllib.parse.urlencode({"query": " ".join(query.split())})
    found = []

    def answered():
        with urllib.request.urlopen(url, timeout=10) as answer:
            found.extend(float(it["value"][1]) for it in json.load(answer)["data"]["result"])
        return found and 0 < found[-1] <= len(CALLERS)

    until(f"Prometheus answers {query} with what the callers do", answered)
    return f"{found[-1]:.0f} requests"


def bad_settings(values):
    """A gateway that refuses its settings does not become ready, and the old ones stay until somebody goes back."""
    old = names()
    helm("upgrade", "llm", CHART, "-f", values, "--set", "config.max_keys=${NOT_SET}")

    def crashes():
        return any(restarts(pod) > 0 for pod in pods(GATEWAYS) if name(pod) not in old)

    until("the new gateway has ended", crashes)
    ready = sorted(name(pod) for pod in pods(GATEWAYS) if is_ready(pod))
    if ready != old:
        raise Failure(f"the gateways were {old}, and those that are ready are {ready}")
    helm("rollback", "llm", "--wait")
    settled(GATEWAYS, 2)
    if names() != old:
        raise Failure(f"the gateways were {old}, and are {names()}")
    return "the new gateway was never ready, the old ones stayed"
