"""What scripts/compose wants of the services that it has started: `compose.py check FOLDER RECEIVED`; a receiver of alerts:
`compose.py receive PORT RECEIVED`; and the logs of containers as Docker would write them: `compose.py logs FOLDER`. FOLDER
is deploy/compose of the clone, RECEIVED the file of what was received.
"""

import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

SUBNET = "172.30.96"
GATEWAYS = {"dam-1": 140, "dam-2": 141, "dam-queue": 142}


def receive(port, path):
    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with open(path, "a") as file:
                for alert in body["alerts"]:
                    file.write(json.dumps([self.path, alert["status"], alert["labels"]["alertname"]]) + "\n")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    http.server.ThreadingHTTPServer(("0.0.0.0", port), Receiver).serve_forever()


def docker_logs(folder):
    """Follows the logs that Podman writes, and writes them in the form of Docker's driver `json-file`: one object a line,
    with the label that compose.yaml names."""
    followed = {}
    while True:
        listed = subprocess.run(["podman", "ps", "-a", "-q", "--no-trunc"], capture_output=True, text=True).stdout.split()
        for container in listed:
            if container not in followed:
                said = subprocess.run(["podman", "inspect", container], capture_output=True, text=True)
                if said.returncode == 0:
                    about = json.loads(said.stdout)[0]
                    service = about["Config"]["Labels"].get("com.docker.compose.service", "")
                    (folder / container).mkdir(mode=0o710, exist_ok=True)
                    written = open(folder / container / f"{container}-json.log", "a", buffering=1)
                    followed[container] = [Path(about["HostConfig"]["LogConfig"]["Path"]), None, service, written]
        for each in followed.values():
            path, log, service, written = each
            if log is None and path.exists():
                log = each[1] = open(path)
            while log:
                begin, line = log.tell(), log.readline()
                if not line.endswith("\n"):
                    log.seek(begin)  # not written to its end yet
                    break
                moment, stream, whole, text = line.rstrip("\n").split(" ", 3)
                end = "\n" if whole == "F" else ""
                attributes = {"attrs": {"com.docker.compose.service": service}} if service else {}
                written.write(json.dumps({"log": text + end, "stream": stream} | attributes | {"time": moment}) + "\n")
        time.sleep(0.2)


def until(what, holds, seconds=60):
    began = time.monotonic()
    faults = {}  # and when each was seen last
    while (waited := time.monotonic() - began) < seconds:
        try:
            if result := holds():
                if waited > 10:
                    print(f"{what} came after {waited:.0f} s; before: {faults}")
                return result
        except urllib.error.HTTPError as fault:
            faults[f"{fault.code} {fault.headers['x-traffic-dam-reason']}"] = round(waited, 1)
        except (OSError, KeyError, json.JSONDecodeError) as fault:
            faults[str(fault)] = round(waited, 1)
        time.sleep(0.3)
    sys.exit(f"never came: {what}; {faults}")


def ask(url, body=None, method=None, tls=None, token=None):
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
    with urllib.request.urlopen(request, timeout=20, context=tls) as answer:
        return answer.read().decode()


