"""Conversations before a real engine: an adaptive limit that is not told the size, beside `limit: slots`, in turns.

`ENGINE=llama.cpp scripts/conversations` runs it. Both gateways stay up all the time, so that what the adaptive one
learns lasts over all of its turns; only one of them has work at a time.
"""

import asyncio
import gc
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time

from client import Client, Shape, conversations, hit_ratio, percentile
from stage import Stage, get

ENGINE, SHORT = os.environ["ENGINE"], bool(os.environ.get("SHORT"))
PORTS = [int(port) for port in os.environ["ENGINE_PORTS"].split()]
SLOTS, KV_TOKENS = int(os.environ["ENGINE_SLOTS"]), int(os.environ["ENGINE_KV_TOKENS"])
# Pairs of turns of both arms; more follow until the adaptive arm has answered LEAST turns.
PAIRS, MOST_PAIRS, LEAST = (1, 1, 0) if SHORT else (3, 6, 500)
WARM, MEASURED, LOOK = (4, 12, 8) if SHORT else (8, 36, 20)
LOAD, SLO, GOAL, HUNDRED = 3, 1.0, 0.95, 100
# A tiny tokenizer spells: a byte is a token. All turns of a conversation fit into 4096 tokens.
SHAPE = Shape(turns=8, gap=0.5, first=300, message=80, answer=24)
ALONE = Shape(turns=4, gap=0.2, first=300, message=80, answer=24)
SLOTS_ARM, ADAPTIVE = "limit: slots", "adaptive, size not told"
LATE = 0.05


async def alone():
    """Holds conversations one after the other with an idle engine; returns their turns."""
    client = Client(PORTS[0])
    for one in conversations(ALONE, 1.0, 2.0 if SHORT else 6.0, int(time.time())):
        now = client.clock()
        one.at = 0.0
        await client.hold(one, now, now + 60)
    return client.turns


def said_alone(when, turns):
    """Prints the time to first token of an idle engine."""

    def shown(of):
        return f"{percentile([turn.ttft for turn in of if turn.first], 0.5) * 1000:.0f} ms"

    first, later = [turn for turn in turns if turn.number == 0], [turn for turn in turns if turn.number]
    print(f"the idle engine, {when}: TTFT {shown(first)} in first turns, {shown(later)} in later ones, hit ratio {hit_ratio(later):.3f}")


async def capacity():
    """Returns the turns a second that the engines give to as many callers as they have slots."""
    clients = [Client(port) for port in PORTS for _ in range(SLOTS)]
    begin = time.monotonic()
    end = begin + LOOK

    async def caller(client, seed):
        # As soon as one conversation has ended, the next one begins.
        for one in conversations(SHAPE, 1.0, 2.0 * LOOK, seed):
            one.at, one.gaps = 0.0, [0.0] * len(one.gaps)
            await client.hold(one, client.clock(), end)

    await asyncio.gather(*(caller(client, 1000 + seed) for seed, client in enumerate(clients)))
    ended = [turn for client in clients for turn in client.turns if turn.whole and begin + LOOK / 4 <= turn.end <= end]
    return len(ended) / (LOOK * 3 / 4)


