"""One request as a stream, with its times and the worker that answered."""

import asyncio
import dataclasses
import time


@dataclasses.dataclass
class Turn:
    """A request: when it was sent, its first and last byte (monotonic s), and how it ended."""

    sent: float
    first: float | None = None
    end: float | None = None
    worker: str | None = None
    status: int = 0
    reason: str | None = None
    whole: bool = False
    begun: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    @property
    def ttft(self):
        return self.first - self.sent


def question(words):
    asked = " ".join(f"w{number}" for number in range(words))
    body = {"model": "sim", "messages": [{"role": "user", "content": asked}], "max_tokens": words}
    return body | {"ignore_eos": True, "stream": True}


async def ask(client, url, words, turn, **headers):
    """Sends a request, and fills in `turn` as the answer comes."""
    try:
        async with client.stream("POST", url, json=question(words), headers=headers) as answer:
            turn.status, turn.worker = answer.status_code, answer.headers.get("x-traffic-dam-worker")
            turn.reason = answer.headers.get("x-traffic-dam-reason")
            said = b""
            async for data in answer.aiter_bytes():
                if turn.first is None and answer.status_code == 200:
                    turn.first = time.monotonic()
                    turn.begun.set()
                said = (said + data)[-64:]
            turn.whole = b"[DONE]" in said
    finally:
        turn.end = time.monotonic()
        turn.begun.set()
    return turn