def container(service, all=False):
    listed = subprocess.run(
        ["podman", "ps", *["-a"] * all, "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    ).stdout.split()
    return next(name for name in listed if name.replace("_", "-").endswith(f"-{service}-1"))


def inside(service, *command):
    return subprocess.run(["podman", "exec", container(service), *command], capture_output=True, text=True)


def check_logs(tls):
    """Each request leaves one line in the log store, however collector and store come and go."""

    def podman(verb, service):
        # No pipes: what watches a container that was started would keep them open.
        nowhere = subprocess.DEVNULL
        subprocess.run(["podman", verb, container(service, all=True)], check=True, stdout=nowhere, stderr=nowhere)

    def store():
        about = json.loads(subprocess.run(["podman", "inspect", container("loki")], capture_output=True, check=True).stdout)[0]
        return next(iter(about["NetworkSettings"]["Networks"].values()))["IPAddress"]

    def lines(identity):
        query = urllib.parse.quote(f'id:="{identity}"')
        return [json.loads(line) for line in ask(f"http://{store()}:3100/select/logsql/query?query={query}").splitlines()]

    def asked():
        body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "to be logged"}]}).encode()
        request = urllib.request.Request("https://localhost:8443/v1/chat/completions", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=20, context=tls) as answer:
            return answer.headers["x-request-id"]

    def found(identity, when):
        until(f"the line of a request, {when}", lambda: lines(identity), 90)
        (line,) = lines(identity)
        wanted = {"outcome": "complete", "level": "INFO", "status": "200", "message": "request"}
        assert line["service.name"] in GATEWAYS and line.items() >= wanted.items(), line

    found(until("an answer", asked), "at once")
    for service in ("collector", "loki"):
        podman("stop", service)
        identity = until("an answer", asked)
        podman("start", service)
        found(identity, f"{service} back")
    names = ask(f"http://{store()}:3100/select/logsql/field_values?query=*&field=service.name")
    services = {value["value"] for value in json.loads(names)["values"]}
    assert services >= {*GATEWAYS, "balancer", "redis", "prometheus", "worker-blue"}, services
    print(f"logs of {len(services)} services; a request's line once, also when collector or store were away meanwhile")


