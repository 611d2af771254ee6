"""Callers of a Service in a cluster: short streams, long streams and whole answers, one after the other.

As client libraries do, a caller sends a request again if nothing of it can have been done: if the connection was refused, or
if a kept connection turns out to be closed when it is used again. Both are counted. Nothing else is sent again.
"""

import http.client
import json
import select
import threading
import time
from collections import Counter, namedtuple

TOKENS = {"stream": 30, "whole": 30, "long": 250}
# Half of the callers keep their connection, the others make a new one for each request.
CALLERS = [(kind, kept) for kind in ("stream", "stream", "whole", "long") for kept in (True, False) for _ in range(2)]

# Whoever learns later than this that its connection is closed may have been heard.
CLOSED_WITHIN = 0.05

Answer = namedtuple("Answer", "began first ended kind worker refused again fault")


class Load:
    def __init__(self, host, port, model="sim", name=None):
        """Asks for `model`, and by another `name` than the host's."""
        self.host, self.port, self.model = host, port, model
        self.headers = {"content-type": "application/json", **({"host": name} if name else {})}
        self.lock = threading.Lock()
        self.answers = []
        self.ended = threading.Event()
        # When the request began that each caller waits for.
        self.under_way = [time.monotonic()] * len(CALLERS)
        self.threads = [threading.Thread(target=self.call, args=(index, *caller), daemon=True) for index, caller in enumerate(CALLERS)]
        for thread in self.threads:
            thread.start()

    def call(self, index, kind, kept):
        connection = None
        body = {"model": self.model, "stream": kind != "whole", "max_tokens": TOKENS[kind], "ignore_eos": True}
        body["messages"] = [{"role": "user", "content": "Why does water find its level?"}]
        while not self.ended.is_set():
            began = self.under_way[index] = time.monotonic()
            again, refused = 0, 0
            while True:
                first, worker, fault = None, None, None
                # Closed by the other side while nobody used it.
                if connection and (connection.sock is None or select.select([connection.sock], [], [], 0)[0]):
                    connection.close()
                    connection = None
                used, sent = connection is not None, time.monotonic()
                try:
                    if not connection:
                        connection, refused = self.connect(began)
                    connection.request("POST", "/v1/chat/completions", json.dumps(body), self.headers)
                    answer = connection.getresponse()
                    worker = answer.headers.get("x-traffic-dam-worker")
                    text = answer.read(1)
                    first = time.monotonic()
                    text += answer.read()
                    fault = fault_of(answer.status, kind, text)
                except (OSError, http.client.HTTPException) as error:
                    fault = repr(error)
                    if used and not first and isinstance(error, ConnectionError) and time.monotonic() - sent < CLOSED_WITHIN:
                        connection.close()
                        connection, again = None, again + 1
                        continue
                break
            if connection and (fault or not kept):
                connection.close()
                connection = None
            answer = Answer(began, first, time.monotonic(), kind, worker, refused, again, fault)
            with self.lock:
                self.answers.append(answer)
            if fault:
                # Without a pause one dead endpoint would be asked thousands of times.
                time.sleep(0.1)

    def connect(self, began):
        """Makes a new connection. Returns it, and how often it was refused."""
        refused = 0
        while True:
            connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
            try:
                connection.connect()
                return connection, refused
            except ConnectionRefusedError:
                refused += 1
                if time.monotonic() - began > 10:
                    raise
                time.sleep(0.1)

    def since(self, moment):
        """The requests that were under way at `moment` or began later, so far as they have ended."""
        with self.lock:
            return [answer for answer in self.answers if answer.ended >= moment]

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def fault_of(status, kind, text):
    """What is wrong with an answer, if anything is."""
    if status != 200:
        return f"{status} {text[:200]!r}"
    if b'"finish_reason":"length"' not in text or (kind != "whole" and b"data: [DONE]" not in text):
        return f"not complete: {text[-200:]!r}"
    return None


def faults(answers):
    return [answer for answer in answers if answer.fault]


def figures(answers):
    """A line about requests."""
    kinds = Counter(answer.kind for answer in answers)
    firsts = sorted(answer.first - answer.began for answer in answers if answer.first and answer.kind != "whole")
    refused = sum(answer.refused for answer in answers)
    said = f"{len(answers)} requests ({kinds['stream']} streams, {kinds['long']} long ones, {kinds['whole']} whole), "
    said += f"{len(faults(answers))} failed"
    if refused:
        waited = max(answer.first - answer.began for answer in answers if answer.refused and answer.first)
        said += f", {refused} connections refused and tried again (the first byte came after {waited:.1f} s at most)"
    again = sum(answer.again for answer in answers)
    if again:
        said += f", {again} sent again because a kept connection was closed"
    if firsts:
        said += f"; first byte of a stream: median {firsts[len(firsts) // 2] * 1000:.0f} ms, at most {firsts[-1] * 1000:.0f} ms"
    return said
