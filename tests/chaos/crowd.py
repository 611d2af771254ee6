"""The callers: each sends one request after the other and knows the right answer."""

import asyncio
import collections
import contextlib
import json
import secrets
import time

import httpx2

# The simulated worker's answer, repeated. The FastAPI example echoes the question.
SAYS = "The| water| rises| behind| the| wall|,| and| the| gate| lets| through| what| the| mill| can| take|:| déjà| vu| 水| —| no| more."
SAYS = SAYS.split("|")


# s after which the caller of an asynchronous job cancels it.
PATIENCE = 40


class Crowd:
    def __init__(self, ports, random):
        self.ports, self.random = ports, random
        self.outcomes, self.faults = collections.Counter(), []
        # Requests with a complete answer.
        self.whole = set()
        # Jobs that a gateway has accepted with 202.
        self.promised = set()

    async def ask(self, until):
        """Sends requests until then: patient or impatient ones, long ones, and some that kill or hang the worker."""
        user = secrets.token_hex(4)
        async with httpx2.AsyncClient(timeout=60) as client:
            while asyncio.get_running_loop().time() < until:
                request = secrets.token_hex(8)
                outcome, detail = await self.one(client, user, request)
                self.outcomes[outcome] += 1
                if outcome == "WRONG":
                    self.faults.append(f"request {request}: {detail}")
                await asyncio.sleep(self.random.uniform(0, 0.2) if outcome in ("whole", "later: done") else 0.3)

    async def one(self, client, user, request):
        random = self.random
        words = random.choice([3, 10, 30, 60, 150, 220])
        asked = [f"w{number} " for number in range(words)]
        body = {"model": "sim", "messages": [{"role": "user", "content": "".join(asked)}], "max_tokens": words}
        body |= {"ignore_eos": True, "stream": random.random() < 0.75}
        patience = random.uniform(0.05, 3) if random.random() < 0.1 else 60
        fault = random.random()
        if fault < 0.04:
            body["sim_fault"] = "die"
        elif fault < 0.05:
            body["sim_fault"] = "hang"
        later = random.random() < 0.25
        patience = 120 if later else patience
        said = []
        try:
            async with asyncio.timeout(patience):
                done = await (self.later if later else self.call)(client, user, request, body, said)
        except TimeoutError:
            done = ("hung up" if patience < 60 else "WRONG"), f"nothing came for {patience} s"
        except httpx2.TransportError as fault:
            done = "cut", str(fault)
        text, expected = "".join(said), ("".join(asked), "".join(SAYS[n % len(SAYS)] for n in range(words)))
        whole = done[0] in ("whole", "later: done")
        if not any(full.startswith(text) for full in expected) or (whole and text not in expected):
            return "WRONG", f"{done}: {text!r} is no beginning of an answer of {words} words"
        if whole:
            self.whole.add(request)
        return done

    async def call(self, client, user, request, body, said):
        headers = {"x-user-id": user, "x-request-id": request}
        async with client.stream("POST", self.url(), json=body, headers=headers) as answer:
            if answer.status_code != 200:
                return refusal(answer, await answer.aread())
            if not body["stream"]:
                whole = json.loads(await answer.aread())
                said.append(whole["choices"][0]["message"]["content"])
                return "whole", None
            async for _, data in events(answer):
                if data == "[DONE]":
                    return "whole", None
                event = json.loads(data)
                if "error" in event:
                    return f"broke off: {event['error']['code']}", event["error"]["message"]
                said.extend(spoken(event))
            return "cut", "the stream ended without an end"

    async def later(self, client, _, request, body, said):
        """Sends an asynchronous request until it is accepted, and reads the answer at any gateway that is up."""
        headers = {"authorization": "Bearer a", "x-request-id": request}
        asking = headers | {"prefer": "respond-async", "idempotency-key": request}
        location, began = None, time.monotonic()
        while True:
            answer = await insist(lambda: client.post(self.url(), json=body, headers=asking))
            if answer.status_code == 202:
                if location and answer.headers["location"] != location:
                    return "WRONG", f"asked again, it is another job than {location}"
                location = answer.headers["location"]
                self.promised.add(location.rsplit("/", 1)[1])
            elif not location and (answer.status_code != 409 or time.monotonic() - began > PATIENCE):
                # 409: a gateway that died had this key, and the state of its job is not known yet.
                return refusal(answer, answer.content)
            if location and self.random.random() < 0.7:
                break
            await asyncio.sleep(0.2)
        reads = self.read_stream if body["stream"] else self.read_state
        try:
            async with asyncio.timeout(PATIENCE):
                while (state := await reads(client, location, headers, said)) is None:
                    await asyncio.sleep(0.2)
        except TimeoutError:  # its worker hangs, and the gateway that would notice it is dead
            answer = await insist(lambda: client.delete(self.url(location), headers=headers))
            state = f"{answer.json()['status']} when taken back"
        return (state, "the job was promised, and is not found") if state == "WRONG" else (f"later: {state}", None)

    async def read_state(self, client, location, headers, said):
        """Returns the final state of the job, or None; adds its answer to `said`."""
        answer = await insist(lambda: client.get(self.url(location), headers=headers))
        if answer.status_code in (404, 410):
            return "WRONG"
        job = answer.json()
        if "status" not in job or job["status"] in ("queued", "running", "pending"):
            return None
        if job["status"] == "done" and "response" in job:
            said.append(job["response"]["choices"][0]["message"]["content"])
        return job["status"]

    async def read_stream(self, client, location, headers, said):
        """Does the same for a stream, and resumes it after a cut. A run that is lost midway begins again."""
        said.clear()
        seen = {}
        while True:
            try:
                asking = headers | {"accept": "text/event-stream"} | seen
                async with client.stream("GET", self.url(location), headers=asking) as answer:
                    if answer.status_code != 200:
                        return "WRONG" if answer.status_code in (404, 410) else None
                    async for mark, data in events(answer):
                        if data == "[DONE]":
                            return "done"
                        event = json.loads(data)
                        if "error" in event:
                            state = await self.read_state(client, location, headers, [])
                            return None if state == "done" else state
                        said.extend(spoken(event))
                        seen = {"last-event-id": mark} if mark else seen
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.2)

    def url(self, path="/v1/chat/completions"):
        return f"http://127.0.0.1:{self.random.choice(self.ports)}{path}"


async def insist(ask):
    """Retries until a gateway answers; the caller's timeout ends it."""
    while True:
        with contextlib.suppress(httpx2.TransportError):
            return await ask()
        await asyncio.sleep(0.2)


async def events(answer):
    """Yields id and data of each complete event."""
    mark, data = None, None
    async for line in answer.aiter_lines():
        if line.startswith("id: "):
            mark = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line and data is not None:
            yield mark, data
            data = None


def spoken(event):
    return [choice["delta"].get("content") or "" for choice in event["choices"]]


def refusal(answer, text):
    error = json.loads(text)["error"]
    kind = "refused" if answer.headers.get("retry-after") else "failed"
    return f"{kind}: {error['code']}", error["message"]
