"""Sends streams through a balancer while one of its two gateways drains, and counts those that were answered.

    balancers.py URL SECONDS     # the load; prints one JSON object

`scripts/balancers` starts everything and ends the gateway meanwhile. Standard library only.
"""

import http.client
import json
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

# The address that clients come from: the gateways must see it, not the balancer's.
CLIENT = "127.0.0.99"
SHORT, LONG = (20, 30), (6, 400)  # clients, and tokens of each of their answers
LEAVERS = 3


class Tally:
    """Counts of all clients."""

    def __init__(self):
        self.lock = threading.Lock()
        self.asked = self.answered = self.left = 0
        self.faults, self.firsts, self.gaps = [], [], []

    def add(self, fault, first, gap):
        with self.lock:
            self.asked += 1
            if fault:
                self.faults.append(fault)
            else:
                self.answered += 1
                self.firsts.append(first)
                self.gaps.append(gap)


def connect(url):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate is signed by itself
    return http.client.HTTPSConnection(url.hostname, url.port, timeout=40, context=context, source_address=(CLIENT, 0))


def ask(connection, tokens):
    body = {"model": "sim", "stream": True, "max_tokens": tokens, "ignore_eos": True}
    body["messages"] = [{"role": "user", "content": "Why does water find its level?"}]
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"content-type": "application/json"})
    return connection.getresponse()


def stream(connection, tokens):
    """Reads one stream. Returns what was wrong with it, the time to its first token and its longest pause after it."""
    began = last = time.monotonic()
    first, gap, done = None, 0.0, False
    try:
        answer = ask(connection, tokens)
        if answer.status != 200:
            return f"{answer.status} {answer.headers.get('x-traffic-dam-reason', 'of the balancer')}", None, None
        for line in answer:
            now = time.monotonic()
            if line.startswith(b"data: [DONE]"):
                done = True
            elif line.startswith(b"data: ") and b'"content":"' in line:
                if first is None:
                    first = now - began
                else:
                    gap = max(gap, now - last)
                last = now
        return (None if done else "cut off"), first, gap
    except (OSError, http.client.HTTPException) as fault:
        connection.close()
        return f"{type(fault).__name__} after the first token" if first else type(fault).__name__, None, None


def client(url, tokens, until, tally):
    connection = connect(url)
    while time.monotonic() < until:
        tally.add(*stream(connection, tokens))


def leave(url, tally):
    """Disconnects in the middle of an answer."""
    connection = connect(url)
    answer = ask(connection, LONG[1])
    if answer.status == 200 and answer.readline():
        with tally.lock:
            tally.left += 1
    answer.close()
    connection.close()


def main():
    url, seconds = urlsplit(sys.argv[1]), float(sys.argv[2])
    tally, until = Tally(), time.monotonic() + seconds
    threads = [threading.Thread(target=leave, args=(url, tally)) for _ in range(LEAVERS)]
    for clients, tokens in (SHORT, LONG):
        threads += [threading.Thread(target=client, args=(url, tokens, until, tally)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    middle = lambda values: sorted(values)[len(values) // 2] if values else 0.0  # noqa: E731
    print(
        json.dumps(
            {
                "asked": tally.asked,
                "answered": tally.answered,
                "left": tally.left,
                "faults": sorted(set(tally.faults)),
                "first_ms": round(1000 * middle(tally.firsts)),
                "gap_ms": round(1000 * middle(tally.gaps)),
            }
        )
    )


main()
