"""Compares ways to choose a worker for the turns of conversations, before four simulated workers with prefix caches.

`scripts/conversations` runs it. Every arm gets the same conversations, at workers that are started for it. The figures
are printed with the targets; only failed turns and invalid runs make it fail.
"""

import asyncio
import gc
import math
import os
import signal
import statistics
import sys
import tempfile
import time

from client import Client, Shape, conversations, hit_ratio, percentile
from stage import Stage

SHORT = bool(os.environ.get("SHORT"))
ROUNDS, WARM, MEASURED = (1, 2, 3) if SHORT else (2, 8, 17)
WORKERS, SLOTS, KV_TOKENS, SLO = 4, 16, 131072, 0.5
WORKER = ["--prefix-cache", "--slots", SLOTS, "--kv-tokens", KV_TOKENS, "--prefill-rate", 20000, "--prefill-base", "12ms"]
WORKER += ["--token-time", "8ms", "--token-time-per-seq", "200us", "--step-tokens", 1024]
# Conversations of eight turns, with answers of 40 tokens and pauses of 0.7 s.
OWN = Shape(turns=8, gap=0.7, first=3200, message=1200, answer=40)
COMMON = Shape(turns=8, gap=0.7, first=1200, message=1200, answer=40, system=4096, system_share=0.95)
# Conversations a second at which two choices refuse a few turns in a hundred: PARTS=capacity measures it.
WORKLOADS = {
    "own": ("each conversation has its own beginning", OWN, 5.0),
    "common": ("95 % of the conversations share a system prompt of 4 KB", COMMON, 6.0),
}
LOAD = 0.7
PREFIX, CHOICES, SESSIONS, SGLANG = "prefix: auto", "two choices", "sessions alone", "sglang-router"
ARMS = (PREFIX, CHOICES, SESSIONS, SGLANG)
# Lateness of the client, in seconds, above which a run measures the client.
LATE = 0.02


class Run:
    """The figures of one arm in one round."""

    def __init__(self, turns, since, busy):
        self.failures = [turn for turn in turns if turn.failed]
        self.turns = [turn for turn in turns if turn.sent >= since]
        answered = [turn for turn in self.turns if turn.first]
        first = [turn.ttft for turn in answered if turn.number == 0]
        times = [turn.ttft for turn in answered]
        self.busy = busy
        self.late = percentile([turn.late for turn in self.turns], 0.99)
        self.p50, self.p99, self.first_p99 = percentile(times, 0.5), percentile(times, 0.99), percentile(first, 0.99)
        self.goodput = sum(turn.good(SLO) for turn in self.turns) / max(1, len(self.turns))
        self.refused = sum(turn.refused for turn in self.turns)
        self.hit = hit_ratio(answered)

    def faults(self):
        if self.failures:
            yield f"{len(self.failures)} turns failed, one with status {self.failures[0].status}: {self.failures[0].said[:200]!r}"
        if math.isnan(self.p99) or math.isnan(self.first_p99):
            yield "INVALID: no times to first token"
        if math.isnan(self.hit):
            yield "INVALID: the answers report no cached tokens"
        if self.late > LATE:
            yield f"INVALID: the client was {self.late * 1000:.0f} ms late"

    def line(self):
        first = f"{self.p50 * 1000:5.0f} /{self.p99 * 1000:5.0f} ms, first turns {self.first_p99 * 1000:5.0f} ms"
        return (
            f"{len(self.turns):5} turns, TTFT p50/p99 {first}, goodput {self.goodput * 100:5.1f} %, {self.refused:3} refused, "
            f"hit ratio {self.hit:.3f}; client {self.busy * 100:.0f} % of a core, {self.late * 1000:.1f} ms late"
        )


def run(arm, planned):
    """Runs one arm before cold workers."""
    with tempfile.TemporaryDirectory() as folder, Stage(folder) as stage:
        workers = stage.workers(WORKERS, WORKER)
        if arm == SGLANG:
            port = stage.sglang_router(os.environ["SGLANG_PYTHON"], workers, os.environ.get("SGLANG_OPTIONS", "").split())
        else:
            prefix = "auto" if arm == PREFIX else "off"
            concurrency = f"prefix: {prefix}, ttft_slo: {SLO * 1000:.0f}ms, fleet_factor: 1.0"
            port, _ = stage.gateway("gateway", workers, concurrency, f", slots: {SLOTS}, kv_tokens: {KV_TOKENS}")
        client = Client(port)
        gc.collect()
        gc.disable()
        spent, begin = time.process_time(), time.monotonic() + 0.1
        try:
            asyncio.run(client.crowd(planned, begin, begin + WARM + MEASURED, sessions=arm == SESSIONS))
        finally:
            gc.enable()
        busy = (time.process_time() - spent) / (time.monotonic() - begin)
        return Run(client.turns, begin + WARM, busy)


