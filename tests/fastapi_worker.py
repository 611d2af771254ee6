"""Tests the FastAPI example with a real Redis: discovered, serving, drained, and gone.

Run by scripts/fastapi-worker, which starts Redis and the gateway and passes their addresses as variables.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import openai

ADMIN = os.environ["DAM_ADMIN_URL"]
client = openai.OpenAI(base_url=os.environ["DAM_URL"] + "/v1", api_key="none", max_retries=0)


def worker():
    """Returns what the gateway knows of the worker, or None."""
    with urllib.request.urlopen(ADMIN + "/api/v1/state", timeout=5) as answer:
        state = json.load(answer)
    found = [worker for pool in state["pools"] for worker in pool["workers"] if worker["id"] == "fastapi"]
    return found[0] if found else None


def until(what, holds):
    """Waits until `holds()` is true."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.05)
    sys.exit(f"never came: {what}; the worker is {worker()}")


def says(state):
    found = worker()
    return bool(found and found["said"] and found["said"]["state"] == state)


def chat(text, **more):
    return client.chat.completions.create(model="echo", messages=[{"role": "user", "content": text}], **more)


def words(stream):
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream)


try:
    chat("too early")
    sys.exit("a request was served before there was a worker")
except openai.InternalServerError as refusal:
    assert refusal.status_code == 503 and refusal.code == "no_worker", refusal

port = os.environ["WORKER_PORT"]
os.environ["WORKER_URL"] = f"http://127.0.0.1:{port}"
uvicorn = [sys.executable, "-m", "uvicorn", "worker:app", "--port", port, "--log-level", "warning"]
process = subprocess.Popen(uvicorn, cwd="examples/fastapi-worker")
try:
    until("the first heartbeat", lambda: says("ready"))
    assert chat("one two three").choices[0].message.content == "one two three "
    assert words(chat("four five", stream=True)) == "four five "
    assert worker()["said"]["slots"] == 8

    # SIGTERM during a stream: no new requests are sent, and the stream completes.
    stream = chat("word " * 200, stream=True)
    next(stream)
    process.send_signal(signal.SIGTERM)
    until("draining", lambda: says("draining"))
    try:
        until("refusal", lambda: chat("late") is None)
    except openai.InternalServerError as refusal:
        assert refusal.code == "no_worker", refusal
    assert words(stream).count("word") == 199
    assert process.wait(30) in (0, -signal.SIGTERM)
    until("forgotten", lambda: worker() is None)
finally:
    process.kill()
print("the FastAPI worker was found, served, drained and forgotten")
