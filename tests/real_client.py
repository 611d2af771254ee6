"""What the checks of real client packages share: refusals, waits, and the loop that runs the checks.

Reads DAM_URL (the gateway) and WORKER_URL (the simulated worker behind it).
"""

import os
import sys
import time
import traceback
import urllib.request

DAM_URL = os.environ["DAM_URL"]
WORKER_URL = os.environ["WORKER_URL"]
# Sequences that the worker of this run decodes at once.
SLOTS = 4


def refusal_of(kind, call):
    """Returns the exception of type `kind` that `call` must raise."""
    try:
        call()
    except kind as refused:
        return refused
    raise AssertionError(f"no {kind.__name__} was raised")


def wait_of(refused) -> float:
    """Returns the wait of a refusal in seconds; both headers must exist and agree."""
    seconds = int(refused.response.headers["retry-after"])
    millis = int(refused.response.headers["retry-after-ms"])
    assert seconds >= 1 and seconds - 1 <= millis / 1000 <= seconds, (seconds, millis)
    return millis / 1000


def running_on_the_worker() -> float:
    with urllib.request.urlopen(f"{WORKER_URL}/metrics", timeout=60) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("vllm:num_requests_running"):
                return float(line.rsplit(" ", 1)[1])
    raise AssertionError("the worker does not say how many requests it runs")


def until_the_worker_is_idle() -> None:
    deadline = time.monotonic() + 60
    while running_on_the_worker() > 0:
        assert time.monotonic() < deadline, "the worker still works for a client that is gone"
        time.sleep(0.02)


def run(name: str, module: dict) -> int:
    """Runs each function of `module` whose name begins with `check_`; the last line counts them."""
    passed, failed = 0, 0
    for title, check in list(module.items()):
        if not title.startswith("check_"):
            continue
        try:
            check()
            passed += 1
        except Exception:
            failed += 1
            print(f"{title.removeprefix('check_')}:", file=sys.stderr)
            traceback.print_exc()
    print(f"{name}: {passed} passed, {failed} failed")
    return 1 if failed else 0