def judged(what, value, target, least=False):
    """Prints a figure and whether it meets its target."""
    met = value >= target if least else value <= target
    print(f"  {'met   ' if met else 'MISSED'}  {what}: {value:.3f}, wanted at {'least' if least else 'most'} {target:.3f}")


def targets(figures):
    def of(arm, name):
        return figures[arm][name]

    judged("TTFT p50, relative to two choices", of(PREFIX, "p50") / of(CHOICES, "p50"), 0.6)
    judged("TTFT p99 of first turns in s, that of two choices", of(PREFIX, "first_p99"), of(CHOICES, "first_p99"))
    if SGLANG in figures:
        judged("TTFT p50 in s, that of sglang-router", of(PREFIX, "p50"), of(SGLANG, "p50"))
        judged("TTFT p99 in s, that of sglang-router", of(PREFIX, "p99"), of(SGLANG, "p99"))
        judged("goodput, that of sglang-router", of(PREFIX, "goodput"), of(SGLANG, "goodput"), least=True)
        judged("hit ratio, that of sglang-router", of(PREFIX, "hit"), of(SGLANG, "hit"), least=True)


def compare(name, arms):
    """Compares the arms in turns under one workload. Returns `True` if all runs are whole and valid."""
    title, shape, capacity = WORKLOADS[name]
    print(f"{name}: {title}; {LOAD * capacity:.2f} conversations a second, {LOAD}x of what two choices serve", flush=True)
    runs, good = {arm: [] for arm in arms}, True
    for number in range(ROUNDS):
        planned = conversations(shape, LOAD * capacity, WARM + MEASURED, number + 1)
        for place in range(len(arms)):
            # Each round begins with another arm.
            arm = arms[(place + number) % len(arms)]
            result = run(arm, planned)
            runs[arm].append(result)
            print(f"  {arm:14}  {result.line()}", flush=True)
            for fault in result.faults():
                good = False
                print(f"  {arm:14}  {fault}", flush=True)
    figures = {}
    print(f"{name}, {'the one round' if ROUNDS == 1 else f'medians of {ROUNDS} rounds'}")
    print(f"  {'':14}  turns   TTFT p50   TTFT p99   first turns p99   goodput   refused   hit ratio")
    for arm, of_arm in runs.items():
        names = ("p50", "p99", "first_p99", "goodput", "hit")
        figures[arm] = {key: statistics.median(getattr(one, key) for one in of_arm) for key in names}
        turns, refused = sum(len(one.turns) for one in of_arm), sum(one.refused for one in of_arm)
        p50, p99, first_p99, goodput, hit = (figures[arm][key] for key in names)
        print(
            f"  {arm:14}  {turns:5}   {p50 * 1000:5.0f} ms   {p99 * 1000:5.0f} ms          {first_p99 * 1000:5.0f} ms"
            f"   {goodput * 100:5.1f} %     {refused:5}       {hit:.3f}"
        )
    targets(figures)
    print(flush=True)
    return good


def capacity(name):
    """Prints what becomes of the turns at rising rates with two choices, for the capacities above."""
    title, shape, _ = WORKLOADS[name]
    print(f"{name}: {title}; two choices", flush=True)
    for rate in (float(rate) for rate in os.environ.get("RATES", "3 4 5 6 7").split()):
        result = run(CHOICES, conversations(shape, rate, WARM + MEASURED, 1))
        print(f"  {rate:4.1f}/s  {result.line()}", *result.faults(), sep="\n          ", flush=True)
    return True


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its end"))
    parts = os.environ.get("PARTS", "own common").split()
    arms = [arm for arm in ARMS if arm != SGLANG or os.environ.get("SGLANG_PYTHON")]
    if SHORT:
        print("SHORT=1: too few turns for the targets\n")
    if "capacity" in parts:
        good = all([capacity(name) for name in WORKLOADS if len(parts) == 1 or name in parts])
    else:
        good = all([compare(name, arms) for name in parts])
    sys.exit(0 if good else "a turn failed, or a run is invalid: see above")


if __name__ == "__main__":
    main()
