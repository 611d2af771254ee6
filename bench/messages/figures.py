"""Compares the CPU of a message with that of a chat of the same prompt bytes, through one gateway.

`scripts/messages-cost` runs it. Chats and messages take turns; a figure is the median of the rounds. With
COUNT=1 the gateway runs under cachegrind and user instructions are counted instead of CPU time: that is
repeatable on a busy machine, but leaves out the kernel, whose part is the same for both.
"""

import ctypes
import errno
import os
import platform
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time

DAM = os.environ["TRAFFIC_DAM"]
COUNT = bool(os.environ.get("COUNT"))
ROUNDS, REQUESTS = (1, 2000) if COUNT else (5, 6000)
# Requests before the figures, so that pools are full and estimates learned.
WARM = 200
TOKENS = 64
# A prompt of about 2 KiB, the same in both.
PROMPT = "Summarise the following notes in three sentences.\\nKeep every figure.\\n\\n" * 28

# Number of the system call `prctl`.
PRCTL = {"x86_64": 157, "aarch64": 167}[platform.machine()]

HEAD = "HTTP/1.1 200 OK\r\ncontent-type: {}\r\n"
CHAT = ('{"id":"chatcmpl-1","object":"chat.completion","created":1763680000,"model":"bench","choices":[{"index":0,"message":'
        '{"role":"assistant","content":"Because it is the shape of least energy."},"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":500,"completion_tokens":9,"total_tokens":509}}')
MESSAGE = ('{"id":"msg_1","type":"message","role":"assistant","model":"bench","content":[{"type":"text","text":'
           '"Because it is the shape of least energy."}],"stop_reason":"end_turn","stop_sequence":null,'
           '"usage":{"input_tokens":500,"cache_read_input_tokens":0,"output_tokens":9}}')


def chat_events(usage):
    chunk = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1763680000,"model":"bench","choices":[%s]%s}'
    null = ',"usage":null' if usage else ""
    yield chunk % ('{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}', null)
    for _ in range(TOKENS):
        yield chunk % ('{"index":0,"delta":{"content":" the"},"finish_reason":null}', null)
    yield chunk % ('{"index":0,"delta":{},"finish_reason":"stop"}', null)
    if usage:
        yield chunk % ("", ',"usage":{"prompt_tokens":500,"completion_tokens":%d,"total_tokens":%d}' % (TOKENS, TOKENS + 500))
    yield "[DONE]"


def message_events():
    yield ('{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"bench","content":[],'
           '"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":500,"output_tokens":1}}}')
    yield '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}'
    for _ in range(TOKENS):
        yield '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" the"}}'
    yield '{"type":"content_block_stop","index":0}'
    yield ('{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":%d}}' % TOKENS)
    yield '{"type":"message_stop"}'


def streamed(events):
    """Returns an answer of one HTTP chunk for each event, as workers write it."""
    parts = [HEAD.format("text/event-stream") + "transfer-encoding: chunked\r\n\r\n"]
    for event in events:
        name = re.match(r'\{"type":"(\w+)"', event)
        text = (f"event: {name[1]}\n" if name else "") + f"data: {event}\n\n"
        parts.append(f"{len(text):x}\r\n{text}\r\n")
    return ("".join(parts) + "0\r\n\r\n").encode()


def plain(body):
    return (HEAD.format("application/json") + f"content-length: {len(body)}\r\n\r\n{body}").encode()


ANSWERS = {
    ("/v1/chat/completions", False): plain(CHAT),
    ("/v1/messages", False): plain(MESSAGE),
    ("/v1/messages", True): streamed(message_events()),
}
# A chat's stream reports its usage if the gateway asks for it.
CHAT_STREAMS = {usage: streamed(chat_events(usage)) for usage in (False, True)}


def read_request(connection, unread):
    while b"\r\n\r\n" not in unread:
        more = connection.recv(65536)
        if not more:
            return None, b""
        unread += more
    head, rest = unread.split(b"\r\n\r\n", 1)
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while len(rest) < int(length[1]):
        rest += connection.recv(65536)
    return head + rest[: int(length[1])], rest[int(length[1]):]


def serve(connection):
    unread = b""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while True:
        request, unread = read_request(connection, unread)
        if request is None:
            return
        path, stream = request.split(b" ", 2)[1].decode(), b'"stream":true' in request
        if (path, stream) == ("/v1/chat/completions", True):
            connection.sendall(CHAT_STREAMS[b"include_usage" in request])
        else:
            connection.sendall(ANSWERS[path, stream])


