"""Tests the `anthropic` package through a running gateway (scripts/real-clients starts one).

Each function whose name begins with `check_` is one check.
"""

import sys
import time

import anthropic
from real_client import DAM_URL, SLOTS, refusal_of, run, running_on_the_worker, until_the_worker_is_idle, wait_of

ASK = [{"role": "user", "content": "Why does water find its level?"}]
NOW = {"name": "now", "description": "Tells the time.", "input_schema": {"type": "object", "properties": {}}}


def client(key: str = "sk-test-steady", retries: int = 0, **more) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=key, base_url=DAM_URL, max_retries=retries, timeout=30, **more)


def say(tokens: int = 8, who: anthropic.Anthropic | None = None, **more):
    return (who or client()).messages.create(model="sim", messages=ASK, max_tokens=tokens, **more)


def endless(tokens: int = 200):
    """Starts a stream of exactly so many tokens."""
    return say(tokens, stream=True, extra_body={"ignore_eos": True})


def check_a_message():
    answer = say(8, extra_body={"ignore_eos": True})
    assert answer.content[0].text and (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 8)
    assert answer._request_id


def check_a_stream_comes_word_by_word():
    with client().messages.stream(
        model="sim", messages=ASK, max_tokens=30, extra_body={"ignore_eos": True}
    ) as stream:
        words = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(words) == 30 and "".join(words) == message.content[0].text
    assert message.usage.output_tokens == 30 and message.usage.input_tokens > 0
    # The first word is here long before the last.
    with client().messages.stream(
        model="sim", messages=ASK, max_tokens=5000, extra_body={"ignore_eos": True}
    ) as stream:
        assert next(iter(stream.text_stream)) and running_on_the_worker() == 1
    until_the_worker_is_idle()


def check_thoughts_and_cached_prompts():
    system = [{"type": "text", "text": "Be brief. " * 40, "cache_control": {"type": "ephemeral"}}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    for stream in (False, True):
        more = {"system": system, "thinking": thinking, "extra_body": {"ignore_eos": True}}
        if stream:
            with client().messages.stream(model="sim", messages=ASK, max_tokens=9, **more) as events:
                message = events.get_final_message()
        else:
            message = say(9, **more)
        assert [block.type for block in message.content] == ["thinking", "text"]
        assert message.usage.cache_read_input_tokens == 100 and message.usage.output_tokens == 9


def check_a_tool_is_called_and_its_result_is_taken():
    chosen = {"type": "tool", "name": "now"}
    with client().messages.stream(
        model="sim", messages=ASK, max_tokens=12, tools=[NOW], tool_choice=chosen, extra_body={"ignore_eos": True}
    ) as stream:
        message = stream.get_final_message()
    call = message.content[0]
    assert (message.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "now") and call.input["words"]
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "noon"}
    turns = [*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert client().messages.create(model="sim", messages=turns, max_tokens=4, tools=[NOW]).content[0].text


def check_counting_tokens_while_the_worker_is_full():
    streams = [endless() for _ in range(SLOTS)]
    counted = client().messages.count_tokens(model="sim", messages=ASK)
    assert counted.input_tokens == 8, counted
    for stream in streams:
        stream.close()
    until_the_worker_is_idle()


def check_rate_limit_error():
    hasty = client("sk-test-anthropic-hasty")
    time.sleep(1)
    say(1, hasty)
    refused = refusal_of(anthropic.RateLimitError, lambda: say(1, hasty))
    assert (refused.status_code, refused.type) == (429, "rate_limit_error")
    assert refused.request_id == refused.body["request_id"] == refused.response.headers["x-request-id"]
    assert refused.response.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert "one-a-second" in refused.message, refused.message
    wait = wait_of(refused)
    assert 0 < wait <= 1
    time.sleep(wait)
    say(1, hasty)


def check_the_package_waits_as_it_is_told():
    # One retry: a second refusal would be an exception.
    hasty = client("sk-test-anthropic-hasty", retries=1).messages.with_raw_response
    began, retries = time.monotonic(), []
    for _ in range(3):
        answer = hasty.create(model="sim", messages=ASK, max_tokens=1)
        assert answer.parse().content
        retries.append(answer.retries_taken)
    # At best one immediately, and then one each second.
    assert time.monotonic() - began >= 2
    print(f"anthropic: retries until each of three calls was served: {retries}")


def check_a_wait_of_an_hour_is_one_call():
    rare = client("sk-test-anthropic-rare", retries=5)
    say(1, rare)
    began = time.monotonic()
    refused = refusal_of(anthropic.RateLimitError, lambda: say(1, rare))
    assert refused.response.headers["x-should-retry"] == "false"
    assert refused.response.request.headers["x-stainless-retry-count"] == "0"
    assert time.monotonic() - began < 60


def check_overload_is_a_529_that_says_when():
    streams = [endless() for _ in range(SLOTS)]
    refused = refusal_of(anthropic.APIStatusError, lambda: say(1))
    for stream in streams:
        stream.close()
    assert (refused.status_code, refused.type) == (529, "overloaded_error"), refused
    wait_of(refused)
    until_the_worker_is_idle()


def check_errors_are_of_their_own_types():
    for kind, type_of_error, call in [
        (anthropic.AuthenticationError, "authentication_error", lambda: say(1, client("sk-of-nobody"))),
        (anthropic.NotFoundError, "not_found_error", lambda: client().messages.batches.list()),
        (anthropic.BadRequestError, "invalid_request_error", lambda: say("many")),
        (anthropic.APIStatusError, "request_too_large", lambda: say(1, system="x" * 100_000)),
    ]:
        refused = refusal_of(kind, call)
        assert refused.type == type_of_error, refused
        assert refused.request_id and "sk-of-nobody" not in refused.message
        print(f"anthropic: {refused.status_code} {refused.type} is a {type(refused).__name__}")


def check_the_key_may_be_a_bearer_token():
    bearer = client(None, auth_token="sk-test-steady")
    assert say(1, bearer).content


def check_an_error_in_a_stream_is_raised():
    stream = say(9, stream=True, extra_headers={"x-sim-fault": "break:3"})
    failed = refusal_of(anthropic.APIStatusError, lambda: list(stream))
    assert failed.body["error"]["type"] == "api_error" and "Worker w1" in failed.message, failed


def check_hanging_up_frees_the_worker():
    stream = endless(250)
    for _, _event in zip(range(5), stream):
        pass
    assert running_on_the_worker() == 1
    stream.close()
    until_the_worker_is_idle()


if __name__ == "__main__":
    sys.exit(run("anthropic-client", globals()))
