"""The state of each job, read from Redis."""

import asyncio
import collections
import contextlib
import json
import time

import redis.asyncio as redis

FIELDS = ["state", "colour", "runs", "attempt", "epoch", "created_ms", "headers", "async", "last_error"]
ENDS = {"done": "answered", "failed": "failed", "cancelled": "cancelled", "expired": "expired", "dead": "dead-lettered"}
LOOKS = 10  # s between two reads of all records; records outlive their jobs by minutes


class Records:
    def __init__(self, url):
        self.store = redis.from_url(url, decode_responses=True, socket_timeout=5, socket_connect_timeout=1)
        self.jobs, self.faults = {}, []
        # Accepted jobs: those seen in a stream, with its colour. A read that a Redis failure cuts
        # short may miss some.
        self.accepted = {}
        self.requests = {}

    async def watch(self):
        """Follows the streams and reads all records every `LOOKS` seconds, without end."""
        at = {f"dam:jobs:{{default}}:{colour}": "0-0" for colour in ("blue", "green")}
        looked = time.monotonic()
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                for stream, entries in await self.store.xread(at, block=500):
                    for entry, fields in entries:
                        at[stream] = entry
                        self.accepted[fields["job"]] = stream.rpartition(":")[2]
                        headers = await self.store.hget(f"dam:job:{{{fields['job']}}}", "headers")
                        if headers:
                            self.requests[json.loads(headers).get("x-request-id")] = fields["job"]
                if time.monotonic() - looked > LOOKS:
                    looked = time.monotonic()
                    await self.look()
                continue
            await asyncio.sleep(0.2)

    async def look(self):
        keys = [key async for key in self.store.scan_iter("dam:job:*", count=500)]
        async with self.store.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(key, FIELDS)
            found = await pipe.execute()
        for key, values in zip(keys, found):
            job, now = key.split("{")[1].rstrip("}"), dict(zip(FIELDS, values))
            if not now["state"]:
                continue
            before = self.jobs.get(job)
            if before and before["state"] in ENDS and before["state"] != now["state"]:
                self.faults.append(f"job {job} ended as {before['state']}, and then as {now['state']}")
            self.jobs[job] = now

    async def settled(self):
        """True if no job is waiting (pending or queued) or running."""
        held = [await self.store.xlen(f"dam:jobs:{{default}}:{colour}") for colour in ("blue", "green")]
        return sum(held) + await self.store.hlen("dam:pending:{default}") == 0

    async def added(self):
        """Returns the number of entries ever added to the streams."""
        total = 0
        for colour in "blue", "green":
            with contextlib.suppress(redis.ResponseError):
                total += (await self.store.xinfo_stream(f"dam:jobs:{{default}}:{colour}"))["entries-added"]
        return total

    async def judge(self, crowd, told, switched):
        """Checks the results. `told` (ms) is when the switch to green began, `switched` when all gateways followed."""
        await self.look()
        added, faults = await self.added(), self.faults
        for job in self.accepted.keys() | crowd.promised:
            if job not in self.jobs:
                faults.append(f"job {job} was accepted, and is lost")
        states, runs, withdrawn = collections.Counter(), 0, 0
        for job, record in self.jobs.items():
            state, began = record["state"], (record["runs"] or "").split()
            # A gateway that dies while it queues a pending job cannot write down the colour.
            colour = self.accepted.get(job) or record["colour"]
            if began and record["colour"] != colour and record["async"] != "1":
                faults.append(f"job {job} was put to {colour}, and its record says {record['colour']}")
            runs += len(began)
            if state not in ENDS:
                if job in self.accepted or job in crowd.promised or began:
                    faults.append(f"job {job} was accepted, and is still {state}")
                withdrawn += 1
                continue
            states[state] += 1
            strangers = [run for run in began if not run.endswith(f"/{colour}") or not run.startswith(colour)]
            if strangers:
                faults.append(f"job {job} of {colour} ran on {strangers}")
            created = int(record["created_ms"])
            # An asynchronous job may have been pending until after the switch.
            early = colour == "green" and created < told and record["async"] != "1"
            if began and (early or (colour == "blue" and created > switched)):
                faults.append(f"job {job} was put to {colour}, which was the standby side")
            if state == "dead" and not began:
                faults.append(f"job {job} never ran, and is a dead letter: {record['last_error']}")
            if len(began) != int(record["attempt"]):
                faults.append(f"job {job} ran {len(began)} times, and its record says {record['attempt']}")
        for request in crowd.whole:
            job = self.requests.get(request)
            if job and self.jobs.get(job, {}).get("state") != "done":
                faults.append(f"request {request} was answered, and its job {job} is {self.jobs.get(job)}")
        if sum(states.values()) < added:
            faults.append(f"{added} jobs were accepted, and {sum(states.values())} ended")
        ran = sum(1 for record in self.jobs.values() if record["runs"])
        return added, states, runs, ran, withdrawn
