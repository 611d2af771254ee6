"""Workers on two real nodes, as many as KEDA likes: by what waits for them and what they have, and from none."""

import http.client
import json
import os
import time

from node_cluster import Failure, is_ready, kubectl, pods, timed, until, upgrade
from node_load import Load
from node_steps import step

VALUES = "tests/kubernetes/node-values.yaml"
WORKERS = "traffic-dam/pool=chat,traffic-dam/colour=blue"
MOST = 3


def one_request(service):
    connection = http.client.HTTPConnection(service, 80, timeout=150)
    body = {"model": "sim", "max_tokens": 5, "messages": [{"role": "user", "content": "Is anybody there?"}]}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise Failure(f"a request that finds no worker: {answer.status} {text}")


def scaled_by_keda(service):
    scaling = f"pools.chat.autoscaling.enabled=true,pools.chat.autoscaling.minReplicas=0,pools.chat.autoscaling.maxReplicas={MOST}"
    waits = "config.concurrency.queue.wait_no_worker=120s"
    upgrade(VALUES, "--set", f"{scaling},{waits},keda.prometheus={os.environ['PROMETHEUS']}")
    until("KEDA has taken the workers over", lambda: "True" in kubectl(
        "get", "scaledobject", "llm-traffic-dam-chat-blue", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"))
    load = Load(service, 80)

    def up():
        return f"{MOST} after {until(f'there are {MOST} workers', lambda: sum(map(is_ready, pods(WORKERS))) == MOST):.1f} s"

    step(load, "workers, by KEDA under load", up)
    load.end()
    # KEDA would do it after ten quiet minutes.
    kubectl("scale", "statefulset/llm-traffic-dam-chat-blue", "--replicas=0")
    until("there is no worker", lambda: not pods(WORKERS))
    time.sleep(5)
    print(f"workers, by KEDA from none: a request was answered after {timed(lambda: one_request(service)):.1f} s", flush=True)
