"""Redis, two gateways, and the workers of a part, as processes; and what Redis says of their jobs."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import urllib.request

import redis.asyncio as redis

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../chaos"))
from processes import DAM, PYTHON, ROOT, Process, free_port  # noqa: E402

SLOTS = 8


class Stage:
    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}"
        self.store = redis.from_url(self.url, decode_responses=True, socket_timeout=5)
        self.dams = [(free_port(), free_port()) for _ in range(2)]
        plain = ["--bind", "127.0.0.1", "--port", port, "--save", "", "--appendonly", "no", "--dir", self.folder.name]
        self.processes = {}
        self.start("redis", ["redis-server", *plain])
        for number, (at, admin) in enumerate(self.dams, 1):
            listen = ["--listen", f"127.0.0.1:{at}", "--admin-listen", f"127.0.0.1:{admin}"]
            self.start(f"dam-{number}", [DAM, "serve", "--config", os.path.join(ROOT, "tests/queue_load/dam.yaml"), *listen])

    def start(self, name, arguments, **environment):
        log = os.path.join(self.folder.name, f"{name}.log")
        told = {"DAM_REDIS_URL": self.url, "TRAFFIC_DAM_LOG": "warn"} | environment
        process = self.processes[name] = Process(name, "", arguments, log, **told)
        process.start()
        return process

    def rust(self, name, *told, token_ms=5):
        """Starts the simulated worker: 20 ms to its first token, `token_ms` for each."""
        speed = ["--prefill-base", "20ms", "--token-time", f"{token_ms}ms", "--token-time-per-seq", "0us"]
        listen = ["--listen", "127.0.0.1:0", "--id", name, "--slots", SLOTS]
        return self.start(name, [DAM, "worker", "--queue", *listen, *speed, *told])

    def python(self, name, folder="examples/fastapi-worker"):
        """Starts the FastAPI worker of a folder."""
        told = {"WORKER_QUEUE": "1", "WORKER_NAME": name, "WORKER_SLOTS": str(SLOTS), "WORKER_MODEL": "sim"}
        asgi = [f"{PYTHON}/uvicorn", "worker:app", "--app-dir", folder, "--port", "0", "--log-level", "warning"]
        return self.start(name, asgi, **told)

    def another_build(self):
        """Returns the folder of a copy of the FastAPI worker that differs in one line."""
        folder = os.path.join(self.folder.name, "build")
        shutil.copytree(os.path.join(ROOT, "examples/fastapi-worker"), folder, ignore=shutil.ignore_patterns("__pycache__"))
        with open(os.path.join(folder, "worker.py"), "a", encoding="utf-8") as file:
            file.write("\n# another build\n")
        return folder

    async def ends(self, name):
        """Asks a worker to leave, and waits until it has finished its jobs."""
        child = self.processes[name].child
        child.send_signal(signal.SIGTERM)
        await asyncio.to_thread(child.wait, 60)

    def state(self):
        """Returns the pools as each gateway shows them; of one that does not answer, nothing."""
        pools = []
        for _, admin in self.dams:
            with contextlib.suppress(OSError, ValueError):
                with urllib.request.urlopen(f"http://127.0.0.1:{admin}/api/v1/state", timeout=2) as answer:
                    pools.append(json.load(answer)["pools"])
        return pools

    def sides(self):
        """Returns for each gateway its sides: whether it is active, and the names of its green workers."""
        return [
            {
                side["id"].partition(".")[2]: (
                    side["eligible"],
                    {m["id"] for m in pool["workers"] if m.get("member_of") == side["id"] and m["light"] == "green"},
                )
                for pool in pools
                for side in pool["workers"]
                if not side.get("member_of")
            }
            for pools in self.state()
        ]

    async def until(self, what, holds, patience=60):
        for _ in range(int(patience / 0.1)):
            if holds():
                return
            await asyncio.sleep(0.1)
        sys.exit(f"never came: {what}: {self.sides()}")

    async def ready(self, names, active=None):
        """Waits until both gateways show these workers as ready, and those of one side as active."""

        def holds():
            sides = self.sides()
            shown = [set().union(*(green for _, green in of.values())) if of else set() for of in sides]
            return len(sides) == 2 and all(names <= seen for seen in shown) and (
                active is None or all(any(is_active and active <= green for is_active, green in of.values()) for of in sides)
            )

        await self.until(f"{sorted(names)} ready", holds)

    async def jobs(self):
        """Returns the records of all jobs that Redis still has: they outlive their answers by minutes."""
        keys = [key async for key in self.store.scan_iter("dam:job:*", count=500)]
        async with self.store.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hgetall(key)
            return await pipe.execute()

    async def close(self):
        await self.store.aclose()
        for process in reversed(self.processes.values()):
            process.stop()
        self.folder.cleanup()

    def tails(self):
        """Prints the ends of the logs."""
        for process in self.processes.values():
            with open(process.log, errors="replace", encoding="utf-8") as log:
                print(f"--- {process.name}:", *log.readlines()[-8:], sep="\n", file=sys.stderr)
