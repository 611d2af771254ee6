"""A chat worker in FastAPI that gateways find by its heartbeats. It answers with the words it was asked.

    WORKER_URL=http://10.0.0.5:8000 uvicorn worker:app --host 0.0.0.0 --port 8000
"""

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import heartbeats

INTERVAL = 1.0
SLOTS = 8
busy = asyncio.Semaphore(SLOTS)
now = {"state": "ready", "slots": SLOTS, "running": 0, "waiting": 0}


@asynccontextmanager
async def life(_app):
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    server_ends = signal.getsignal(signal.SIGTERM)

    def drain(number, frame):
        # Gateways hear of it before the server closes its door.
        now["state"] = "draining"
        loop.call_soon_threadsafe(news.set)
        loop.call_soon_threadsafe(loop.call_later, INTERVAL, server_ends, number, frame)

    signal.signal(signal.SIGTERM, drain)
    url = os.environ.get("WORKER_URL", "http://127.0.0.1:8000")
    name = os.environ.get("WORKER_NAME", "fastapi")
    speaking = asyncio.create_task(heartbeats.say(name, url, lambda: now, news, INTERVAL))
    yield
    speaking.cancel()


app = FastAPI(lifespan=life)


async def words(messages, most):
    now["waiting"] += 1
    async with busy:
        now["waiting"] -= 1
        now["running"] += 1
        try:
            for word in messages[-1]["content"].split()[:most]:
                await asyncio.sleep(0.02)
                yield word + " "
        finally:
            now["running"] -= 1


def piece(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chat", "object": "chat.completion.chunk", "created": 0, "model": "echo", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n"


@app.post("/v1/chat/completions")
async def chat(request: dict):
    answer = words(request["messages"], request.get("max_tokens") or 256)
    if request.get("stream"):

        async def events():
            async for word in answer:
                yield piece({"role": "assistant", "content": word})
            yield piece({}, "stop")
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")
    said = [word async for word in answer]
    message = {"role": "assistant", "content": "".join(said)}
    usage = {"prompt_tokens": 1, "completion_tokens": len(said), "total_tokens": 1 + len(said)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chat", "object": "chat.completion", "created": 0, "model": "echo", "choices": [choice], "usage": usage}
