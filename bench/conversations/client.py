"""Conversations as a load: turns that grow by the whole talk so far, asked over HTTP as streams.

It uses only the standard library. A turn is sent at its time whether or not others are answered; how late the client
itself was is recorded, because a late client measures itself.
"""

import asyncio
import dataclasses
import json
import math
import random
import re
import time

# Bytes of text to a token of the simulated worker.
TOKEN = 4
WORDS = """about after again against along also always another answer around because become before begin between both
bring build call carry cause change city clear close cold come could country course cross cut day deep different does
done door down draw dry during each early earth east end enough even every example eye face fall family far farm fast
father feet few field find fire first fish five flow follow food form four free from full give gold good great green
ground group grow half hand hard have head hear heat help here high hold home horse hot hour house hundred idea inch
island just keep kind king knew land large last late laugh lead learn leave left less letter life light line list
little live long look low machine made main make many map mark mean might mile mind money moon more morning most
mother mountain move much music must name near need never new next night noon north nothing notice number object
ocean often old once open order other over own page paper part pass pattern people piece place plain plan plane plant
play point port pound power press problem product pull put question quick rain reach read ready real record red rest
river road rock room round rule run said same school science sea second seem sentence serve set several shape ship
short should show side simple since six size sleep slow small snow some song soon sound south stand star start state
stay step still stop story street strong study such sun sure surface system table take talk teach tell ten test than
their then there these thing think those though thousand three through time together told took top toward town travel
tree true turn two under unit until usual very voice vowel wait walk want warm watch water week weight well went were
west wheel where which while white whole why wind wood word work world would write year young""".split()
CONTENT = re.compile(rb'"content": ?"[^"]')
LENGTH = re.compile(rb"([0-9a-fA-F]+)\r\n")
PATIENCE = 30.0


@dataclasses.dataclass
class Shape:
    """What conversations are like. Lengths are means, in bytes for texts and tokens for answers; times in seconds."""

    turns: int
    gap: float
    first: float
    message: float
    answer: float
    system: int = 0
    system_share: float = 0.0


@dataclasses.dataclass
class Conversation:
    """What a client will say: the texts of all turns, the lengths of their answers, and the gaps before them."""

    at: float
    system: str
    texts: list
    answers: list
    gaps: list


@dataclasses.dataclass
class Turn:
    """A request: times in seconds of the loop's clock, and how it ended."""

    number: int
    sent: float
    late: float
    first: float = 0.0
    end: float = 0.0
    status: int = 0
    whole: bool = False
    prompt: int = 0
    cached: int = -1
    said: str = ""

    @property
    def ttft(self):
        return self.first - self.sent

    @property
    def refused(self):
        return self.status in (429, 503)

    @property
    def failed(self):
        return not self.refused and not (self.whole and self.first)

    def good(self, slo):
        return self.whole and bool(self.first) and self.ttft <= slo


def lengths(dice, mean, sigma):
    """Draws a length from a log-normal distribution of this mean, at most four times the mean."""
    return min(4 * mean, max(1.0, dice.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)))


