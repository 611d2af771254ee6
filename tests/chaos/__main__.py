"""Kills and pauses gateways, workers and Redis at random while jobs run. Every accepted job must end exactly
once, in one state, on the colour it was queued for, and no answer may be wrong.

Run by scripts/chaos. DURATION in seconds, SEED and CALLERS may be in the environment.
"""

import asyncio
import collections
import contextlib
import json
import os
import random
import sys
import time
import urllib.error
import urllib.request

import redis.asyncio as redis

from crowd import Crowd
from processes import House
from records import ENDS, Records

DURATION = float(os.environ.get("DURATION", "600"))
SEED = int(os.environ.get("SEED") or time.time())
CALLERS = int(os.environ.get("CALLERS", "10"))
SETTLES = 90  # s after which no job may be left: the longest deadline and some outages


def put(port, body):
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/v1/pools/default/active", body.encode(), method="PUT")
    request.add_header("content-type", "application/json")
    with contextlib.suppress(urllib.error.HTTPError, OSError), urllib.request.urlopen(request, timeout=2) as answer:
        return answer.status


async def switch(house):
    """Switches to green and retries until all gateways follow. Returns when that began and ended, in ms."""
    told = time.time() * 1000
    for number in range(600):
        admin = house.dams[number % 2][1]
        if await asyncio.to_thread(put, admin, '{"colour":"green"}') == 200:
            return told, time.time() * 1000
        await asyncio.sleep(0.2)
    sys.exit("no gateway took the switch of colours within two minutes")


def listed(port):
    """Returns the workers that the page lists under a side, and the strangers that it names, with their pool's sides."""
    with contextlib.suppress(OSError, ValueError):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/state", timeout=2) as answer:
            pools = json.load(answer)["pools"]
        sides = [(member["member_of"], member["id"]) for pool in pools for member in pool["workers"] if member.get("member_of")]
        return {f"{side.rpartition('.')[2]}: {worker}" for side, worker in sides} | {
            f"stranger: {stranger['worker']}" for pool in pools for stranger in pool.get("strangers", [])
        }
    return set()


async def look(house, seen):
    """Follows what the gateways show, without end."""
    while True:
        for _, admin in house.dams:
            seen |= await asyncio.to_thread(listed, admin)
        await asyncio.sleep(0.5)


async def ready(records, house):
    """Waits until all workers send heartbeats and the gateways answer."""
    for _ in range(300):
        with contextlib.suppress(redis.RedisError, OSError):
            if await records.store.scard("dam:workers") == 6:
                for _, admin in house.dams:
                    await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{admin}/readyz", None, 2)
                return
        await asyncio.sleep(0.1)
    sys.exit("the processes did not come up")


async def main():
    dice = random.Random(SEED)
    print(f"chaos for {DURATION:.0f} s with seed {SEED}", flush=True)
    with House() as house:
        records = Records(house.redis_url)
        await ready(records, house)
        seen = set()
        watching = [asyncio.create_task(records.watch()), asyncio.create_task(look(house, seen))]
        crowd = Crowd([at for at, _ in house.dams], dice)
        began = time.monotonic()

        def tell(what):
            if os.environ.get("VERBOSE"):
                print(f"{time.monotonic() - began:7.1f} s  {what}", flush=True)

        until = asyncio.get_running_loop().time() + DURATION
        callers = [asyncio.create_task(crowd.ask(until)) for _ in range(CALLERS)]
        torment = asyncio.create_task(house.torment(DURATION, dice, tell))
        await asyncio.sleep(DURATION / 2)
        told, switched = await switch(house)
        tell("switched to green")
        await asyncio.gather(torment, *callers)
        settling = time.monotonic()
        settled = False
        while not settled and time.monotonic() - settling < SETTLES:
            await asyncio.sleep(0.5)
            with contextlib.suppress(redis.RedisError, OSError):
                settled = await records.settled()
        took = time.monotonic() - settling
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        added, states, runs, ran, withdrawn = await records.judge(crowd, told, switched)
        faults = records.faults + crowd.faults
        faults += [f"{name} ended without being killed" for name in house.fallen()]
        expected = {f"{colour}: {colour}-{number}" for colour in ("blue", "green") for number in (1, 2, 3)}
        expected |= {f"stranger: stranger-{colour}" for colour in ("blue", "green")}
        faults += [f"the page never showed {name}" for name in sorted(expected - seen)]
        faults += [f"the page showed {name}" for name in sorted(seen - expected)]
        if not states["done"]:
            faults.append("nothing was answered")
        if not settled:
            faults.append(f"entries are left in the streams after {SETTLES} s")
        report(house, crowd, added, states, runs, ran, withdrawn, took)
        if faults:
            for process in house.processes:
                with open(process.log, errors="replace") as log:
                    print(f"--- {process.name}:", *log.readlines()[-8:], sep="\n", file=sys.stderr)
            # Last, so that they are seen where only the end of a long output is kept.
            sys.exit("\n".join(f"NOT MET    {fault}" for fault in faults[:20]) + f"\n{len(faults)} faults")
        print("met        every accepted job ended once, on its own side, no answer was wrong, and the page named all who took jobs")


def report(house, crowd, added, states, runs, ran, withdrawn, took):
    blows = collections.Counter()
    for process in house.processes:
        blows[f"{process.kind}s killed"] += process.deaths
        blows[f"{process.kind}s paused"] += process.pauses
    told = [(what.replace("rediss", "times redis"), count) for what, count in sorted(blows.items()) if count]
    blows = ", ".join(f"{count} {what}" for what, count in told)
    outcomes = ", ".join(f"{count} {what}" for what, count in crowd.outcomes.most_common())
    ended = ", ".join(f"{states[state]} {word}" for state, word in ENDS.items())
    print(f"struck     {blows}")
    print(f"callers    {sum(crowd.outcomes.values())} requests: {outcomes}")
    print(f"accepted   {added} jobs, {len(crowd.promised)} of them with 202; settled {took:.1f} s after the last request")
    print(f"ended      {sum(states.values())}: {ended}; never put into a stream: {sum(states.values()) - added + withdrawn}")
    print(f"runs       {runs} of {ran} jobs")


asyncio.run(main())
