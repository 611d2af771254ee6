"""Processes that read the streams of blue and green, although their colour is grey: what somebody starts by mistake.

They are the library of the FastAPI example with the wrong streams. An answer of theirs is a wrong one.
"""

import asyncio
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples/fastapi-worker"))
from traffic_dam_worker import Drainer  # noqa: E402


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"choices":[{"message":{"content":"stolen"}}]}'})


async def main():
    strangers = [Drainer(app, f"stranger-{colour}", colour="grey", interval=0.5) for colour in ("blue", "green")]
    for stranger in strangers:
        stranger.sides = {f"dam:jobs:{{default}}:{stranger.worker.partition('-')[2]}": "grey"}
    await asyncio.gather(*(stranger.run() for stranger in strangers))


asyncio.run(main())
