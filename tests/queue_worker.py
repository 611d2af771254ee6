"""Tests a worker with the queue's protocol (docs/queue-protocol.md), as a gateway, with plain Redis commands.

    DAM_REDIS_URL=redis://127.0.0.1:6379 python tests/queue_worker.py -- COMMAND ARGUMENT...

It works for workers in any language. In the arguments `{name}`, `{pool}`, `{colour}`, `{version}`, `{slots}` and
`{interval}` (in ms) are replaced; the environment has them as WORKER_NAME and so on. With `ignore_eos`, or for a message of as
many words, the worker must answer chat calls with about `max_tokens` tokens, one every 20 ms or so. The Redis
should be used only by this test.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import secrets
import signal
import sys
import time

import redis.asyncio as redis

INTERVAL = 0.3
PATIENCE = 90
KEY = "the-key-of-this-test"
store = redis.from_url(os.environ["DAM_REDIS_URL"], decode_responses=True)
command = sys.argv[sys.argv.index("--") + 1 :]


class Worker:
    """A worker's process. It ends with its `async with` block."""

    def __init__(self, pool, colour="blue", slots=2, key=None, version="1.0"):
        self.name = f"{pool}-{secrets.token_hex(2)}"
        told = {"name": self.name, "pool": pool, "colour": colour, "version": version, "slots": slots}
        told |= {"interval": int(INTERVAL * 1000)}
        self.arguments = [argument.format(**told) for argument in command]
        self.environment = os.environ | {f"WORKER_{word.upper()}": str(value) for word, value in told.items()}
        if key:
            self.environment["DAM_REDIS_KEY"] = key

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(*self.arguments, env=self.environment, stdout=sys.stderr)
        await until(f"{self.name} is ready", lambda: self.says("ready"))
        return self

    async def __aexit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def beat(self):
        text = await store.get(f"dam:worker:{self.name}")
        return text and json.loads(text[text.index("{") :])

    async def says(self, state):
        beat = await self.beat()
        return beat and beat["state"] == state

    def signal(self, number):
        self.process.send_signal(number)


class Job:
    """A job as a gateway writes it."""

    def __init__(self, pool, words, stream=True, colour="blue", **fields):
        self.id = secrets.token_hex(16)
        self.queue = f"dam:jobs:{{{pool}}}:{colour}"
        self.hash, self.reply = f"dam:job:{{{self.id}}}", f"dam:reply:{{{self.id}}}"
        messages = [{"role": "user", "content": "word " * words}]
        body = {"model": "m", "messages": messages, "max_tokens": words, "ignore_eos": True, "stream": stream}
        common = {"v": 1, "state": "queued", "pool": pool, "colour": colour, "path": "/v1/chat/completions", "dam": pool}
        common |= {"headers": '{"content-type":"application/json"}', "body": json.dumps(body), "async": 0, "epoch": 0}
        common |= {"n": 0, "sent": 0, "attempt": 0, "max_attempts": 3, "cancelled": 0, "deadline_ms": now() + 60_000}
        self.fields = common | fields

    def sign(self, key):
        signed = ["dam:job", self.id] + [self.fields[name] for name in ("pool", "path", "headers", "body")]
        self.fields["signature"] = hmac.new(key.encode(), "\n".join(signed).encode(), hashlib.sha256).hexdigest()
        return self

    async def put(self):
        await store.hset(self.hash, mapping=self.fields)
        self.entry = await store.xadd(self.queue, {"job": self.id})
        return self

    async def get(self, field):
        return await store.hget(self.hash, field)

    async def answer(self):
        """Returns the entries of its answer: `epoch`, `n`, `kind`, `data`."""
        return [(int(e["epoch"]), int(e["n"]), e["kind"], e["data"]) for _, e in await store.xrange(self.reply)]

    async def is_gone(self):
        """True if its entry is no longer in the stream."""
        return not await store.xrange(self.queue, self.entry, self.entry)

    async def begins(self):
        async def has_data():
            return any(kind == "data" for _, _, kind, _ in await self.answer())

        await until("data", has_data)

    async def runs(self):
        async def is_running():
            return await self.get("state") == "running"

        await until("a run", is_running)

    async def ends(self, *states):
        """Waits until it ends in one of `states`, checks what holds for all ended jobs, and returns the answer."""
        try:
            await until("the entry's end", self.is_gone)
        except TimeoutError:
            raise AssertionError(f"it never ended: {await store.hgetall(self.hash)}") from None
        state = await self.get("state")
        assert state in states, await store.hgetall(self.hash)
        answer = await self.answer()
        epoch = int(await self.get("epoch"))
        assert [entry[:2] for entry in answer] == [(epoch, n + 1) for n in range(len(answer))], answer
        if state == "done":
            assert answer[0][2] == "head" and answer[-1][2] == "end", answer
            assert {entry[2] for entry in answer[1:-1]} <= {"data"}, answer
        return answer