def check(folder, received):
    env = dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if line[:1].isupper())
    tls = ssl.create_default_context(cafile=folder / "tls/cert.pem")

    def chat(text, port=8443):
        body = {"model": "echo", "messages": [{"role": "user", "content": text}]}
        return json.loads(ask(f"https://localhost:{port}/v1/chat/completions", body, tls=tls))["choices"][0]["message"]["content"]

    def state(gateway):
        url = f"http://{SUBNET}.{GATEWAYS[gateway]}:8081/api/v1/state"
        return json.loads(ask(url, token=env["DAM_ADMIN_TOKEN"]))["pools"][0]

    began = time.monotonic()
    until("an answer", lambda: chat("one two three") == "one two three ")
    print(f"200 by TLS, balancer, gateway and worker, {time.monotonic() - began:.1f} s after the start")
    until("an answer by the queue", lambda: chat("four five", 8444) == "four five ")
    print(f"200 by the queue, after {time.monotonic() - began:.1f} s")

    check_logs(tls)
    for gateway in GATEWAYS:
        until(f"both colours at {gateway}", lambda g=gateway: {w["colour"] for w in state(g)["workers"]} == {"blue", "green"})
        assert state(gateway)["active"] == "blue", state(gateway)
    url = f"http://{SUBNET}.140:8081/api/v1/pools/default/active"
    ask(url, {"colour": "green"}, "PUT", token=env["DAM_ADMIN_TOKEN"])
    until("green at both", lambda: all(state(gateway)["active"] == "green" for gateway in ("dam-1", "dam-2")))
    subprocess.run(["podman", "stop", "-t", "70", container("worker-blue")], check=True, capture_output=True)
    # Podman's name server is started anew whenever a container stops, and hears nothing for a moment.
    until("an answer by green", lambda: chat("by green") == "by green ", 10)
    print("switched from blue to green; blue stopped, green answers")

    # The admin port is on the network of operators only, and Redis gives each user what it needs.
    probe = "import socket; socket.create_connection(('dam-1', {}), 2)"
    assert inside("worker-green", "python3", "-c", probe.format(8080)).returncode == 0
    assert "refused" in inside("worker-green", "python3", "-c", probe.format(8081)).stderr
    networks = json.loads(subprocess.run(["podman", "inspect", container("dam-1")], capture_output=True, check=True).stdout)
    addresses = {name: network["IPAddress"] for name, network in networks[0]["NetworkSettings"]["Networks"].items()}
    assert len(addresses) == 3, addresses
    for name, address in addresses.items():
        with socket.socket() as tried:
            tried.settimeout(2)
            assert (tried.connect_ex((address, 8081)) == 0) == name.endswith("operators"), name
    outside = "import socket; socket.create_connection(('192.0.2.1', 80), 2)"
    assert "unreachable" in inside("worker-green", "python3", "-c", outside).stderr
    redis = ["redis-cli", "--no-auth-warning", "--user"]
    assert "NOAUTH" in inside("redis", "env", "-u", "REDISCLI_AUTH", "redis-cli", "ping").stdout
    for user, password in (("worker", "REDIS_WORKER_PASSWORD"), ("gateway", "REDIS_GATEWAY_PASSWORD")):
        for forbidden in (["flushall"], ["config", "get", "*"], ["get", "other:key"], ["acl", "list"]):
            said = inside("redis", *redis, user, "--pass", env[password], *forbidden)
            assert "NOPERM" in said.stdout + said.stderr, (user, forbidden, said)
    assert "always" in inside("redis-jobs", *redis, "operator", "config", "get", "appendfsync").stdout
    running = json.loads(subprocess.run(["podman", "ps", "--format", "json"], capture_output=True, check=True).stdout)
    for each in running:
        host = json.loads(subprocess.run(["podman", "inspect", each["Id"]], capture_output=True, check=True).stdout)[0]["HostConfig"]
        assert host["Memory"] and host["ReadonlyRootfs"], each["Names"]
    print(f"networks apart, users of Redis bounded, {len(running)} containers read-only with bounded memory")

    prometheus = "http://127.0.0.1:9090/api/v1/query?query="

    def query(text):
        return json.loads(ask(prometheus + urllib.request.quote(text)))["data"]["result"]

    down = 'up{job!="containers"} == 0'
    until("every target", lambda: len(query("up")) >= 11 and not query(down))
    until("Redis' memory", lambda: len(query("redis_memory_used_bytes > 0")) == 2)
    until("the machine's memory", lambda: query("node_memory_MemAvailable_bytes > 0"))
    print(f"Prometheus has {len(query('up'))} targets; all answer but cAdvisor, which is left out")

    def got(path, name):
        lines = received.read_text().splitlines() if received.exists() else []
        return any(json.loads(line) == [path, "firing", name] for line in lines)

    until("the watchdog", lambda: got("/alive", "Watchdog"), 90)

    # A gateway drains while callers go on; then all are gone.
    asked, ending = [], threading.Event()

    def go_on():
        while not ending.is_set():
            try:
                asked.append(chat("still here"))
            except (OSError, KeyError) as fault:
                asked.append(repr(fault))

    caller = threading.Thread(target=go_on)
    caller.start()
    subprocess.run(["podman", "stop", "-t", "70", container("dam-1")], check=True, capture_output=True)
    ending.set()
    caller.join()
    failed = [answer for answer in asked if answer != "still here "]
    assert asked and not failed, failed[:3]
    print(f"dam-1 stopped under load: {len(asked)} of {len(asked)} requests answered")
    began = time.monotonic()
    until("the page about dam-1", lambda: got("/alert", "TrafficDamGone"), 120)
    print(f"TrafficDamGone delivered {time.monotonic() - began:.0f} s after it")
    for service in ("dam-2", "dam-queue"):
        subprocess.run(["podman", "stop", "-t", "70", container(service)], check=True, capture_output=True)
    until("the page about all", lambda: got("/alert", "TrafficDamAllGone"), 120)

    def held_back():
        alerts = json.loads(ask("http://127.0.0.1:9093/api/v2/alerts"))
        gone = [alert["status"]["state"] for alert in alerts if alert["labels"]["alertname"] == "TrafficDamGone"]
        return len(gone) == 3 and set(gone) == {"suppressed"}

    until("TrafficDamGone of three gateways, held back", held_back)
    print("TrafficDamAllGone delivered, TrafficDamGone of three gateways held back by it; the watchdog came")


if sys.argv[1] == "receive":
    receive(int(sys.argv[2]), sys.argv[3])
elif sys.argv[1] == "logs":
    docker_logs(Path(sys.argv[2]))
else:
    check(Path(sys.argv[2]), Path(sys.argv[3]))
