"""The chart on two real nodes where the gateways find the workers in the cluster: those of one pool by the EndpointSlices
of their Service, those of another by their names in DNS. Policies restrict who reaches whom, and Traefik stands before it."""

import json
import time

from node_cluster import GATEWAYS, Failure, helm, kubectl, name, pods, restarts, timed, until, upgrade
from node_load import Load
from node_steps import Workers, delete, roll_gateways, step

VALUES = "tests/kubernetes/node-found-values.yaml"
TRAEFIK = ("10.77.0.1", 8000)
IMAGE = "docker.io/library/stand-in-sh-curl:test"


def probe(label, *urls):
    """What a Pod with this label gets from each URL: a status, or 000 if it is kept away."""
    script = "; ".join(f"curl -so /dev/null -m 5 -w '%{{http_code}}\\n' {url}" for url in urls)
    # A policy knows a Pod only a moment after it began.
    script = f"sleep 5; {script}; true"
    container = {"name": "probe", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    spec = {"restartPolicy": "Never", "containers": [container], "terminationGracePeriodSeconds": 0}
    spec["securityContext"] = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    pod = f"probe-{label}"
    kubectl("run", pod, f"--image={IMAGE}", f"--labels=who={label}", f"--overrides={json.dumps({'spec': spec})}")

    def ended():
        return kubectl("get", "pod", pod, "-o", "jsonpath={.status.phase}") in ("Succeeded", "Failed")

    until(f"{pod} has ended", ended)
    said = kubectl("logs", pod).split()
    kubectl("delete", "pod", pod)
    return said


def policies():
    """Users reach the port for users and nothing else, a stranger nothing at all."""
    gateway, worker = (pods(it)[0]["status"]["podIP"] for it in (GATEWAYS, "traffic-dam/pool=chat"))
    urls = ["http://llm-traffic-dam/v1/models", f"http://{gateway}:8081/healthz", f"http://{worker}:8000/health"]
    for who, wanted in [("user", ["200", "000", "000"]), ("operator", ["000", "200", "000"]), ("stranger", ["000"] * 3)]:
        said = probe(who, *urls)
        if said != wanted:
            raise Failure(f"a {who} got {said} of {urls}, and not {wanted}")
    return "a user reaches the gateway alone, an operator its admin port alone, a stranger nothing; nobody a worker"


def cut_off(answer):
    """A worker that is told to end cuts off what it has, and by its name in DNS nobody sees it coming."""
    return answer.kind == "whole" or answer.first is not None


def watched(load, workers, number):
    """More workers by changed settings alone: kubelet brings them, and no gateway restarts."""
    before = [(name(pod), restarts(pod)) for pod in pods(GATEWAYS)]
    more = f"pools.plain.colours.blue.replicas={number}"
    said = workers.scale(load, number, lambda: upgrade(VALUES, "--set", more))
    if before != [(name(pod), restarts(pod)) for pod in pods(GATEWAYS)]:
        raise Failure(f"gateways were restarted: {before}")
    return said


def found_in_the_cluster(service):
    print(f"helm install --wait: {timed(lambda: upgrade(VALUES)):.1f} s", flush=True)
    print(f"helm test: {timed(lambda: helm('test', 'llm')):.1f} s", flush=True)
    chat, plain = Workers("chat", "llm/llm-traffic-dam-chat-blue-"), Workers("plain", "plain-blue-")
    load = Load(service, 80)
    step(load, "EndpointSlices, nothing done", lambda: time.sleep(5) or "for 5 s")
    step(load, "EndpointSlices, policies", policies)
    step(load, "EndpointSlices, workers, scaled from 2", lambda: chat.scales(load, 4, 2, 3))
    step(load, "EndpointSlices, workers, rollout restart", lambda: chat.roll(3))
    step(load, "EndpointSlices, workers, scaled from 3", lambda: chat.scales(load, 2))
    step(load, "EndpointSlices, worker deleted", lambda: delete(chat.selector))
    step(load, "EndpointSlices, gateways, rollout restart", roll_gateways)
    load.end()
    for kind in ("ingress", "route"):
        load = Load(*TRAEFIK, name=f"{kind}.example.com")
        step(load, f"{kind}, nothing done", lambda: time.sleep(5) or "for 5 s")
        step(load, f"{kind}, gateways, rollout restart", roll_gateways)
        load.end()
    load = Load(service, 80, "plain")
    step(load, "DNS, nothing done", lambda: time.sleep(5) or "for 5 s")
    step(load, "DNS, workers, scaled by changed settings", lambda: watched(load, plain, 3))
    step(load, "DNS, gateways, rollout restart", roll_gateways)
    step(load, "DNS, workers, rollout restart", lambda: plain.roll(3), cut_off)
    step(load, "DNS, worker deleted", lambda: delete(plain.selector, 3), cut_off)
    load.end()