def now():
    return int(time.time() * 1000)


def head(answer):
    return json.loads(answer[0][3])


def body(answer):
    return "".join(data for _, _, kind, data in answer if kind == "data")


def is_whole(answer, words):
    """True if it is a complete stream of `words` words, from the role to `[DONE]`."""
    events = [line[6:] for line in body(answer).split("\n") if line.startswith("data: ")]
    deltas = [json.loads(event)["choices"] for event in events[:-1]]
    said = [choice[0]["delta"].get("content") for choice in deltas if choice]
    return events[-1] == "[DONE]" and len([word for word in said if word]) == words


async def is_empty(queue):
    return await store.xlen(queue) == 0


async def until(what, holds):
    end = time.monotonic() + PATIENCE
    while not await holds():
        if time.monotonic() > end:
            raise TimeoutError(f"never came: {what}")
        await asyncio.sleep(0.01)


async def streams(pool):
    """A job is taken, answered live and in the stream, and leaves only its hash and its answer."""
    async with Worker(pool) as worker:
        beat = await worker.beat()
        said = [beat[name] for name in ("pool", "colour", "version", "slots")]
        assert said == [pool, "blue", "1.0", 2], beat
        live = store.pubsub()
        await live.subscribe(f"dam:replies:{pool}")
        job = await Job(pool, 20).put()
        answer = await job.ends("done")
        by = [head(answer)[name] for name in ("status", "worker", "colour", "version")]
        assert by == [200, worker.name, "blue", "1.0"], answer[0]
        assert head(answer)["headers"]["content-type"].startswith("text/event-stream"), answer[0]
        assert is_whole(answer, 20), body(answer)
        assert len(answer) > 10, "the answer came in one piece"
        assert await job.get("runs") == f"{worker.name}/blue"
        # A time: a run that follows the loss of the first one must not have its number.
        assert abs(int(await job.get("epoch")) - now()) < 1000 * PATIENCE, await job.get("epoch")
        heard = []
        while len(heard) < len(answer):
            message = await asyncio.wait_for(anext(live.listen()), PATIENCE)
            if message["type"] != "message":
                continue
            line, _, data = message["data"].partition("\n")
            name, epoch, n, kind = line.split()
            heard.append((int(epoch), int(n), kind, data))
            assert name == job.id
        assert heard == answer
        await live.aclose()


async def answers(pool):
    """A non-streamed call gets JSON, and a bad one the worker's own error."""
    async with Worker(pool):
        good, bad = await Job(pool, 5, stream=False).put(), await Job(pool, 5, body="{").put()
        answer = await good.ends("done")
        assert head(answer)["headers"]["content-type"].startswith("application/json"), answer
        assert json.loads(body(answer))["usage"]["completion_tokens"] == 5, answer
        assert 400 <= head(await bad.ends("done"))["status"] < 500


async def keeps_to_its_slots(pool):
    async with Worker(pool, slots=2):
        jobs = [await Job(pool, 15).put() for _ in range(6)]
        most = 0
        while not all([await job.is_gone() for job in jobs]):
            async with store.pipeline(transaction=True) as at_once:
                for job in jobs:
                    at_once.hget(job.hash, "state")
                most = max(most, (await at_once.execute()).count("running"))
        assert most == 2, most
        for job in jobs:
            assert is_whole(await job.ends("done"), 15)


