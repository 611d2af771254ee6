"""Two builds without a colour and without a version, and a plain rolling update of one build by another, under load."""

import asyncio
import json
import random
import time

import httpx2

from stage import Stage
from talk import Turn, ask

CALLERS = 24
VERSION_WAIT = 10  # s, the default of concurrency.queue.version_wait
# s that a run takes at most here, and a look of the gateways at the sides and at the jobs of a deserted one.
RUNS = 2
# Share of the calls whose answer may come later: they wait in Redis, not at a gateway.
LATER = 0.2


class Load:
    """Callers that each send one request after the other, and again after the time that a refusal names."""

    def __init__(self, stage, seed):
        self.stage, self.random = stage, random.Random(seed)
        self.turns, self.refused, self.later = [], 0, 0
        self.stop = asyncio.Event()

    async def caller(self, number):
        async with httpx2.AsyncClient(timeout=60) as client:
            while not self.stop.is_set():
                at, _ = self.stage.dams[self.random.randrange(2)]
                url, words = f"http://127.0.0.1:{at}/v1/chat/completions", self.random.randint(2, 40)
                if self.random.random() < LATER:
                    await self.ask_later(client, url)
                    continue
                turn = await ask(client, url, words, Turn(time.monotonic()), **{"x-user-id": f"u{number}"})
                if turn.status == 200:
                    self.turns.append(turn)
                else:
                    self.refused += 1
                    await asyncio.sleep(self.random.uniform(0.5, 1.5))

    async def ask_later(self, client, url):
        headers = {"authorization": "Bearer a", "prefer": "respond-async"}
        body = {"model": "sim", "messages": [{"role": "user", "content": "w0 w1 w2"}], "max_tokens": 3}
        answer = await client.post(url, json=body, headers=headers)
        self.later += answer.status_code == 202
        self.refused += answer.status_code != 202
        await asyncio.sleep(0.5)

    async def run(self, while_running):
        callers = [asyncio.create_task(self.caller(number)) for number in range(CALLERS)]
        await while_running()
        self.stop.set()
        await asyncio.gather(*callers)

    async def settled(self):
        """Waits until no job waits or runs. Returns all jobs."""
        for _ in range(300):
            jobs = await self.stage.jobs()
            if not [job for job in jobs if job.get("state") in ("queued", "running")]:
                return jobs
            await asyncio.sleep(0.2)
        raise SystemExit("jobs are left after a minute")


def workers_of(jobs):
    """Returns how many runs each worker began."""
    runs = [run.partition("/")[0] for job in jobs for run in (job.get("runs") or "").split()]
    return {name: runs.count(name) for name in sorted(set(runs))}


async def two_builds(seconds, seed, fault):
    """The simulated worker and the FastAPI worker, each as it comes: the second build gets nothing, and is shown."""
    stage = Stage()
    try:
        first, second = {"rust-1", "rust-2"}, {"fastapi-1", "fastapi-2"}
        for name in sorted(first):
            stage.rust(name)
        await stage.ready(first, active=first)
        for name in sorted(second):
            stage.python(name)
        await stage.ready(first | second, active=first)
        load = Load(stage, seed)
        await load.run(lambda: asyncio.sleep(seconds))
        jobs = await load.settled()
        runs = workers_of(jobs)
        shown = [f"{side}: {', '.join(sorted(green))}" for side, (_, green) in sorted(stage.sides()[0].items())]
        print(f"builds     {len(jobs)} jobs in {seconds:.0f} s, runs by worker: {json.dumps(runs)}")
        print(f"           the page lists {'; '.join(shown)}")
        if strangers := second & runs.keys():
            fault(f"two builds without a setting: {strangers} got jobs of the first one")
        if not first <= runs.keys():
            fault(f"two builds without a setting: only {sorted(runs)} got jobs")
        if not all(turn.whole for turn in load.turns):
            fault("two builds without a setting: an answer was not whole")
    except BaseException:
        stage.tails()
        raise
    finally:
        await stage.close()


async def rolling_update(seconds, seed, is_quiet, fault):
    """Three workers are replaced one by another, each by one of the next build, as an orchestrator does."""
    stage = Stage()
    try:
        build = stage.another_build()
        old, new = [f"old-{number}" for number in range(3)], [f"new-{number}" for number in range(3)]
        for name in old:
            stage.python(name)
        await stage.ready(set(old), active=set(old))
        load, gone = Load(stage, seed), {}

        async def update():
            await asyncio.sleep(seconds)
            for before, after in zip(old, new):
                stage.python(after, build)
                await stage.ready({after})
                await stage.ends(before)
            gone["at"] = time.monotonic()
            await stage.ready(set(new), active=set(new))
            gone["for"] = time.monotonic() - gone["at"]
            await asyncio.sleep(seconds)

        await load.run(update)
        jobs = await load.settled()
        mixed = [job for job in jobs if len({run.partition("-")[0] for run in (job.get("runs") or "").split()}) > 1]
        waits = [(int(job["ended_ms"]) - int(job["created_ms"])) / 1000 for job in jobs]
        states = [job["state"] for job in jobs]
        broken = sum(not turn.whole for turn in load.turns)
        print(f"update     {len(jobs)} jobs ({load.later} of them to be answered later), runs by worker: {json.dumps(workers_of(jobs))}")
        print(f"           the next build took over {gone['for']:.1f} s after the last old worker left; the longest job took"
              f" {max(waits):.1f} s with its run; {load.refused} calls were refused meanwhile and sent again")
        if mixed:
            fault(f"rolling update: {len(mixed)} jobs ran at two versions: {mixed[0]['runs']}")
        if is_quiet and max(waits) > VERSION_WAIT + RUNS:
            fault(f"rolling update: a job took {max(waits):.1f} s, more than version_wait ({VERSION_WAIT} s) and its run")
        if set(states) != {"done"} or broken:
            fault(f"rolling update: jobs ended as {sorted(set(states))}, and {broken} answers were not whole")
        if not set(new) <= workers_of(jobs).keys():
            fault("rolling update: a worker of the next build got no job")
    except BaseException:
        stage.tails()
        raise
    finally:
        await stage.close()
