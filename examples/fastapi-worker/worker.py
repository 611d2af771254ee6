"""A chat worker in FastAPI that gateways discover by its heartbeats. It echoes the words of the question.

    WORKER_URL=http://10.0.0.5:8000 uvicorn worker:app --host 0.0.0.0 --port 8000
    WORKER_QUEUE=1 WORKER_NAME=w1 uvicorn worker:app    # takes jobs from the queue in Redis instead
"""

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

import traffic_dam_worker as dam

NAME = os.environ.get("WORKER_NAME", "fastapi")
MODEL = os.environ.get("WORKER_MODEL", "echo")
POOL, COLOUR = os.environ.get("WORKER_POOL", "default"), os.environ.get("WORKER_COLOUR")
INTERVAL = int(os.environ.get("WORKER_INTERVAL", "1000")) / 1000
SLOTS = int(os.environ.get("WORKER_SLOTS", "8"))
VERSION = os.environ.get("WORKER_VERSION") or dam.build(__file__)
busy = asyncio.Semaphore(SLOTS)
now = {"state": "ready", "slots": SLOTS, "running": 0, "waiting": 0, "model": MODEL, "version": VERSION, "pool": POOL}


@asynccontextmanager
async def life(app):
    loop, news = asyncio.get_running_loop(), asyncio.Event()
    server_ends = signal.getsignal(signal.SIGTERM)
    if os.environ.get("WORKER_QUEUE"):
        queue = dam.Drainer(app, NAME, pool=POOL, colour=COLOUR, version=VERSION, slots=SLOTS, interval=INTERVAL)
        now["colour"] = queue.colour  # without a colour, its version takes the place of one
        served, finish = asyncio.create_task(queue.run()), queue.drain
    else:
        now["colour"] = COLOUR or "blue"
        now["url"] = os.environ.get("WORKER_URL", "http://127.0.0.1:8000")
        served = loop.create_future()

        def finish():  # gateways learn of it before the server stops accepting
            loop.call_later(INTERVAL, served.set_result, None)

    def drain(number, frame):
        now["state"] = "draining"
        loop.call_soon_threadsafe(news.set)
        loop.call_soon_threadsafe(served.add_done_callback, lambda _: server_ends(number, frame))
        loop.call_soon_threadsafe(finish)

    signal.signal(signal.SIGTERM, drain)
    speaking = asyncio.create_task(dam.say(NAME, lambda: now, news, INTERVAL))
    yield
    served.cancel()
    speaking.cancel()


app = FastAPI(lifespan=life)


async def words(messages, most):
    now["waiting"] += 1
    try:
        await busy.acquire()
    finally:
        now["waiting"] -= 1
    now["running"] += 1
    try:
        for word in messages[-1]["content"].split()[:most]:
            await asyncio.sleep(0.02)
            yield word + " "
    finally:
        now["running"] -= 1
        busy.release()


def piece(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "chat", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n"


@app.get("/v1/models")
async def models():
    return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "example"}]}


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
    return {"id": "chat", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice], "usage": usage}