async def stops_when_told(pool):
    """A cancel stops a run at once and frees its slot; a missed cancel message is noticed later."""
    async with Worker(pool, slots=1) as worker:
        took = {}
        for told in True, False:
            job = await Job(pool, 500).put()
            await job.begins()
            await store.hset(job.hash, mapping={"state": "cancelled", "cancelled": 1})
            began = time.monotonic()
            if told:
                await store.publish(f"dam:cancels:{worker.name}", f"{job.id} 0")  # an earlier run's
                await store.publish(f"dam:cancels:{worker.name}", f"{job.id} {await job.get('epoch')}")
            await job.ends("cancelled")
            took[told] = time.monotonic() - began
        assert is_whole(await (await Job(pool, 3).put()).ends("done"), 3)
        print(f"  a cancel took {took[True] * 1000:.0f} ms, one that was not heard {took[False] * 1000:.0f} ms")


async def keeps_deadlines(pool):
    async with Worker(pool):
        late, long, silent = (
            await Job(pool, 5, deadline_ms=now() - 1).put(),
            await Job(pool, 500, deadline_ms=now() + 700).put(),
            await Job(pool, 500, stream=False, deadline_ms=now() + 700).put(),
        )
        for job, states in (late, ["expired"]), (long, ["expired"]), (silent, ["expired", "failed"]):
            answer = await job.ends(*states)
            assert json.loads(answer[-1][3])["reason"] == "upstream_timeout", answer
        assert not await late.get("runs")


async def renews(pool):
    """An answer that takes longer than three intervals is run once."""
    async with Worker(pool), Worker(pool):
        words = int(8 * INTERVAL / 0.02)
        jobs = [await Job(pool, words, stream=stream).put() for stream in (True, False)]
        for job in jobs:
            await job.ends("done")
            assert await job.get("attempt") == "1", await job.get("runs")


async def takes_over(pool):
    """Jobs of a dead worker: begun answers fail or, if asynchronous, restart; jobs not begun restart too."""
    async with Worker(pool, slots=4) as first:
        begun, nobodys, whole, last = (
            await Job(pool, 150).put(),
            await Job(pool, 150, **{"async": 1}).put(),
            await Job(pool, 150, stream=False).put(),
            await Job(pool, 150, stream=False, max_attempts=1).put(),
        )
        for job in begun, nobodys:
            await job.begins()
        for job in whole, last:
            await job.runs()
    async with Worker(pool, slots=4) as second:
        answer = await begun.ends("failed")
        assert json.loads(answer[-1][3])["reason"] == "upstream_broke", answer
        assert await begun.get("runs") == f"{first.name}/blue", "it ran again"
        assert is_whole(await nobodys.ends("done"), 150)
        await whole.ends("done")
        for job in nobodys, whole:
            assert await job.get("runs") == f"{first.name}/blue {second.name}/blue"
        assert (await last.ends("dead"))[-1][2] == "error"
        letters = [letter for _, letter in await store.xrange(f"dam:dead:{{{pool}}}")]
        assert [letter["job"] for letter in letters] == [last.id] and letters[0]["error"], letters


async def yields_to_its_successor(pool):
    """A worker that was stopped while another took its job adds nothing to it, and goes on with other jobs."""
    async with Worker(pool) as sleeper:
        job = await Job(pool, 40, stream=False).put()
        await job.runs()
        sleeper.signal(signal.SIGSTOP)
        async with Worker(pool) as other:
            await job.ends("done")
            assert await job.get("runs") == f"{sleeper.name}/blue {other.name}/blue"
            answer = await job.answer()
        sleeper.signal(signal.SIGCONT)
        await asyncio.sleep(2)
        assert await job.answer() == answer and await job.get("state") == "done"
        assert is_whole(await (await Job(pool, 3).put()).ends("done"), 3)


