"""Runs the commands of docs/manual/getting-started.md, for scripts/first-steps: `first_steps.py prepare CLONE FOLDER` those
that need a network, `first_steps.py go FOLDER` the others, in a network where nobody else listens. Standard library only.
"""

import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs/manual/getting-started.md"
CHAPTER = "FastAPI"
MINUTES, COMMANDS = 10, 10


def blocks(chapter, kind):
    """The fenced blocks of a chapter whose language is `kind`."""
    text = re.split(r"^## ", PAGE.read_text(), flags=re.M)
    body = next(part for part in text if part.startswith(f"{chapter}\n"))
    return re.findall(rf"^```{kind}\n(.*?)^```", body, flags=re.M | re.S)


def shell(command, folder):
    done = subprocess.run(["bash", "-ec", command], cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return done.stdout


def get(url):
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def answers(url, seconds=30):
    until = time.monotonic() + seconds
    while True:
        try:
            return get(url)
        except OSError:
            if time.monotonic() > until:
                sys.exit(f"{url} does not answer")
            time.sleep(0.02)


class Way:
    """Commands that were run, with the seconds each took."""

    def __init__(self, folder):
        self.file = folder / "times.json"
        self.steps = json.loads(self.file.read_text()) if self.file.exists() else []

    def step(self, name, act):
        began = time.monotonic()
        result = act()
        self.steps.append([name, time.monotonic() - began])
        self.file.write_text(json.dumps(self.steps))
        return result


def prepare(origin, folder):
    folder.mkdir()
    way = Way(folder)
    way.step("git clone", lambda: shell(f"git clone -q 'file://{origin}' traffic-dam", folder))
    install, _ = blocks(CHAPTER, "sh")[0].splitlines()
    way.step("the worker: pip install", lambda: shell(install, folder / "traffic-dam"))


def go(folder):
    way, clone = Way(folder), folder / "traffic-dam"
    _, begin = blocks(CHAPTER, "sh")[0].splitlines()
    servers = []

    def serve(command, url):
        log = open(folder / f"{len(servers)}.log", "w")
        servers.append(subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=clone, stdout=log, stderr=log))
        answers(url)

    try:
        change, worker = begin.split(" && ")
        way.step(
            "the worker: uvicorn", lambda: serve(f"env -C {change.removeprefix('cd ')} {worker}", "http://127.0.0.1:8000/v1/models")
        )
        (settings,) = blocks(CHAPTER, "yaml")
        way.step("dam.yaml", lambda: (clone / "dam.yaml").write_text(settings))
        way.step("check", lambda: shell("traffic-dam check --quiet --config dam.yaml", clone))
        way.step("serve", lambda: serve("traffic-dam serve --config dam.yaml", "http://127.0.0.1:8081/readyz"))
        (ask,) = blocks(CHAPTER, "sh run")
        said = way.step("a request", lambda: shell(ask, clone))
        assert '"content": "one ' in said and said.rstrip().endswith("data: [DONE]"), said
        (many,) = blocks("Go over the limit", "sh run")
        said = way.step("over the limit", lambda: shell(many, clone))
        assert " 200\n" in said and " 429\n" in said, said
        page = way.step("the live page", lambda: get("http://127.0.0.1:8081/"))
        state = json.loads(get("http://127.0.0.1:8081/api/v1/state"))
        assert "<title>" in page and state["pools"][0]["workers"][0]["id"] == "app-1", state
        top = "TERM=xterm script -qc 'stty rows 40 cols 160; timeout 2 traffic-dam top' /dev/null"
        said = way.step("top, for 2 s", lambda: shell(top, clone))
        assert "app-1" in said, said
    finally:
        for server in servers:
            server.terminate()
            server.wait()
    total = sum(seconds for _, seconds in way.steps)
    for name, seconds in way.steps:
        print(f"{name:24} {seconds:7.2f} s")
    numbers = re.findall(r"^\| (\d+) \|", PAGE.read_text(), flags=re.M)
    print(f"{numbers[-1]} commands, {total:.1f} s without the compile")
    assert len(numbers) <= COMMANDS and total < 60 * MINUTES


if sys.argv[1] == "prepare":
    prepare(Path(sys.argv[2]).resolve(), Path(sys.argv[3]))
else:
    go(Path(sys.argv[2]))
