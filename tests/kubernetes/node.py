"""Puts the chart through what an operator does, on a real node and under load. `scripts/kubernetes-node` starts the cluster
and says where it is. Standard library only."""

import http.client
import json
import os
import pathlib
import signal
import sys
import time

from node_cluster import CHART, GATEWAYS, VALUES, Failure, helm, in_flight, is_ready, kubectl, name, names, pods, process, restarts, settled, timed, until, upgrade
from node_load import Load, faults, figures

SERVICE = "10.96.0.80"


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


def roll_workers(number):
    took = timed(lambda: [kubectl("rollout", verb, "statefulset/llm-traffic-dam-chat-blue") for verb in ("restart", "status")])
    settled("traffic-dam/colour=blue", number)
    return f"{number} in {took:.1f} s"


def scale(load, number):
    """Scales the blue workers. Returns how long until exactly these get requests."""
    began = time.monotonic()
    kubectl("scale", "statefulset/llm-traffic-dam-chat-blue", f"--replicas={number}")
    expected = {f"llm-traffic-dam-chat-blue-{index}" for index in range(number)}

    def holds():
        recent = [answer for answer in load.since(began) if answer.began > max(began, time.monotonic() - 4)]
        return len(recent) > 20 and {answer.worker for answer in recent} == expected

    until(f"{sorted(expected)} and no others get requests", holds)
    last = max((a.began for a in load.since(began) if a.worker not in expected), default=began) - began
    firsts = [min(a.began for a in load.since(began) if a.worker == worker) - began for worker in expected]
    settled("traffic-dam/colour=blue", number)
    return f"to {number}, followed after {max(firsts + [last]):.1f} s"


def scales(load, *numbers):
    return "; ".join(scale(load, number) for number in numbers)


def delete(pod):
    took = timed(lambda: kubectl("delete", "pod", name(pod)))
    settled(GATEWAYS, 2)
    return f"the Pod was gone after {took:.1f} s"


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


def bad_settings():
    """A gateway that refuses its settings does not become ready, and the old ones stay until somebody goes back."""
    old = names()
    helm("upgrade", "llm", CHART, *VALUES, "--set", "config.max_keys=${NOT_SET}")

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


def main():
    print(f"helm install --wait: {timed(lambda: helm('install', 'llm', CHART, *VALUES, '--wait', '--timeout', '120s')):.1f} s", flush=True)
    print(f"helm test: {timed(lambda: helm('test', 'llm')):.1f} s", flush=True)
    settled("traffic-dam/pool=chat", 4)
    load = Load(SERVICE, 80)
    began = time.monotonic()
    step(load, "nothing done", lambda: time.sleep(5) or "for 5 s")
    step(load, "gateways, rollout restart", roll_gateways)
    step(load, "workers, scaled from 2", lambda: scales(load, 4, 2, 3))
    # One of them is always away, and the others must have the slots for all callers.
    step(load, "workers, rollout restart", lambda: roll_workers(3))
    step(load, "workers, scaled from 3", lambda: scales(load, 2))
    step(load, "gateway deleted", lambda: delete(pods(GATEWAYS)[0]))
    step(load, "both gateways evicted", evict)
    switch(load, "green", lambda: upgrade("--set", "activeColour=green"))
    step(load, "green, gateways, rollout restart", roll_gateways)
    switch(load, "blue", lambda: upgrade("--set", "activeColour=blue"))
    switch(load, "green", lambda: helm("rollback", "llm", "2", "--wait"))
    switch(load, "blue", lambda: upgrade())
    step(load, "settings that a gateway refuses", bad_settings)
    kill(load, "gateway deleted by force", lambda pod, _: kubectl("delete", "pod", pod, "--grace-period=0", "--force"))
    kill(load, "gateway killed (SIGKILL)", lambda _, pid: os.kill(pid, signal.SIGKILL))
    load.end()
    everything = load.since(began)
    print(f"in all: {figures(everything)}", flush=True)
    helm("uninstall", "llm")
    # Helm keeps what its hooks made.
    took = settled("app.kubernetes.io/instance=llm,app.kubernetes.io/component notin (test,switch)", 0)
    print(f"helm uninstall: the last Pod gone after {took:.1f} s", flush=True)


try:
    main()
except Failure as failure:
    sys.exit(f"node: {failure}")