class Library:
    """A long text; pieces of it begin at random words, so no two are alike."""

    def __init__(self, dice, size=1 << 20):
        self.dice, self.text = dice, " ".join(dice.choices(WORDS, k=size // 5))

    def piece(self, size):
        begin = self.text.index(" ", self.dice.randrange(len(self.text) - int(size) - 64)) + 1
        return self.text[begin : begin + max(1, int(size))]


def conversations(shape, rate, seconds, seed):
    """Returns conversations that begin at random times (Poisson), `rate` a second on average."""
    dice = random.Random(seed)
    library = Library(dice)
    common = library.piece(shape.system) if shape.system else ""
    planned, at = [], dice.expovariate(rate)
    while at < seconds:
        system = common
        if shape.system and dice.random() >= shape.system_share:
            system = library.piece(shape.system)
        sizes = [lengths(dice, shape.first, 0.6)] + [lengths(dice, shape.message, 0.8) for _ in range(shape.turns - 1)]
        planned.append(
            Conversation(
                at,
                system,
                [library.piece(size) for size in sizes],
                [round(lengths(dice, shape.answer, 0.6)) for _ in sizes],
                [dice.expovariate(1 / shape.gap) for _ in sizes],
            )
        )
        at += dice.expovariate(rate)
    return planned


class Exchange(asyncio.Protocol):
    """One request on a connection of its own, and its answer."""

    def __init__(self, request, turn, clock):
        self.request, self.turn, self.clock = request, turn, clock
        self.data, self.looked, self.over = bytearray(), 0, asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.data += data
        if not self.turn.first:
            if CONTENT.search(self.data, self.looked):
                self.turn.first = self.clock()
            # What is looked for may be split between two reads.
            self.looked = max(0, len(self.data) - 64)
        # A router may keep the connection open although it was asked to close it.
        if b"data: [DONE]" in self.data[-len(data) - 16 :]:
            self.transport.close()

    def connection_lost(self, _):
        if not self.over.done():
            self.over.set_result(None)


class Client:
    """Holds conversations with the server at a port, and keeps what became of their turns."""

    def __init__(self, port, headers=()):
        self.port, self.headers, self.turns = port, "".join(f"{name}: {value}\r\n" for name, value in headers), []
        self.clock = time.monotonic

    async def ask(self, messages, answer, turn, headers=""):
        """Sends one turn, and fills in `turn` as the answer comes."""
        body = (
            '{"model":"sim","stream":true,"stream_options":{"include_usage":true},"ignore_eos":true,"max_tokens":%d,"messages":[%s]}'
            % (answer, ",".join(messages))
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"content-type: application/json\r\n{self.headers}{headers}content-length: {len(body)}\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        exchange = Exchange(head.encode() + body, turn, self.clock)
        transport = None
        try:
            transport, _ = await loop.create_connection(lambda: exchange, "127.0.0.1", self.port)
            await asyncio.wait_for(exchange.over, PATIENCE)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:
            if transport:
                transport.abort()
        turn.end = self.clock()
        understand(turn, bytes(exchange.data))
        return turn

    async def hold(self, conversation, begin, end, session=""):
        """Holds one conversation. After `end` no turn is sent. A turn that is refused is lost; the next one comes all the same."""
        messages, at = [], begin + conversation.at
        if conversation.system:
            messages.append(json.dumps({"role": "system", "content": conversation.system}))
        for number, text in enumerate(conversation.texts):
            if at >= end:
                return
            await asyncio.sleep(at - self.clock())
            messages.append(json.dumps({"role": "user", "content": text}))
            sent = self.clock()
            turn = Turn(number, sent, sent - at)
            self.turns.append(turn)
            await self.ask(messages, conversation.answers[number], turn, session)
            if turn.whole:
                messages.append(json.dumps({"role": "assistant", "content": turn.said}))
            at = turn.end + conversation.gaps[number]

    async def crowd(self, planned, begin, end, sessions=False):
        """Holds all conversations, each from its time on."""
        named = [f"x-session-id: talk-{number}\r\n" if sessions else "" for number in range(len(planned))]
        await asyncio.gather(*(self.hold(one, begin, end, name) for one, name in zip(planned, named)))


def understand(turn, data):
    """Reads an answer: its status, its text, its usage, and whether it is whole."""
    head, _, body = data.partition(b"\r\n\r\n")
    parts = head.split(b" ", 2)
    if len(parts) < 2 or not parts[1].isdigit():
        return
    turn.status = int(parts[1])
    if turn.status != 200:
        turn.said = body.decode(errors="replace")
        return
    if b"transfer-encoding: chunked" in head.lower():
        body = unchunked(body)
    said = []
    for line in body.split(b"\n"):
        if not line.startswith(b"data: "):
            continue
        if line.startswith(b"data: [DONE]"):
            turn.whole = True
            break
        try:
            event = json.loads(line[6:])
        except ValueError:
            return
        if "error" in event:
            return
        for choice in event.get("choices") or ():
            said.append((choice.get("delta") or {}).get("content") or "")
        usage, timings = event.get("usage"), event.get("timings")
        if usage:
            turn.prompt = usage.get("prompt_tokens", 0)
            turn.cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", turn.cached)
        if timings and turn.cached < 0:
            # llama.cpp's own name for it.
            turn.cached = timings.get("cache_n", -1)
    turn.said = "".join(said)


def unchunked(body):
    parts, place = [], 0
    while length := LENGTH.match(body, place):
        size = int(length[1], 16)
        if size == 0:
            break
        parts.append(body[length.end() : length.end() + size])
        place = length.end() + size + 2
    return b"".join(parts)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else math.nan


def hit_ratio(turns):
    """Returns the cached share of the prompt tokens of those turns whose answers report it."""
    told = [turn for turn in turns if turn.cached >= 0]
    tokens = sum(turn.prompt for turn in told)
    return sum(turn.cached for turn in told) / tokens if tokens else math.nan
