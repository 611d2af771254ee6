"""A worker for Traffic Dam: takes the jobs of a queue in Redis, answers them with an ASGI app, and sends heartbeats.

    drainer = Drainer(app, "w1", version=build(__file__), slots=8)
    await asyncio.gather(drainer.run(), say("w1", state, asyncio.Event()))

The crate of the same name is the same for Rust. docs/queue-workers.md has a description of both.
"""

from .drainer import Drainer, build, sides
from .heartbeats import say

__all__ = ["Drainer", "build", "say", "sides"]
