"""Processes of a comparison: simulated workers, gateways, another router. All listen on free ports of 127.0.0.1."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time

DAM = os.environ["TRAFFIC_DAM"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(port, path):
    """Returns status and body of a GET; status 0 without an answer."""
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        conn.request("GET", path)
        answer = conn.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        conn.close()


class Stage:
    """Processes that end with the stage, newest first."""

    def __init__(self, folder):
        self.folder, self.children = folder, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _, child, _ in reversed(self.children):
            child.terminate()
        for _, child, _ in self.children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def start(self, name, command, **environment):
        path = os.path.join(self.folder, name + ".log")
        with open(path, "wb") as log:
            child = subprocess.Popen(
                [str(word) for word in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=os.environ | environment
            )
        self.children.append((name, child, path))

    def until(self, holds, seconds=30):
        """Waits until the newest process is ready."""
        name, child, path = self.children[-1]
        over = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > over or child.poll() is not None:
                with open(path, errors="replace", encoding="utf-8") as log:
                    print(*log.readlines()[-12:], sep="", file=sys.stderr)
                sys.exit(f"{name} did not come up; above is the end of its log")
            time.sleep(0.05)

    def workers(self, count, options):
        """Starts simulated workers, with cold caches. Returns their ports."""
        ports = [free_port() for _ in range(count)]
        for number, port in enumerate(ports, 1):
            self.start(f"worker-{number}", [DAM, "worker", "--listen", f"127.0.0.1:{port}", *options])
            self.until(lambda port=port: get(port, "/health")[0] == 200)
        return ports

    def gateway(self, name, workers, concurrency, size=""):
        """Starts a gateway. Returns its port and its admin port."""
        port, admin = free_port(), free_port()
        lines = [
            f"concurrency: {{ {concurrency} }}",
            "workers:",
            "  static:",
            *(f'    - {{ id: w{number}, url: "http://127.0.0.1:{at}"{size} }}' for number, at in enumerate(workers, 1)),
            "log: { sample: 0 }",
            "drain: { delay: 0s, timeout: 1s }",
        ]
        path = os.path.join(self.folder, name + ".yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")
        listen = ["--listen", f"127.0.0.1:{port}", "--admin-listen", f"127.0.0.1:{admin}"]
        self.start(name, [DAM, "serve", "--config", path, *listen], TRAFFIC_DAM_LOG="error")
        self.until(lambda: get(admin, "/readyz")[0] == 200)
        return port, admin

    def sglang_router(self, python, workers, options):
        """Starts sglang-router with its policy `cache_aware`. Returns its port."""
        port, metrics = free_port(), free_port()
        command = [python, "-m", "sglang_router.launch_router", "--policy", "cache_aware", "--host", "127.0.0.1", "--port", port]
        command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", metrics, "--log-level", "warn"]
        command += ["--worker-startup-check-interval", 1, "--worker-startup-timeout-secs", 30, "--shutdown-grace-period-secs", 1, *options]
        command += ["--worker-urls", *(f"http://127.0.0.1:{at}" for at in workers)]
        self.start("sglang-router", command)

        def all_there():
            status, body = get(port, "/workers")
            if status != 200:
                return False
            known = json.loads(body)["workers"]
            return len(known) == len(workers) and all(worker["is_healthy"] for worker in known)

        self.until(all_there, 60)
        return port
