"""Tests the `openai` package through a running gateway (scripts/real-clients starts one).

Each function whose name begins with `check_` is one check.
"""

import asyncio
import sys
import time

import openai
from real_client import DAM_URL, SLOTS, refusal_of, run, running_on_the_worker, until_the_worker_is_idle, wait_of

ASK = [{"role": "user", "content": "Why does water find its level?"}]


def client(key: str = "sk-test-steady", retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{DAM_URL}/v1", max_retries=retries, timeout=30)


def text_of(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def check_models():
    assert [model.id for model in client().models.list()] == ["sim"]


def check_chat():
    answer = client().chat.completions.create(model="sim", messages=ASK, max_tokens=8)
    assert answer.choices[0].message.content and answer.usage.completion_tokens == 8


def check_chat_stream_comes_word_by_word():
    usage = {"include_usage": True}
    ask = {"model": "sim", "messages": ASK, "stream": True}
    chunks = list(client().chat.completions.create(**ask, max_tokens=30, stream_options=usage))
    assert text_of(chunks) and chunks[-1].usage.completion_tokens == 30
    # The first word is here long before the last.
    with client().chat.completions.create(**ask, max_tokens=5000, extra_body={"ignore_eos": True}) as stream:
        next(chunk for chunk in stream if text_of([chunk]))
        assert running_on_the_worker() == 1
    until_the_worker_is_idle()


def check_completions():
    answer = client().completions.create(model="sim", prompt="Water", max_tokens=5)
    assert answer.choices[0].text and answer.usage.completion_tokens == 5
    stream = client().completions.create(model="sim", prompt="Water", max_tokens=5, stream=True)
    assert "".join(choice.text for chunk in stream for choice in chunk.choices) == answer.choices[0].text


def check_responses():
    answer = client().responses.create(model="sim", input="Water", max_output_tokens=5)
    assert answer.output_text and answer.usage.output_tokens == 5
    events = list(client().responses.create(model="sim", input="Water", max_output_tokens=5, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == answer.output_text and events[-1].type == "response.completed"


def check_embeddings():
    answer = client().embeddings.create(model="sim", input=["one", "two"], encoding_format="float")
    assert len(answer.data) == 2 and all(item.embedding for item in answer.data)


def check_many_at_once():
    async def crowd():
        async with openai.AsyncOpenAI(api_key="sk-test-steady", base_url=f"{DAM_URL}/v1", max_retries=0) as many:

            async def one():
                stream = await many.chat.completions.create(model="sim", messages=ASK, max_tokens=8, stream=True)
                return text_of([chunk async for chunk in stream])

            return await asyncio.gather(*(one() for _ in range(SLOTS)))

    assert all(asyncio.run(crowd()))


def check_rate_limit_error():
    hasty = client("sk-test-hasty")
    ask = lambda: hasty.chat.completions.create(model="sim", messages=ASK, max_tokens=1)
    time.sleep(1)
    ask()
    refused = refusal_of(openai.RateLimitError, ask)
    assert refused.status_code == 429
    assert (refused.type, refused.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert refused.response.headers["x-traffic-dam-reason"] == "rate_limited"
    assert "one-a-second" in refused.message, refused.message
    wait = wait_of(refused)
    assert 0 < wait <= 1
    time.sleep(wait)
    ask()


def check_the_package_waits_as_it_is_told():
    # One retry: a second refusal would be an exception.
    hasty = client("sk-test-hasty", retries=1).chat.completions.with_raw_response
    began, retries = time.monotonic(), []
    for _ in range(3):
        answer = hasty.create(model="sim", messages=ASK, max_tokens=1)
        assert answer.parse().choices
        retries.append(answer.retries_taken)
    # At best one immediately, and then one each second.
    assert time.monotonic() - began >= 2
    print(f"openai: retries until each of three calls was served: {retries}")


def check_a_wait_of_an_hour_is_one_call():
    rare = client("sk-test-rare", retries=5)
    rare.chat.completions.create(model="sim", messages=ASK, max_tokens=1)
    began = time.monotonic()
    refused = refusal_of(
        openai.RateLimitError, lambda: rare.chat.completions.create(model="sim", messages=ASK, max_tokens=1)
    )
    assert refused.response.headers["x-should-retry"] == "false"
    assert refused.response.request.headers["x-stainless-retry-count"] == "0"
    assert time.monotonic() - began < 60


def check_overload_is_a_503_that_says_when():
    streams = [
        client().chat.completions.create(model="sim", messages=ASK, max_tokens=200, stream=True, extra_body={"ignore_eos": True})
        for _ in range(SLOTS)
    ]
    refused = refusal_of(
        openai.InternalServerError,
        lambda: client().chat.completions.create(model="sim", messages=ASK, max_tokens=1),
    )
    for stream in streams:
        stream.close()
    assert refused.status_code == 503 and refused.type == "server_error"
    assert refused.code in ("overloaded", "queue_timeout"), refused.code
    wait_of(refused)
    until_the_worker_is_idle()


def check_a_wrong_key():
    refused = refusal_of(openai.AuthenticationError, lambda: client("sk-of-nobody").models.list())
    assert (refused.type, refused.code) == ("authentication_error", "invalid_api_key")
    assert "sk-of-nobody" not in refused.message


def check_a_path_that_is_not_let_through():
    refused = refusal_of(openai.NotFoundError, lambda: client().files.list())
    assert refused.code == "not_found" and "paths" in refused.message, refused.message


def check_hanging_up_frees_the_worker():
    stream = client().chat.completions.create(
        model="sim", messages=ASK, max_tokens=250, stream=True, extra_body={"ignore_eos": True}
    )
    for _, _chunk in zip(range(3), stream):
        pass
    assert running_on_the_worker() == 1
    stream.close()
    until_the_worker_is_idle()


if __name__ == "__main__":
    sys.exit(run("openai-client", globals()))