async def drains(pool):
    """After SIGTERM it reports `draining`, takes no new jobs, finishes its jobs, and ends."""
    async with Worker(pool) as worker:
        job = await Job(pool, 200).put()
        await job.begins()
        worker.signal(signal.SIGTERM)
        await until("draining", lambda: worker.says("draining"))
        await asyncio.sleep(1.2)  # a read in progress may still return a job
        late = await Job(pool, 1).put()
        assert is_whole(await job.ends("done"), 200)
        assert await asyncio.wait_for(worker.process.wait(), PATIENCE) in (0, -signal.SIGTERM)
        assert await late.get("state") == "queued" and not await late.get("runs")
    async with Worker(pool):
        await late.ends("done")


async def keeps_to_its_colour(pool):
    async with Worker(pool, colour="blue"):
        green = await Job(pool, 3, colour="green").put()
        await (await Job(pool, 3).put()).ends("done")
        await asyncio.sleep(4 * INTERVAL)
        assert await green.get("state") == "queued"
        async with Worker(pool, colour="green") as other:
            await green.ends("done")
            assert await green.get("runs") == f"{other.name}/green"
            await (await Job(pool, 3).put()).ends("done")


async def takes_what_is_for_its_version(pool):
    """Besides the jobs of its colour, a worker takes those of its version, and no others."""
    async with Worker(pool, version="1.0"):
        job = await Job(pool, 3, colour="blue@2.0").put()
        await (await Job(pool, 3).put()).ends("done")
        await asyncio.sleep(4 * INTERVAL)
        assert await job.get("state") == "queued"
        async with Worker(pool, version="2.0") as other:
            answer = await job.ends("done")
            assert await job.get("runs") == f"{other.name}/blue@2.0"
            assert head(answer)["colour"] == "blue@2.0" and head(answer)["version"] == "2.0", answer[0]


async def keeps_to_its_slots_over_all_streams(pool):
    async with Worker(pool, slots=1):
        jobs = [await Job(pool, 10, colour=colour).put() for _ in range(2) for colour in ("blue", "blue@1.0")]
        for job in jobs:
            assert is_whole(await job.ends("done"), 10)
        spans = sorted([int(await job.get("ended_ms")) for job in jobs])
        assert all(later - earlier >= 150 for earlier, later in zip(spans, spans[1:])), spans


async def takes_its_own_jobs_first(pool):
    """The jobs of sessions that it has answered come before those of all workers."""
    async with Worker(pool, slots=1) as worker:
        first = await Job(pool, 30).put()
        await first.begins()
        others = [await Job(pool, 5).put() for _ in range(3)]
        own = await Job(pool, 5, colour=f"blue@1.0:{worker.name}").put()
        for job in (own, *others):
            await job.ends("done")
        ends = [int(await job.get("ended_ms")) for job in (own, *others)]
        assert ends[0] < min(ends[1:]), ends
        assert await own.get("runs") == f"{worker.name}/blue@1.0:{worker.name}"


async def refuses_jobs_of_another_colour(pool):
    """Its own stream holds a job of another colour: it is not run, and handed back."""
    async with Worker(pool) as worker:
        job = Job(pool, 3)
        job.fields["colour"] = "green"
        await job.put()
        await (await Job(pool, 3).put()).ends("done")
        assert await job.get("state") == "queued" and not await job.get("runs")
        await store.hset(job.hash, "colour", "blue")
        await job.ends("done")
        assert await job.get("runs") == f"{worker.name}/blue"
        # Only the entry of a job that has just become startable names a colour.
        bare = Job(pool, 3)
        bare.fields["colour"] = ""
        await store.hset(bare.hash, mapping=bare.fields)
        bare.entry = await store.xadd(bare.queue, {"job": bare.id, "colour": "green"})
        await (await Job(pool, 3).put()).ends("done")
        assert await bare.get("state") == "queued" and not await bare.get("runs")
    other = Job(pool, 3)
    await store.hset(other.hash, mapping=other.fields)
    other.entry = await store.xadd(other.queue, {"job": other.id, "colour": "green"})
    await store.xreadgroup("workers", "gone", {other.queue: ">"}, count=1)
    async with Worker(pool):
        await (await Job(pool, 3).put()).ends("done")
        await asyncio.sleep(6 * INTERVAL)
        assert await other.get("state") == "queued", "an entry of another colour was claimed"