class Arm:
    """A gateway, its turns, and over time its limit and its E, the TTFT that it expects of an idle engine."""

    def __init__(self, stage, name, concurrency, size=""):
        self.name = name
        port, self.admin = stage.gateway("gateway-" + name.split(":")[0].split(",")[0], PORTS, f"{concurrency}, ttft_slo: 1s", size)
        self.client, self.rates, self.windows, self.seen = Client(port), [], [], []

    def answered(self):
        return [turn for turn in self.client.turns if turn.whole]

    async def watch(self):
        """Reads both twice a second, and notes how many turns were answered by then."""
        while True:
            status, text = await asyncio.to_thread(get, self.admin, "/api/v1/state")
            if status == 200:
                workers = json.loads(text)["pools"][0]["workers"]
                idle = [{size["prompt_tokens"]: size["ms"] for size in worker["idle_ttft"]} for worker in workers]
                self.seen.append((len(self.answered()), sum(worker["limit"] for worker in workers), idle))
            await asyncio.sleep(0.5)

    async def work(self, planned):
        begin = time.monotonic() + 0.1
        watching = asyncio.ensure_future(self.watch())
        try:
            await self.client.crowd(planned, begin, begin + WARM + MEASURED)
        finally:
            watching.cancel()
        turns = [turn for turn in self.client.turns if turn.sent >= begin + WARM]
        self.windows.append(turns)
        self.rates.append(sum(turn.good(SLO) for turn in turns) / MEASURED)

    def said(self, number):
        turns = self.windows[-1]
        times = [turn.ttft for turn in turns if turn.first]
        refused = sum(turn.refused for turn in turns)
        print(
            f"  {number}. {self.name:24}  goodput {self.rates[-1]:.2f}/s, {len(times)} answered and {refused} refused of {len(turns)} turns, "
            f"TTFT p50/p99 {percentile(times, 0.5) * 1000:.0f} / {percentile(times, 0.99) * 1000:.0f} ms, "
            f"the client {percentile([turn.late for turn in turns], 0.99) * 1000:.1f} ms late",
            flush=True,
        )

    def by_hundred(self):
        """Prints limit, TTFT, hit ratio and E, its mean over the engines, for each hundred of answered turns."""
        print(f"{self.name}: by {HUNDRED} answered turns; E in ms at their end, by the prompt tokens to read")
        answered = sorted(self.answered(), key=lambda turn: turn.end)
        for begin in range(0, len(answered), HUNDRED):
            some = answered[begin : begin + HUNDRED]
            seen = [(limit, idle) for count, limit, idle in self.seen if begin <= count < begin + HUNDRED]
            limits = [limit for limit, _ in seen]
            idle = seen[-1][1] if seen else []
            sizes = sorted({size for one in idle for size in one})
            means = [(size, statistics.mean(one[size] for one in idle if size in one)) for size in sizes]
            span = f"{min(limits):.0f} / {statistics.mean(limits):.1f} / {max(limits):.0f}" if limits else "–"
            times = [turn.ttft for turn in some]
            print(
                f"  {begin + 1:4}–{begin + len(some):<4}  limit least / mean / most {span:14}  TTFT p50/p99 {percentile(times, 0.5) * 1000:4.0f} /"
                f"{percentile(times, 0.99) * 1000:5.0f} ms  in time {sum(turn.good(SLO) for turn in some) / len(some) * 100:3.0f} %"
                f"  hit ratio {hit_ratio(some):.3f}  E {', '.join(f'up to {size}: {mean:.0f}' for size, mean in means) or '–'}"
            )

    def faults(self):
        failed = [turn for turn in self.client.turns if turn.failed]
        if failed:
            yield f"{len(failed)} turns failed, one with status {failed[0].status}: {failed[0].said[:200]!r}"
        late = percentile([turn.late for turn in self.client.turns], 0.99)
        if not late <= LATE:
            yield f"INVALID: the client was {late * 1000:.0f} ms late"
        if not self.answered():
            yield "INVALID: no turn was answered"


async def compare(arms):
    """Runs the arms in turns."""
    peak = await capacity()
    if not peak:
        sys.exit("the engine alone answered no turn")
    rate = LOAD * peak / SHAPE.turns
    print(f"kept full by {SLOTS * len(PORTS)} callers: {peak:.2f} turns a second; offered: {LOAD}x, {rate:.2f} conversations a second", flush=True)
    number = 0
    while number < PAIRS or (len(arms[1].answered()) < LEAST and number < MOST_PAIRS):
        number += 1
        planned = conversations(SHAPE, rate, WARM + MEASURED, number)
        for arm in arms if number % 2 else reversed(arms):
            await asyncio.sleep(1)
            await arm.work(planned)
            arm.said(number)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its end"))
    gc.disable()
    print(f"{ENGINE}, {len(PORTS)} of it, {SLOTS} sequences at once; conversations of {SHAPE.turns} turns", flush=True)
    with tempfile.TemporaryDirectory() as folder, Stage(folder) as stage:
        size = f", slots: {SLOTS}, kv_tokens: {KV_TOKENS}"
        arms = [Arm(stage, SLOTS_ARM, "limit: slots, fleet_factor: 1.0", size), Arm(stage, ADAPTIVE, "limit: adaptive")]
        said_alone("before", asyncio.run(alone()))
        asyncio.run(compare(arms))
        said_alone("after", asyncio.run(alone()))
        print()
        for arm in arms:
            arm.by_hundred()
    slots, adaptive = arms
    ratios = [ours / max(theirs, 1e-9) for ours, theirs in zip(adaptive.rates, slots.rates)]
    ratio = statistics.median(ratios)
    print()
    for arm in arms:
        refused = sum(turn.refused for of in arm.windows for turn in of)
        print(f"{arm.name:24}  goodput {statistics.median(arm.rates):.2f}/s ({min(arm.rates):.2f}–{max(arm.rates):.2f}), {refused} refused")
    spread = f"({min(ratios):.3f}–{max(ratios):.3f})"
    print(f"  {'met   ' if ratio >= GOAL else 'MISSED'}  goodput, that of {SLOTS_ARM}: {ratio:.3f} {spread}, wanted at least {GOAL}")
    answered = len(adaptive.answered())
    if answered < LEAST:
        print(f"  MISSED  turns answered with the adaptive limit: {answered}, wanted at least {LEAST}")
    faults = [f"{arm.name}: {fault}" for arm in arms for fault in arm.faults()]
    print(*faults, sep="\n")
    sys.exit("a turn failed, or the run is invalid: see above" if faults or math.isnan(ratio) else 0)


if __name__ == "__main__":
    main()
