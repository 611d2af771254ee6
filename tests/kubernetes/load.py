"""Streams ten answers a second through URL until the file STOP is there; the end of the standard output counts them.

Each request has a connection of its own, as behind a balancer that knows no more than addresses: what a client keeps open
is closed by a gateway that goes, which HTTP clients must expect. An answer counts when its stream ends with [DONE].
"""

import json
import os
import sys
import threading
import time
import urllib.request

url, stop = sys.argv[1:]
lock = threading.Lock()
answered, failed = 0, []
body = json.dumps({"model": "sim", "stream": True, "max_tokens": 32, "messages": [{"role": "user", "content": "hello"}]})


def ask(number):
    global answered
    try:
        headers = {"content-type": "application/json", "connection": "close", "authorization": f"Bearer key-{number % 5}"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", body.encode(), headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode()
        if "data: [DONE]" not in text:
            raise ValueError(f"the stream was cut: {text[-200:]!r}")
    except Exception as fault:
        reason = getattr(fault, "headers", None) and fault.headers.get("x-traffic-dam-reason")
        with lock:
            failed.append(f"{fault} {reason or ''}")
        return
    with lock:
        answered += 1


threads = []
next_at = time.monotonic()
while not os.path.exists(stop):
    threads.append(threading.Thread(target=ask, args=(len(threads),)))
    threads[-1].start()
    next_at += 0.1
    time.sleep(max(0, next_at - time.monotonic()))
    if len(threads) % 10 == 0:
        with lock:
            print(f"{answered} requests answered, {len(failed)} failed", *failed[-3:], flush=True)
for thread in threads:
    thread.join()
print(*failed[:10], sep="\n")
print(f"{answered} requests answered, {len(failed)} failed", flush=True)
sys.exit(bool(failed) or not answered)
