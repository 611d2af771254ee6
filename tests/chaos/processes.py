"""The processes under test, and their faults."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DAM = os.environ["TRAFFIC_DAM"]
PYTHON = os.path.join(ROOT, ".tools/fastapi-worker/bin")
# Short, so that some answers take longer than three intervals.
INTERVAL_MS = 500
SLOTS = 3


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A server that can be killed, paused and restarted. `House` stops it at its end."""

    def __init__(self, name, kind, arguments, log, **environment):
        self.name, self.kind, self.arguments = name, kind, [str(word) for word in arguments]
        self.environment, self.log = os.environ | environment, log
        self.child, self.deaths, self.pauses, self.fell = None, 0, 0, False

    def start(self):
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(self.arguments, env=self.environment, stdout=log, stderr=log, cwd=ROOT)

    def stop(self):
        if self.child:
            self.child.kill()
            self.child.wait()

    async def die(self, seconds):
        self.deaths += 1
        self.fell |= self.child.poll() is not None
        self.stop()
        await asyncio.sleep(seconds)
        self.start()

    async def sleep(self, seconds):
        self.pauses += 1
        self.child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        self.child.send_signal(signal.SIGCONT)


class House:
    """Redis, two gateways, workers of two colours, a third of them in Python, and two strangers in one process."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        port = free_port()
        self.redis_url = f"redis://127.0.0.1:{port}"
        self.dams = [(free_port(), free_port()) for _ in range(2)]
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        self.redis = self.process(
            "redis", "redis", ["redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", self.folder.name, *durable]
        )
        self.processes = [self.redis]
        config = os.path.join(ROOT, "tests/chaos/dam.yaml")
        for number, (at, admin) in enumerate(self.dams, 1):
            listen = ["--listen", f"127.0.0.1:{at}", "--admin-listen", f"127.0.0.1:{admin}"]
            self.processes.append(self.process(f"dam-{number}", "dam", [DAM, "serve", "--config", config, *listen]))
        for colour, version in ("blue", "1.0"), ("green", "2.0"):
            for number in 1, 2:
                name = f"{colour}-{number}"
                told = ["--id", name, "--colour", colour, "--version", version, "--slots", SLOTS]
                told += ["--interval", f"{INTERVAL_MS}ms", "--listen", "127.0.0.1:0", "--token-time-per-seq", "0us"]
                self.processes.append(self.process(name, "worker", [DAM, "worker", "--queue", *told]))
            name = f"{colour}-3"
            said = {"NAME": name, "COLOUR": colour, "VERSION": version, "MODEL": "sim"}
            said |= {"SLOTS": str(SLOTS), "INTERVAL": str(INTERVAL_MS)}
            said = {f"WORKER_{word}": value for word, value in said.items()} | {"WORKER_QUEUE": "1"}
            asgi = [f"{PYTHON}/uvicorn", "worker:app", "--app-dir", "examples/fastapi-worker", "--port", "0"]
            self.processes.append(self.process(name, "worker", [*asgi, "--log-level", "warning"], **said))
        # Nobody kills it: it is there all the time.
        self.processes.append(self.process("stranger", "stranger", [f"{PYTHON}/python", "tests/chaos/stranger.py"]))

    def process(self, name, kind, arguments, **environment):
        log = os.path.join(self.folder.name, f"{name}.log")
        return Process(name, kind, arguments, log, DAM_REDIS_URL=self.redis_url, TRAFFIC_DAM_LOG="warn", **environment)

    def __enter__(self):
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()
        self.folder.cleanup()

    async def torment(self, seconds, random, tell):
        """Kills or pauses processes at random, several at a time. At the end all are running again."""
        busy, end = set(), asyncio.get_running_loop().time() + seconds
        blows = set()

        async def strike(victim, what, seconds):
            await what(seconds)
            busy.discard(victim)

        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(random.uniform(0.5, 3))
            kind = random.choices(["worker", "dam", "redis"], [6, 2, 1])[0]
            victims = [each for each in self.processes if each.kind == kind and each not in busy]
            if not victims:
                continue
            victim = random.choice(victims)
            what = random.choice([victim.die, victim.sleep])
            seconds = random.uniform(0.1, 1.5 if kind == "redis" else 4)
            tell(f"{victim.name} {'is killed' if what == victim.die else 'sleeps'} for {seconds:.1f} s")
            busy.add(victim)
            blows.add(asyncio.create_task(strike(victim, what, seconds)))
        await asyncio.gather(*blows)

    def fallen(self):
        """Returns the processes that ended without being killed."""
        return [process.name for process in self.processes if process.fell or process.child.poll() is not None]
