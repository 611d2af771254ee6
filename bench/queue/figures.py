"""Compares the queue with forwarding over HTTP: time to first token, commands to Redis, CPU.

Gateways, workers and Redis are separate processes; this is the client. `scripts/queue-figures` runs it.
It uses only the standard library and parses only for content, so that it is not the bottleneck.
"""

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time

DAM = os.environ["TRAFFIC_DAM"]
SHORT = bool(os.environ.get("SHORT"))
ROUNDS, REQUESTS, RATE = (2, 60, 40) if SHORT else (6, 250, 100)
STREAMS, TOKENS_PER_SECOND, SECONDS = (200, 20, 6) if SHORT else (1000, 20, 20)
# Commands run inside scripts; all others that Redis counts were sent by a client.
INSIDE = {"time", "hmget", "hset", "hget", "xadd", "publish", "pexpire", "hdel", "del", "xlen", "xack", "xdel",
          "xpending", "xclaim", "hexists", "hincrby"}
MARK = b'"content":"'


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Stage:
    """Redis, and for each transport a gateway with its worker."""

    def __init__(self, folder, worker, slots):
        self.folder, self.children = folder, {}
        self.redis = free_port()
        self.start("redis", ["redis-server", "--port", str(self.redis), "--save", "", "--appendonly", "no", "--dir", folder])
        until(lambda: answers(self.redis))
        size = ["--slots", str(slots), *worker]
        here, there, self.http, self.queue = free_port(), free_port(), free_port(), free_port()
        self.start("worker-http", [DAM, "worker", "--listen", f"127.0.0.1:{here}", *size])
        self.start("worker-queue", [DAM, "worker", "--listen", f"127.0.0.1:{there}", *size, "--queue",
                                    "--redis", f"redis://127.0.0.1:{self.redis}"])
        gate = f"concurrency: {{ limit: {slots}, ttft_slo: 20s, queue: {{ wait: 10s, length: {slots} }} }}\n"
        redis = f'redis: {{ url: "redis://127.0.0.1:{self.redis}", timeout: 1s }}\n'
        self.gateway("dam-http", self.http, gate + f'workers: {{ static: [{{ id: w1, url: "http://127.0.0.1:{here}", slots: {slots} }}] }}\n')
        self.gateway("dam-queue", self.queue, gate + redis + "workers: { mode: queue }\n")
        for port in (self.http, self.queue):
            until(lambda port=port: served(port))

    def gateway(self, name, port, text):
        path = os.path.join(self.folder, name + ".yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"listen: 127.0.0.1:{port}\nadmin: {{ listen: 127.0.0.1:{free_port()} }}\nlog: {{ sample: 0 }}\n" + text)
        self.start(name, [DAM, "serve", "--config", path])

    def start(self, name, command):
        log = open(os.path.join(self.folder, name + ".log"), "wb")
        self.children[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def cpu(self):
        """Returns the CPU seconds so far by process, the client included."""
        ticks = os.sysconf("SC_CLK_TCK")
        used = {}
        for name, pid in [*((name, child.pid) for name, child in self.children.items()), ("client", os.getpid())]:
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            used[name] = (int(fields[11]) + int(fields[12])) / ticks
        return used

    def commands(self):
        """Returns the commands sent to Redis and those run by scripts, so far."""
        sent = inside = 0
        for line in ask_redis(self.redis, "INFO commandstats").splitlines():
            if line.startswith("cmdstat_"):
                name, _, rest = line[len("cmdstat_"):].partition(":")
                calls = int(rest.split("calls=")[1].split(",")[0])
                if name.split("|")[0] in INSIDE:
                    inside += calls
                else:
                    sent += calls
        return sent, inside

    def end(self):
        for child in reversed(self.children.values()):
            child.terminate()
        for child in self.children.values():
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def ask_redis(port, command):
    with socket.create_connection(("127.0.0.1", port)) as redis:
        redis.sendall(command.encode() + b"\r\n")
        data = redis.recv(1 << 16)
        length = int(data[1:data.index(b"\r\n")])
        body = data[data.index(b"\r\n") + 2:]
        while len(body) < length:
            body += redis.recv(1 << 16)
    return body.decode()


def until(holds, seconds=30):
    over = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > over:
            sys.exit("the stage did not come up")
        time.sleep(0.05)


def message(tokens):
    body = json.dumps({"model": "sim", "stream": True, "max_tokens": tokens, "ignore_eos": True,
                       "messages": [{"role": "user", "content": "Say something."}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def served(port):
    if not answers(port):
        return False
    with socket.create_connection(("127.0.0.1", port), 5) as conn:
        conn.sendall(message(1))
        return conn.recv(16).startswith(b"HTTP/1.1 200")


def run(port, starts, tokens):
    """Sends requests at these times. Returns the TTFTs, the tokens seen, the failures and the duration."""
    poll, open_now, todo = select.epoll(), {}, list(starts)
    ttft, seen, failed, bytes_of = [], 0, 0, message(tokens)
    begun = time.monotonic()
    last = begun + starts[-1] + tokens * 0.2 + 60
    while todo or open_now:
        now = time.monotonic()
        if now > last:
            failed += len(open_now) + len(todo)
            break
        while todo and begun + todo[0] <= now:
            todo.pop(0)
            conn = socket.create_connection(("127.0.0.1", port), 5)
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            conn.sendall(bytes_of)
            conn.setblocking(False)
            poll.register(conn.fileno(), select.EPOLLIN)
            open_now[conn.fileno()] = [conn, time.monotonic(), False, b"", False]
        wait = min(0.05, max(0.0, begun + todo[0] - time.monotonic())) if todo else 0.05
        for fd, _ in poll.poll(wait):
            state = open_now[fd]
            conn, sent, first, rest, whole = state
            data = conn.recv(1 << 16)
            if data:
                # A mark may be split between two reads.
                data = rest + data
                count = data.count(MARK)
                if count and not first:
                    ttft.append(time.monotonic() - sent)
                    state[2] = True
                seen += count
                state[4] = whole or b"[DONE]" in data
                cut = data.rfind(MARK)
                state[3] = data[max(cut + len(MARK), len(data) - len(MARK) + 1):]
            else:
                failed += not whole
                poll.unregister(fd)
                conn.close()
                del open_now[fd]
    return ttft, seen, failed, time.monotonic() - begun


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000 if values else float("nan")


def verdict(value, most):
    return "" if value <= most else f"   MISSED: at most {most}"


def first_tokens(folder):
    """Measures both transports in turns, at half of the worker's capacity."""
    stage = Stage(folder, ["--prefill-base", "5ms", "--token-time", "10ms", "--token-time-per-seq", "0s"], 64)
    try:
        tokens, times = 32, {"http": [], "queue": []}
        starts = [number / RATE for number in range(REQUESTS)]
        sent_all = inside_all = seen_all = failed_all = 0
        for _ in range(ROUNDS):
            for way, port in (("http", stage.http), ("queue", stage.queue)):
                before = stage.commands()
                ttft, seen, failed, _ = run(port, starts, tokens)
                times[way] += ttft
                failed_all += failed
                if way == "queue":
                    after = stage.commands()
                    sent_all += after[0] - before[0]
                    inside_all += after[1] - before[1]
                    seen_all += seen
        print(f"time to first token, {RATE} requests a second, {ROUNDS * REQUESTS} each way, {failed_all} failed")
        for share, most in ((0.5, 2), (0.99, 10)):
            http, queue = percentile(times["http"], share), percentile(times["queue"], share)
            added = queue - http
            print(f"  p{share * 100:.0f}  http {http:7.2f} ms   queue {queue:7.2f} ms   added {added:6.2f} ms{verdict(added, most)}")
        each = sent_all / max(1, seen_all)
        print(f"commands to Redis for each token: {each:.2f} sent, {inside_all / max(1, seen_all):.2f} run by scripts{verdict(each, 2)}")
        return failed_all == 0
    finally:
        stage.end()


def crowd(folder):
    """Measures many concurrent streams through one Redis."""
    step = f"{1000 // TOKENS_PER_SECOND}ms"
    worker = ["--prefill-base", "1ms", "--prefill-rate", "10000000", "--step-tokens", "1000000", "--kv-tokens", "100000000",
              "--token-time", step, "--token-time-per-seq", "0s"]
    stage = Stage(folder, worker, STREAMS)
    try:
        starts = [number * 2 / STREAMS for number in range(STREAMS)]
        tokens = TOKENS_PER_SECOND * SECONDS
        print(f"{STREAMS} streams of {tokens} tokens at {TOKENS_PER_SECOND} a second")
        good = True
        for way, port in (("http", stage.http), ("queue", stage.queue)):
            before, counted = stage.cpu(), stage.commands()
            ttft, seen, failed, took = run(port, starts, tokens)
            after, recounted = stage.cpu(), stage.commands()
            busy = {name: (after[name] - before[name]) / took for name in after}
            shown = ["dam-" + way, "worker-" + way, "client"] + (["redis"] if way == "queue" else [])
            shares = "   ".join(f"{name.split('-')[0]} {busy[name] * 100:.0f} %" for name in shown)
            good = good and failed == 0
            print(f"  {way:5}  {seen / took:7.0f} tokens/s, {failed} failed, first token p99 {percentile(ttft, 0.99):.0f} ms; CPU of one core: {shares}")
            if way == "queue":
                print(f"         {(recounted[0] - counted[0]) / took:.0f} commands a second")
        return good
    finally:
        stage.end()


def main():
    good = True
    for part in (first_tokens, crowd):
        with tempfile.TemporaryDirectory() as folder:
            good = part(folder) and good
    sys.exit(0 if good else "not every stream came through whole")


if __name__ == "__main__":
    main()
