"""Says over Redis how a worker is: all that a gateway needs to find it and to follow it (docs/fleet.md)."""

import asyncio, contextlib, hashlib, hmac, itertools, json, logging, os, secrets, time

import redis.asyncio as redis


async def say(worker, state, news, interval=1.0, prefix="dam"):
    """Says every `interval` seconds, and when `news` is set, what `state()` gives: `state`, `url`, `slots`, `running` …"""
    server = os.environ.get("DAM_REDIS_URL", "redis://127.0.0.1:6379")
    client = redis.from_url(server, socket_timeout=interval, socket_connect_timeout=interval)
    key, boot, channel = os.environ.get("DAM_REDIS_KEY"), secrets.token_hex(8), f"{prefix}:health"
    for seq in itertools.count():
        beat = {"v": 1, "worker": worker, "boot": boot, "seq": seq, "at_ms": int(time.time() * 1000)}
        text = json.dumps({**beat, "interval_ms": int(interval * 1000), **state()})
        if key:
            text = hmac.new(key.encode(), f"{channel}\n{text}".encode(), hashlib.sha256).hexdigest() + " " + text
        try:
            async with client.pipeline(transaction=False) as pipe:
                pipe.sadd(f"{prefix}:workers", worker)
                pipe.set(f"{prefix}:worker:{worker}", text, px=int(3000 * interval))
                await pipe.publish(channel, text).execute()
        except redis.RedisError as fault:  # the next heartbeat tries again
            logging.warning("Redis takes no heartbeats: %s", fault)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(news.wait(), interval)
        news.clear()
