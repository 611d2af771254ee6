"""Asks a gateway for chats with the `openai` package: first as fast as eight clients can, to learn the capacity, then at
three times that rate. Prints answers per second whose first token came in time.

    python ask.py http://127.0.0.1:8080/v1 [SECONDS]

Exits 1 if a request failed in another way than by a refusal that says when to come back, or if no first token was seen.
"""

import asyncio
import collections
import random
import sys
import time

import openai

PROMISE = 1.0
SLOTS = 8
TOKENS = 60
PROMPT = "Tell a short story of a river, a dam and the people below it, who want water each day and a flood never."


async def chat(client, outcomes, first_tokens):
    """Counts how one streamed chat ended: good, late, refused or failed."""
    began, first = time.monotonic(), None
    try:
        stream = await client.chat.completions.create(
            model="llama",
            messages=[{"role": "user", "content": f"{random.randrange(10**9)}: {PROMPT}"}],
            max_tokens=TOKENS,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            if first is None and chunk.choices and chunk.choices[0].delta.content:
                first = time.monotonic() - began
    except openai.APIStatusError as error:
        told = error.status_code in (429, 503) and "retry-after" in error.response.headers
        outcomes["refused" if told else "failed"] += 1
        return
    except openai.APIError:
        outcomes["failed"] += 1
        return
    if first is None:
        outcomes["failed"] += 1
        return
    first_tokens.append(first)
    outcomes["good" if first <= PROMISE else "late"] += 1


async def closed_loop(client, clients, seconds):
    """Returns the answers per second of so many clients, each with one request at a time."""
    outcomes, first_tokens = collections.Counter(), []
    end = time.monotonic() + seconds

    async def one():
        while time.monotonic() < end:
            await chat(client, outcomes, first_tokens)

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(clients)))
    return (outcomes["good"] + outcomes["late"]) / (time.monotonic() - began)


async def open_loop(client, rate, seconds):
    """Sends `rate` requests a second at random times, whatever becomes of them."""
    outcomes, first_tokens, tasks = collections.Counter(), [], []
    due = began = time.monotonic()
    while due < began + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(chat(client, outcomes, first_tokens)))
        due += random.expovariate(rate)
    await asyncio.gather(*tasks)
    return outcomes, sorted(first_tokens)


async def main():
    base_url = sys.argv[1]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
    random.seed(1)
    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=120) as client:
        capacity = await closed_loop(client, SLOTS, min(15.0, seconds))
        print(f"capacity: {capacity:.2f} answers/s with {SLOTS} clients", flush=True)
        outcomes, first_tokens = await open_loop(client, 3 * capacity, seconds)
    if capacity == 0 or not first_tokens:
        sys.exit("no first token was seen: the run says nothing")
    goodput = outcomes["good"] / seconds
    p99 = first_tokens[min(len(first_tokens) - 1, len(first_tokens) * 99 // 100)]
    print(
        f"3x of it for {seconds:.0f} s: {sum(outcomes.values())} requests, {goodput:.2f} good answers/s "
        f"({goodput / capacity:.0%} of capacity), first token p50 {first_tokens[len(first_tokens) // 2] * 1000:.0f} ms, "
        f"p99 {p99 * 1000:.0f} ms; {outcomes['late']} late, {outcomes['refused']} refused, {outcomes['failed']} failed"
    )
    if outcomes["failed"]:
        sys.exit(f"{outcomes['failed']} requests failed without a refusal")


asyncio.run(main())
