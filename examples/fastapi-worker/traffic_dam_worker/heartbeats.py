"""Sends a worker's heartbeats over Redis: all that a gateway needs to discover and follow it (docs/fleet.md)."""

import asyncio, contextlib, hashlib, hmac, itertools, json, logging, os, secrets, time

import redis.asyncio as redis


async def say(worker, state, news, interval=1.0, prefix="dam"):
    """Sends `state()` (`state`, `url`, `slots`, `running` …) every `interval` seconds, and when `news` is set."""
    server = os.environ.get("DAM_REDIS_URL", "redis://127.0.0.1:6379")
    client = redis.from_url(server, socket_timeout=interval, socket_connect_timeout=interval)
    keys, boot, channel = os.environ.get("DAM_REDIS_KEY", "").split(), secrets.token_hex(8), f"{prefix}:health"
    for seq in itertools.count():
        beat = {"v": 1, "worker": worker, "boot": boot, "seq": seq, "at_ms": int(time.time() * 1000)}
        text = json.dumps({**beat, "interval_ms": int(interval * 1000), **state()})
        if keys:
            text = hmac.new(keys[0].encode(), f"{channel}\n{text}".encode(), hashlib.sha256).hexdigest() + " " + text
        try:
            async with client.pipeline(transaction=False) as pipe:
                pipe.sadd(f"{prefix}:workers", worker)
                pipe.set(f"{prefix}:worker:{worker}", text, px=int(3000 * interval))
                await pipe.publish(channel, text).execute()
        except redis.RedisError as fault:  # the next heartbeat tries again
            logging.warning("cannot publish heartbeats to Redis: %s", fault)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), interval)
        news.clear()