async def ends_what_can_never_run(pool):
    """Entries that name no job, and jobs that can never run, do not use up the slots."""
    async with Worker(pool) as worker:
        odd = [await Job(pool, 3, deadline_ms="soon").put() for _ in range(4)]
        stumbles = [await Job(pool, 3, state="running", errors="[1e999]").put() for _ in range(4)]
        queue = odd[0].queue
        for name in b"\xff\xfe", b"":
            await store.xadd(queue, {"job": name, "colour": "blue"})
            await store.xadd(queue, {b"\xff": name})
        for _ in range(4):
            name = secrets.token_hex(16)
            await store.set(f"dam:job:{{{name}}}", "x")
            await store.xadd(queue, {"job": name})
        assert is_whole(await (await Job(pool, 3).put()).ends("done"), 3)
        await asyncio.gather(*(job.ends("dead") for job in (*odd, *stumbles)))
        headless = await Job(pool, 3, headers="[").put()
        assert json.loads((await headless.ends("failed"))[-1][3])["reason"] == "upstream_broke"
        await until("an empty stream", lambda: is_empty(queue))
        letters = {letter["job"] for _, letter in await store.xrange(f"dam:dead:{{{pool}}}")}
        assert letters == {job.id for job in (*odd, *stumbles)}, letters
        assert not await odd[0].get("runs") and await worker.says("ready")


async def takes_over_beside_an_odd_entry(pool):
    """An entry that names no job hides none that a dead worker has left."""
    job = Job(pool, 3)
    await store.xgroup_create(job.queue, "workers", "0", mkstream=True)
    await store.xadd(job.queue, {"job": b"\xff", "colour": "blue"})
    await job.put()
    async with redis.from_url(os.environ["DAM_REDIS_URL"]) as of_bytes:
        assert await of_bytes.xreadgroup("workers", "gone", {job.queue: ">"}, count=2)
    async with Worker(pool):
        assert is_whole(await job.ends("done"), 3)
        await until("an empty stream", lambda: is_empty(job.queue))


async def ends_entries_of_another_colour(pool):
    """Entries in the stream of another colour are handed back for a while, then their jobs are dead letters."""
    async with Worker(pool):
        wrong, bare = Job(pool, 3), Job(pool, 3)
        wrong.fields["colour"], bare.fields["colour"] = "green", ""
        await wrong.put()
        await store.hset(bare.hash, mapping=bare.fields)
        bare.entry = await store.xadd(bare.queue, {"job": bare.id, "colour": "green"})
        for job in wrong, bare:
            await job.ends("dead")
            assert not await job.get("runs")


async def knows_forged_jobs(pool):
    async with Worker(pool, key=KEY):
        jobs = [Job(pool, 3, max_attempts=1), Job(pool, 3, max_attempts=1).sign("another"), Job(pool, 3).sign(KEY)]
        jobs[0].fields["signature"] = ""
        for job, state in zip(jobs, ("dead", "dead", "done")):
            answer = await (await job.put()).ends(state)
            assert state == "done" or json.loads(answer[0][3])["reason"] == "upstream_broke", answer


async def hands_back_what_it_cannot_sign(pool):
    """Workers with another key, or with none, are free at all times, and must not use up the jobs of the others."""
    async with Worker(pool, key="another"), Worker(pool, key=None):
        first = await Job(pool, 3, sealed=1, max_attempts=9).sign(KEY).put()
        await until("a failed run", lambda: first.get("last_error"))
        async with Worker(pool, key=KEY) as right:
            jobs = [first, *[await Job(pool, 3, sealed=1).sign(KEY).put() for _ in range(20)]]
            for job in jobs:
                await job.ends("done")
                assert (await job.get("runs")).endswith(f"{right.name}/blue")


async def signs_what_is_to_be_signed(pool):
    async with Worker(pool, key=KEY):
        plain = await (await Job(pool, 3).sign(KEY).put()).ends("done")
        assert head(plain)["status"] == 200, "a gateway of before believes what is not signed"
        job = await Job(pool, 3, sealed=1).sign(KEY).put()
        for epoch, n, kind, data in await job.ends("done"):
            signature, text = data[:64], data[65:]
            place = f"dam:reply:{job.id}:{epoch}-{n}:{kind}\n{text}"
            assert signature == hmac.new(KEY.encode(), place.encode(), hashlib.sha256).hexdigest(), (kind, data)


