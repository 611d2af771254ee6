"""Puts the chart through what an operator does, on two real nodes and under load. `scripts/kubernetes-node` starts the
cluster and says where it is. Standard library only."""

import os
import signal
import sys
import time

from node_cluster import GATEWAYS, Failure, helm, kubectl, settled, timed, upgrade
from node_found import found_in_the_cluster
from node_load import Load, figures
from node_steps import (
    Workers,
    autoscale,
    bad_settings,
    delete,
    demand,
    drain_node,
    evict,
    kill,
    roll_gateways,
    spread,
    step,
    switch,
)

SERVICE = "10.96.0.80"
VALUES = "tests/kubernetes/node-values.yaml"
COLOURS = ["traffic-dam/colour=blue", "traffic-dam/colour=green"]


def found_by_heartbeats():
    """Two gateways, workers in two colours with an agent beside each, Redis."""
    print(f"helm install --wait: {timed(lambda: upgrade(VALUES)):.1f} s", flush=True)
    print(f"helm test: {timed(lambda: helm('test', 'llm')):.1f} s", flush=True)
    settled("traffic-dam/pool=chat", 4)
    spread()
    workers = Workers("chat", "llm-traffic-dam-chat-blue-")
    load = Load(SERVICE, 80)
    began = time.monotonic()
    step(load, "nothing done", lambda: time.sleep(5) or "for 5 s")
    step(load, "the question that KEDA asks of Prometheus", lambda: demand(VALUES))
    step(load, "gateways, rollout restart", roll_gateways)
    step(load, "workers, scaled from 2", lambda: workers.scales(load, 4, 2, 3))
    # One of them is always away, and the others must have the slots for all callers.
    step(load, "workers, rollout restart", lambda: workers.roll(3))
    step(load, "workers, scaled from 3", lambda: workers.scales(load, 2))
    step(load, "gateway deleted", lambda: delete(GATEWAYS))
    step(load, "both gateways evicted", evict)
    step(load, "node drained", lambda: drain_node(*COLOURS))
    switch(load, "green", lambda: upgrade(VALUES, "--set", "activeColour=green"))
    step(load, "green, gateways, rollout restart", roll_gateways)
    switch(load, "blue", lambda: upgrade(VALUES, "--set", "activeColour=blue"))
    switch(load, "green", lambda: helm("rollback", "llm", "2", "--wait"))
    switch(load, "blue", lambda: upgrade(VALUES))
    step(load, "settings that a gateway refuses", lambda: bad_settings(VALUES))
    step(load, "gateways, by an HPA", lambda: autoscale(VALUES, 4))
    kill(load, "gateway deleted by force", lambda pod, _: kubectl("delete", "pod", pod, "--grace-period=0", "--force"))
    kill(load, "gateway killed (SIGKILL)", lambda _, pid: os.kill(pid, signal.SIGKILL))
    load.end()
    print(f"in all: {figures(load.since(began))}", flush=True)


def uninstall():
    helm("uninstall", "llm")
    # Helm keeps what its hooks made.
    took = settled("app.kubernetes.io/instance=llm,app.kubernetes.io/component notin (test,switch)", 0)
    print(f"helm uninstall: the last Pod gone after {took:.1f} s", flush=True)


try:
    found_by_heartbeats()
    uninstall()
    found_in_the_cluster(SERVICE)
    uninstall()
except Failure as failure:
    sys.exit(f"node: {failure}")
