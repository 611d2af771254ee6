"""Conversations over four workers, of which one is killed: in order, never two turns at once, at their worker, in time.

The think time keeps the workers at 0.7 of what they can do: those that are left, after one was killed.
"""

import asyncio
import collections
import itertools
import json
import random
import time

import httpx2

from stage import SLOTS, Stage
from talk import Turn, ask

WORKERS = 4
WORDS = 30
# The pace of an engine: at 5 ms two cores are busy with the clients, and times are theirs.
TOKEN_MS = 20
# s of a turn at a worker: 20 ms, and the words.
TAKES = 0.02 + 0.001 * TOKEN_MS * WORDS
SHARE = 0.7
SLO = 2.0  # concurrency.ttft_slo in dam.yaml
STAYS = 0.99
# s that the clients may be late.
LATE = 0.25
# Share of the turns that are sent while the one before is answered.
HASTY = 0.2


class Talks:
    def __init__(self, stage, sessions, turns, seed):
        self.stage, self.sessions, self.turns, self.random = stage, sessions, turns, random.Random(seed)
        self.done, self.left = [], WORKERS
        self.total, self.late = 0, 0.0

    def think(self):
        """Returns a think time so that `SHARE` of the slots are busy on average."""
        mean = self.sessions * TAKES / (SHARE * self.left * SLOTS) - TAKES
        return self.random.uniform(0.5, 1.5) * max(mean, 0)

    async def session(self, number, client):
        await asyncio.sleep(self.random.uniform(0, 1) * self.sessions * TAKES / (SHARE * WORKERS * SLOTS))
        talk, running = [], None
        for _ in range(self.turns):
            at, _ = self.stage.dams[self.random.randrange(2)]
            url = f"http://127.0.0.1:{at}/v1/chat/completions"
            turn = Turn(time.monotonic())
            talk.append(turn)
            asking = asyncio.create_task(ask(client, url, WORDS, turn, **{"x-session-id": f"s{number}", "x-user-id": f"s{number}"}))
            if running:
                await running
            running = asking
            if self.random.random() < HASTY:
                await turn.begun.wait()
            else:
                await asking
                await asyncio.sleep(self.think())
            self.total += 1
        await running
        self.done.append(talk)

    async def run(self, kill_after):
        """Runs all sessions; kills a worker after this many turns. Returns when that was."""
        # One client for all: making one takes long enough to delay the turns of the others.
        everybody = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx2.AsyncClient(timeout=60, limits=everybody) as client:
            talks = [asyncio.create_task(self.session(number, client)) for number in range(self.sessions)]
            watch = asyncio.create_task(self.watch_own_lag())
            while self.total < kill_after:
                await asyncio.sleep(0.02)
                for talk in talks:
                    if talk.done():
                        talk.result()
            killed = time.monotonic()
            self.stage.processes["w0"].stop()
            self.left -= 1
            await asyncio.gather(*talks)
            watch.cancel()
        return killed

    async def watch_own_lag(self):
        """Measures how late this process itself is, which must not count as time to the first token."""
        while True:
            due = time.monotonic() + 0.02
            await asyncio.sleep(0.02)
            self.late = max(self.late, time.monotonic() - due)


def at_once(jobs):
    """Returns the pairs of turns of one session that overlapped, by the clock of Redis. Each session is a caller of its own,
    and the job of a turn is written when the turn begins."""
    talks = collections.defaultdict(list)
    for job in filter(lambda job: job.get("ended_ms"), jobs):
        talks[job["caller"]].append((int(job["created_ms"]), int(job["ended_ms"])))
    pairs = [pair for spans in talks.values() for pair in itertools.pairwise(sorted(spans))]
    return [(before, after) for before, after in pairs if after[0] < before[1]], len(pairs)


def judged(talks, killed):
    """Returns the figures: turns that stayed and moved, their times to first token, those that broke off and were refused."""
    stayed, moved, ttft, broken, refused = 0, 0, [], 0, 0
    for talk in talks:
        for before, turn in zip([None, *talk], talk):
            if turn.status != 200:
                refused += 1
                continue
            broken += not turn.whole
            # A turn that was sent early waits for the one before.
            waited = before is not None and before.end > turn.sent
            ttft.append(max(turn.first - before.end, 0) if waited else turn.ttft)
            if before is None or before.status != 200 or not before.whole:
                continue
            if before.worker == "w0" and turn.end >= killed:
                continue  # it is dead, or was when the turn ended
            stayed += turn.worker == before.worker
            moved += turn.worker != before.worker
    return stayed, moved, sorted(ttft), broken, refused


async def sessions(count, turns, seed, is_quiet, fault):
    """With `is_quiet`, also the figures that depend on the time that others leave must be met."""
    stage = Stage()
    try:
        names = {f"w{number}" for number in range(WORKERS)}
        for name in sorted(names):
            stage.rust(name, "--version", "1.0", "--prefix-cache", token_ms=TOKEN_MS)
        await stage.ready(names, active=names)
        talks = Talks(stage, count, turns, seed)
        killed = await talks.run(count * turns // 2)
        stayed, moved, ttft, broken, refused = judged(talks.done, killed)
        wrong, pairs = at_once(await stage.jobs())
        share, p99 = stayed / max(stayed + moved, 1), ttft[int(0.99 * (len(ttft) - 1))]
        refusals = collections.Counter(turn.reason for talk in talks.done for turn in talk if turn.status != 200)
        runs = {}
        for talk in talks.done:
            for turn in talk:
                runs[turn.worker] = runs.get(turn.worker, 0) + 1
        print(f"sessions   {count} × {turns} turns over {WORKERS} workers, one killed in the middle; turns by worker:"
              f" {json.dumps({str(name): runs[name] for name in sorted(runs, key=str)})}")
        print(f"           {100 * share:.2f} % at the worker of the turn before while it lived; first token p50"
              f" {1000 * ttft[len(ttft) // 2]:.0f} ms, p99 {1000 * p99:.0f} ms at {SHARE}×; {len(wrong)} of {pairs} turns began before the one before"
              f" had ended; {broken} broke off and {refused} were refused {dict(refusals) or ''};"
              f" the clients were at most {1000 * talks.late:.0f} ms late")
        if wrong or pairs < count * (turns - 1) * 0.9:
            fault(f"sessions: of {pairs} turns, {len(wrong)} began before the one before had ended: {wrong[:1]}")
        if is_quiet and talks.late > LATE:
            fault(f"sessions: the clients themselves were {talks.late:.2f} s late, so the times are not those of the queue")
        if is_quiet and share < STAYS:
            fault(f"sessions: {100 * share:.2f} % stayed, fewer than {100 * STAYS:.0f} %")
        if is_quiet and p99 > SLO:
            fault(f"sessions: first token p99 {p99:.2f} s, over the SLO of {SLO} s")
        # The turns that ran at the killed worker break off, at most one for each of its slots and hardly more.
        if broken + refused > 2 * SLOTS:
            fault(f"sessions: {broken} turns broke off and {refused} were refused")
    except BaseException:
        stage.tails()
        raise
    finally:
        await stage.close()