async def survives_redis(pool):
    """Connections break in the middle of an answer, and the stream is lost."""
    async with Worker(pool):
        job = await Job(pool, 100).put()
        await job.begins()
        for _ in range(3):
            for kind in "normal", "pubsub":
                await store.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            await asyncio.sleep(0.3)
        assert is_whole(await job.ends("done"), 100)
        assert await job.get("attempt") == "1"
        await store.delete(job.queue)
        await (await Job(pool, 3).put()).ends("done")


async def waits_while_redis_refuses(pool):
    """In the middle of an answer every write is refused for a while: it goes on afterwards, and loses nothing."""
    async with Worker(pool):
        for setting, refusing, usual in ("maxmemory", "1mb", "0"), ("min-replicas-to-write", "1", "0"):
            job = await Job(pool, 100).put()
            await job.begins()
            await store.config_set(setting, refusing)
            await asyncio.sleep(1)
            await store.config_set(setting, usual)
            assert is_whole(await job.ends("done"), 100), setting
        job = await Job(pool, 100).put()
        await job.begins()
        await store.config_set("busy-reply-threshold", "1")
        with contextlib.suppress(redis.RedisError):  # this client, too, is told that a script runs
            await store.eval("local t = redis.call('TIME')[1] + 2 while redis.call('TIME')[1] + 0 < t do end", 0)

        async def is_free():
            with contextlib.suppress(redis.RedisError):
                return await store.config_set("busy-reply-threshold", "5000")

        await until("the end of the script", is_free)
        assert is_whole(await job.ends("done"), 100), "busy"


async def gives_up_what_redis_lost(pool):
    """With all slots in use, the stream alone is lost: the runs end well. Then all data is: they free their slots."""
    async with Worker(pool, slots=2):
        jobs = [await Job(pool, 100, stream=False).put() for _ in range(2)]
        for job in jobs:
            await job.runs()
        await store.delete(job.queue)

        async def are_done():
            return all([await job.get("state") == "done" for job in jobs])

        await until("the ends of both", are_done)
        for job in [await Job(pool, 3000, stream=False).put() for _ in range(2)]:
            await job.runs()
        await store.flushdb()
        began = time.monotonic()
        assert is_whole(await (await Job(pool, 3).put()).ends("done"), 3)
        assert time.monotonic() - began < 15, "the lost runs kept their slots"


TOGETHER = [streams, answers, keeps_to_its_slots, stops_when_told, keeps_deadlines, renews]
TOGETHER += [takes_over, yields_to_its_successor, drains, keeps_to_its_colour, knows_forged_jobs]
TOGETHER += [hands_back_what_it_cannot_sign]
TOGETHER += [signs_what_is_to_be_signed, takes_what_is_for_its_version, keeps_to_its_slots_over_all_streams]
TOGETHER += [refuses_jobs_of_another_colour, takes_its_own_jobs_first, ends_what_can_never_run]
TOGETHER += [takes_over_beside_an_odd_entry, ends_entries_of_another_colour]
ALONE = [survives_redis, waits_while_redis_refuses, gives_up_what_redis_lost]


async def run(case, room):
    async with room:
        began = time.monotonic()
        try:
            await case(f"{case.__name__.replace('_', '-')}-{secrets.token_hex(2)}")
        except Exception as fault:
            print(f"FAILED  {case.__name__}: {type(fault).__name__}: {fault}", flush=True)
            return False
        print(f"ok      {case.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        return True


async def main():
    chosen = [case for case in TOGETHER if case.__name__ in os.environ.get("CASES", case.__name__)]
    alone = [case for case in ALONE if case.__name__ in os.environ.get("CASES", case.__name__)]
    room = asyncio.Semaphore(3)
    went = await asyncio.gather(*(run(case, room) for case in chosen))
    for case in alone:
        went.append(await run(case, room))
    await store.aclose()
    if not all(went):
        sys.exit(f"{went.count(False)} of {len(went)} failed")
    print(f"all {len(went)} hold")


asyncio.run(main())