def listen():
    listener = socket.create_server(("127.0.0.1", 0))

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def request(path, stream):
    body = '{"model":"bench","max_tokens":512,"stream":%s,"messages":[{"role":"user","content":"%s"}]}' % (
        "true" if stream else "false", PROMPT)
    return (f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\nauthorization: Bearer sk-bench\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}").encode()


def send(port, path, stream, count):
    """Sends requests one after the other on one connection."""
    asked = request(path, stream)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            connection.sendall(asked)
            read = b""
            while not is_whole(read):
                more = connection.recv(65536)
                assert more, f"the gateway closed the connection after {read!r}"
                read += more
            assert read.startswith(b"HTTP/1.1 200"), read


def is_whole(read):
    head, found, body = read.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return found and (len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n"))


def hide_the_auxiliary_vector():
    """Makes `prctl(PR_GET_AUXV)` fail: the kernel would tell of a vDSO that is not there under valgrind."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, jump_if_equal, result = 0x20, 0x15, 0x06
    # The system call's number, then its first argument (`seccomp_data`).
    program = [(load, 0, 0, 0), (jump_if_equal, 0, 3, PRCTL), (load, 0, 0, 16), (jump_if_equal, 0, 1, 0x41555856),
               (result, 0, 0, 0x00050000 | errno.EINVAL), (result, 0, 0, 0x7FFF0000)]
    filters = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    whole = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(filters)))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, whole, 0, 0):
        raise OSError(ctypes.get_errno(), "the system-call filter was refused")


class Gateway:
    def __init__(self, folder, worker, under=()):
        self.port, admin = free_port(), free_port()
        environment = {**os.environ, "WORKER_URL": f"http://127.0.0.1:{worker}"}
        log = open(os.path.join(folder, "gateway.log"), "wb")
        self.process = subprocess.Popen(
            [*under, DAM, "serve", "--config", "bench/proxy/dam.yaml", "--listen", f"127.0.0.1:{self.port}",
             "--admin-listen", f"127.0.0.1:{admin}"], env=environment, stdout=log, stderr=log,
            preexec_fn=hide_the_auxiliary_vector if under else None)
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "the gateway did not start"
                time.sleep(0.05)

    def cpu(self):
        """Returns the CPU time so far in seconds."""
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def instructions(folder, worker, path, stream, count):
    """Returns the instructions of a gateway that serves so many requests."""
    out = os.path.join(folder, "cachegrind.out")
    gateway = Gateway(folder, worker, ["valgrind", "-q", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={out}"])
    send(gateway.port, path, stream, count)
    gateway.stop()
    with open(out, encoding="utf-8") as file:
        return int(re.search(r"^(?:summary|totals): (\d+)", file.read(), re.MULTILINE)[1])


def counted(folder, worker, path, stream):
    # What the start, the first requests and the end cost is in both.
    first, all_of_them = (instructions(folder, worker, path, stream, count) for count in (WARM, WARM + REQUESTS))
    return (all_of_them - first) / REQUESTS / 1000


def timed(gateway, path, stream):
    before = gateway.cpu()
    send(gateway.port, path, stream, REQUESTS)
    return (gateway.cpu() - before) / REQUESTS * 1e6


def main():
    worker, unit = listen(), "1000 instructions" if COUNT else "µs"
    print(f"| | chat, {unit} | message, {unit} | ratio |\n| --- | ---: | ---: | ---: |")
    met = True
    with tempfile.TemporaryDirectory() as folder:
        gateway = None if COUNT else Gateway(folder, worker)
        for stream in (False, True):
            figures = {"/v1/chat/completions": [], "/v1/messages": []}
            for path in figures if gateway else ():
                send(gateway.port, path, stream, WARM)
            for _ in range(ROUNDS):
                for path, values in figures.items():
                    values.append(timed(gateway, path, stream) if gateway else counted(folder, worker, path, stream))
            chat, message = (statistics.median(values) for values in figures.values())
            ratios = [message / chat for chat, message in zip(*figures.values())]
            met &= statistics.median(ratios) <= 1.1
            what = f"a stream of {TOKENS} tokens" if stream else "an answer in one piece"
            print(f"| {what} | {chat:.1f} | {message:.1f} | {statistics.median(ratios):.3f} |", flush=True)
        if gateway:
            gateway.stop()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
