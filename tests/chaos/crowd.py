"""Who asks: callers one after the other, each sure of what the answer must be."""

import asyncio
import collections
import json
import secrets

import httpx2

# What the simulated worker says, over and over. The example in FastAPI says what it was asked.
SAYS = "The| water| rises| behind| the| wall|,| and| the| gate| lets| through| what| the| mill| can| take|:| déjà| vu| 水| —| no| more."
SAYS = SAYS.split("|")


class Crowd:
    def __init__(self, ports, random):
        self.ports, self.random = ports, random
        self.outcomes, self.faults = collections.Counter(), []
        # What became of each request that was answered in full, by its id.
        self.whole = {}

    async def ask(self, until):
        """Asks until that time, in turn patient, hasty, hungry and poisonous."""
        user = secrets.token_hex(4)
        async with httpx2.AsyncClient(timeout=60) as client:
            while asyncio.get_running_loop().time() < until:
                request = secrets.token_hex(8)
                outcome, detail = await self.one(client, user, request)
                self.outcomes[outcome] += 1
                if outcome == "WRONG":
                    self.faults.append(f"request {request}: {detail}")
                await asyncio.sleep(self.random.uniform(0, 0.2) if outcome == "whole" else 0.3)

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
        said = []
        try:
            async with asyncio.timeout(patience):
                done = await self.call(client, user, request, body, said)
        except TimeoutError:
            done = ("hung up" if patience < 60 else "WRONG"), f"nothing came for {patience} s"
        except httpx2.TransportError as fault:
            done = "cut", str(fault)
        text, expected = "".join(said), ("".join(asked), "".join(SAYS[n % len(SAYS)] for n in range(words)))
        if not any(full.startswith(text) for full in expected) or (done[0] == "whole" and text not in expected):
            return "WRONG", f"{done}: {text!r} is no beginning of an answer of {words} words"
        if done[0] == "whole":
            self.whole[request] = done[1]
        return done

    async def call(self, client, user, request, body, said):
        url = f"http://127.0.0.1:{self.random.choice(self.ports)}/v1/chat/completions"
        headers = {"x-user-id": user, "x-request-id": request}
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            if answer.status_code != 200:
                error = json.loads(await answer.aread())["error"]
                kind = "refused" if answer.headers.get("retry-after") else "failed"
                return f"{kind}: {error['code']}", error["message"]
            if not body["stream"]:
                whole = json.loads(await answer.aread())
                said.append(whole["choices"][0]["message"]["content"])
                return "whole", None
            last = None
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                last = line[6:]
                if last == "[DONE]":
                    continue
                event = json.loads(last)
                if "error" in event:
                    return f"broke off: {event['error']['code']}", event["error"]["message"]
                said.extend(choice["delta"].get("content") or "" for choice in event["choices"])
            return ("whole", None) if last == "[DONE]" else ("cut", "the stream ended without an end")
