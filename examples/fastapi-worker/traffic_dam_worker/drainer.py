"""Takes jobs from a queue and passes them to an ASGI app (FastAPI, Starlette …) like HTTP calls: docs/queue-protocol.md.

    drainer = Drainer(app, "w1", version=build(__file__), slots=8)
    await drainer.run()  # until drainer.drain() is called and the running jobs have ended

Redis may fail at any time: unconfirmed commands are sent again, and none of them takes effect twice.
"""

import asyncio, contextlib, hashlib, hmac, json, logging, os, pathlib, re, time

import redis.asyncio as redis
from redis.exceptions import ResponseError

SCRIPTS = pathlib.Path(__file__).parent / "lua"
AGAIN = 0.1  # s before a command is sent again
OTHERS = "can't run this command", "can't access", "non local key"  # errors of a script that no job's fields cause
PAUSES = 10, 30  # intervals that a worker takes no jobs after one whose signature is wrong, at first and at most
TOGETHER = 64  # parts of an answer that may wait to be sent; a faster app is blocked
END, DISCARD, HAND_BACK, LEAVE = "end", "discard", "hand back", "leave"  # what happens to an entry


def build(file):
    """Returns a version for an app that has no other: a hash of the Python files beside `file`, its main one."""
    found = hashlib.sha256()
    for source in sorted(pathlib.Path(file).resolve().parent.glob("*.py")):
        found.update(f"{source.name} {source.stat().st_size}\n".encode() + source.read_bytes())
    return f"0-{found.hexdigest()[:8]}"


def sides(colour, version):
    """Returns the sides whose jobs a worker takes, its own colour last: workers without one are divided by version."""
    is_name = bool(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", version or ""))
    if colour:
        return [f"{colour}@{version}", colour] if is_name and colour != f"v-{version}" else [colour]
    if not version:
        raise ValueError("set a `version` or a `colour`: without both, two builds would take each other's jobs")
    if not is_name or len(version) > 62:
        raise ValueError(f"`version` {version!r} must be 1 to 62 letters, digits, `.`, `_` or `-`, or set a `colour`")
    return [f"v-{version}"]


def is_text(name):
    """True if the bytes are UTF-8: anybody can write to a stream."""
    return name.decode(errors="ignore").encode() == name


def is_ill_formed(fault):
    """True if what a job's keys hold made its script fail, so that the job can never run."""
    said, plain = str(fault), type(fault) is ResponseError  # errors of the server itself, such as OOM, have other types
    by_value = plain and "user_script" in said and not any(other in said for other in OTHERS)
    return by_value and (said.startswith("WRONGTYPE") or not re.match(r"(?!ERR)[A-Z]+ ", said))


def is_final(fault):
    """True if the same command would fail again: a wrong key or argument, or parts that Redis has lost. The rest passes."""
    # The client cuts off the code `ERR`, and those for whose errors it has a class of its own, such as OOM.
    code = re.match(r"[A-Z]+(?= )", str(fault))
    return type(fault) is ResponseError and (not code or code[0] in ("ERR", "GAP", "WRONGTYPE"))


class Run:
    """A job running here, and what happens to its entry if the run is stopped."""

    job, given, epoch, task, verdict, error = b"", 1, None, None, None, None

    def stop(self, verdict):
        self.verdict = verdict
        if self.task:  # else it has not begun, and `take` will refuse it
            self.task.cancel()


class Drainer:
    def __init__(self, app, worker, pool="default", colour=None, version=None, slots=8, interval=1.0, prefix="dam"):
        url = os.environ.get("DAM_REDIS_URL", "redis://127.0.0.1:6379")
        self.client = redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
        self.reading = redis.from_url(url, socket_timeout=2, socket_connect_timeout=1)
        self.app, self.worker, self.pool, self.version = app, worker, pool, version
        self.slots, self.interval, self.prefix = slots, interval, prefix
        taken = sides(colour, version)  # before them all come its own jobs: those of sessions that it has answered
        taken = [f"{taken[0]}:{worker}", *taken]
        self.sides = {f"{prefix}:jobs:{{{pool}}}:{side}": side for side in taken}
        self.dead = f"{prefix}:dead:{{{pool}}}"
        self.keys = os.environ.get("DAM_REDIS_KEY", "").split()  # the first signs, each is accepted
        self.take, self.emit = self.script("common", "take"), self.script("common", "emit")
        self.claim, self.renew = self.script("claim"), self.script("renew")
        self.back, self.end = self.script("back"), self.script("end")
        self.discard = self.script("common", "discard")
        self.runs, self.tasks = {}, set()
        self.freed, self.draining = asyncio.Event(), False
        self.pause, self.resumes = 0, 0  # see `refusal`

    @property
    def colour(self):
        """What the heartbeats must name as the worker's colour."""
        return list(self.sides.values())[-1]

    def script(self, *names):
        return self.client.register_script("".join((SCRIPTS / f"{name}.lua").read_text() for name in names))

    def drain(self):
        self.draining = True
        self.freed.set()

    async def run(self):
        helpers = [asyncio.create_task(helper()) for helper in (self.hear_cancels, self.keep)]
        await self.read()
        while self.tasks:
            await asyncio.wait(self.tasks)
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        await self.client.aclose()
        await self.reading.aclose()

    async def join(self):
        for stream in self.sides:
            with contextlib.suppress(ResponseError):  # it exists
                await self.client.xgroup_create(stream, "workers", "0", mkstream=True)

    async def is_running(self, job):
        """True if the job runs here, whatever became of its entry."""
        state, worker = await self.client.hmget(f"{self.prefix}:job:{{{job}}}", "state", "worker")
        return (state, worker) == (b"running", self.worker.encode())

    async def read(self):
        unheard = 3 * self.interval
        joined, claims = False, 0
        while not self.draining:
            free = self.slots - len(self.runs)
            if free <= 0:
                self.freed.clear()
                await self.freed.wait()
                continue
            if self.pause and (left := self.resumes - time.monotonic()) > 0:
                await asyncio.sleep(min(left, self.interval))
                continue
            try:
                if not joined:
                    await self.join()
                    # In an outage healthy workers cannot renew: after it they get as long to do so before a claim.
                    joined, claims = True, time.monotonic() + unheard
                if time.monotonic() >= claims:
                    claims = time.monotonic() + self.interval
                    entries = []
                    for stream, side in self.sides.items():
                        if free > len(entries):
                            args = [self.worker, int(1000 * unheard), free - len(entries), side, 1]
                            found = await self.claim(keys=[stream], args=args)
                            entries += [(stream, at, {b"job": job}, n) for at, job, n in zip(*[iter(found)] * 3)]
                else:
                    new = dict.fromkeys(self.sides, ">")
                    own = {next(iter(new)): ">"}
                    found = await self.reading.xreadgroup("workers", self.worker, own, count=1)
                    found = found or await self.reading.xreadgroup("workers", self.worker, new, count=1, block=1000)
                    entries = [(s.decode(), entry, of, 1) for s, new in found for entry, of in new]
            except redis.RedisError as fault:  # Redis is down, or has lost the stream
                logging.warning("the queue cannot be read: %s", fault)
                joined = False
                await asyncio.sleep(AGAIN)
                continue
            for stream, entry, fields, given in entries:
                key, side = (stream, entry), self.sides[stream]
                if key not in self.runs:  # a process that was stopped may claim its own entries
                    run = self.runs[key] = Run()
                    run.job, run.given = fields.get(b"job", b""), given
                    if len(self.runs) > self.slots:  # one of another stream came with it
                        run.verdict = HAND_BACK
                    if not is_text(run.job) or not run.job:
                        logging.warning("removed an entry of %s that names no job: %r", stream, run.job)
                        run.verdict = END
                    elif given == 0:  # what `claim` says of an entry that was handed back for long
                        run.verdict = DISCARD
                        run.error = f"The job's entry is in the stream of {side}, and names another colour."
                    elif (colour := fields.get(b"colour", b"").decode(errors="replace")) not in ("", side):
                        logging.warning("handed back a job of the colour %s: this worker takes those of %s", colour, side)
                        run.verdict = HAND_BACK
                    task = asyncio.create_task(self.work(key, run))
                    self.tasks.add(task)
                    task.add_done_callback(self.tasks.discard)

    async def work(self, key, run):
        """Runs a job, and then ends its entry, hands it back or leaves it."""
        stream, entry = key
        verdict, dead = run.verdict, [b""]
        try:
            if not verdict:
                run.task = asyncio.create_task(self.answer(key, run))
                verdict, *dead = await run.task
        except asyncio.CancelledError:
            verdict = run.verdict or LEAVE
        except Exception:  # another worker claims it; in the end it is a dead letter
            logging.exception("a job could not be run")
            verdict = LEAVE
        try:
            if verdict is END:
                await self.again(self.end, keys=[stream, self.dead], args=[entry, run.job, *dead])
            if verdict is DISCARD:
                keys = [f"{self.prefix}:job:{{{run.job.decode()}}}", f"{self.prefix}:reply:{{{run.job.decode()}}}"]
                args = [f"{self.prefix}:replies:", run.job, run.error, int(run.given > 0)]
                logging.warning("ended the job %s, which cannot run: %s", run.job.decode(), run.error)
                kept = await self.again(self.discard, keys=keys, args=args)
                dead = [b""] if kept is None else [run.error, kept]
                await self.again(self.end, keys=[stream, self.dead], args=[entry, run.job, *dead])
            if verdict is HAND_BACK:
                await self.again(self.back, keys=[stream], args=[self.worker, entry])
        except ResponseError:
            logging.exception("an entry is left to be claimed")
        finally:
            del self.runs[key]
            self.freed.set()

    async def answer(self, key, run):
        """Has the app answer a job, and sends the answer. Returns what happens to the entry, and its end."""
        job, (stream, entry) = run.job.decode(), key
        side = self.sides[stream]
        keys = [f"{self.prefix}:job:{{{job}}}", f"{self.prefix}:reply:{{{job}}}"]
        common = [f"{self.prefix}:replies:", job]
        try:
            taken, *told = await self.again(self.take, keys=keys, args=[*common, self.worker, side, entry, run.given, stream])
        except ResponseError as fault:
            if not is_ill_formed(fault):
                raise
            run.error = f"The job cannot run: {fault}"
            return DISCARD, b""
        if taken == b"LEAVE":
            return LEAVE, b""
        if taken == b"OTHER":
            if run.given <= 1:  # said once: it is claimed again until `take` ends it
                colour = told[0].decode(errors="replace")
                logging.warning("refused a job of the colour %s: this worker takes those of %s", colour, side)
            return HAND_BACK, b""
        if taken == b"DEAD":
            logging.warning("the job %s is a dead letter: %s", job, told[0].decode(errors="replace"))
        if taken != b"RUN":
            return END, *(told or [b""])  # the error of a dead letter, and how long it is kept
        run.epoch, _attempt, left, path, headers, body, signature, sealed, waited = told
        first = 1

        async def send(*parts):
            nonlocal first
            if sealed == b"1" and self.keys:  # a gateway with a key accepts only signed parts
                parts = [(kind, self.signed(job, run.epoch, first + n, kind, data)) for n, (kind, data) in enumerate(parts)]
            args = [*common, run.epoch, first, *(word for part in parts for word in part)]
            said = await self.again(self.emit, keys=keys, args=args)
            first += len(parts)
            return said

        def error(reason, message):
            return "error", json.dumps({"reason": reason, "message": message})

        if why := self.refusal(self.is_genuine(job, path, headers, body, signature), sealed == b"1"):
            said = await send(("fail", why))
            verdicts = {b"FENCED": LEAVE, b"CANCELLED": END}
            return verdicts.get(said, HAND_BACK), b""
        self.pause = 0
        try:
            path, fields = path.decode(), json.loads(headers).items()
            headers = [(name.lower().encode(), value.encode()) for name, value in fields]
        except (ValueError, AttributeError):
            said = await send(error("upstream_broke", "The job's path or headers cannot be read."))
            return (LEAVE if said == b"FENCED" else END), b""
        parts = asyncio.Queue(TOGETHER)
        calling = asyncio.create_task(self.call(parts, side, waited, path, headers, body))
        until = time.monotonic() + left / 1000
        try:
            while True:
                try:  # the deadline bounds only the app: a part sent must be confirmed, to know the next number
                    some = [await asyncio.wait_for(parts.get(), until - time.monotonic())]
                    while not parts.empty():
                        some.append(parts.get_nowait())
                except TimeoutError:
                    some = [error("upstream_timeout", "The deadline of the job has passed.")]
                said = await send(*some)
                last = some[-1][0]
                if said == b"FENCED":
                    return LEAVE, b""
                if said != b"OK" or last in ("end", "error"):
                    return END, b""
                if last == "fail":
                    return HAND_BACK, b""
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)

    async def call(self, parts, side, waited, path, headers, body):
        """Calls the app: ASGI 3."""
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
        scope |= {"path": path, "query_string": b"", "root_path": "", "headers": headers, "client": None, "server": None}
        asked = iter([{"type": "http.request", "body": body}])

        async def receive():
            return next(asked, None) or await asyncio.Event().wait()  # cancelled with the run

        async def send(message):
            if message["type"] == "http.response.start":
                fields = {name.decode(): value.decode() for name, value in message["headers"]}
                head = {"worker": self.worker, "colour": side, "status": message["status"], "headers": fields}
                head["waited_ms"] = waited
                await parts.put(("head", json.dumps(head | ({"version": self.version} if self.version else {}))))
            else:
                if message.get("body"):
                    await parts.put(("data", message["body"]))
                if not message.get("more_body"):
                    await parts.put(("end", ""))

        try:
            await self.app(scope, receive, send)
        except Exception as fault:
            logging.exception("the app failed")
            await parts.put(("fail", repr(fault)))

    async def again(self, ask, *args, **more):
        """Retries until Redis answers."""
        while True:
            try:
                return await ask(*args, **more)
            except ResponseError as fault:
                if is_final(fault):
                    raise
                await asyncio.sleep(AGAIN)
            except redis.RedisError:
                await asyncio.sleep(AGAIN)

    async def keep(self):
        """Renews the running entries each interval, and stops those that another worker has claimed or Redis has lost."""
        while True:
            await asyncio.sleep(self.interval)
            with contextlib.suppress(redis.RedisError, OSError):
                for stream in self.sides:
                    mine = [entry for of, entry in self.runs if of == stream]
                    try:
                        lost = mine and await self.renew(keys=[stream], args=[self.worker, *mine])
                    except ResponseError as fault:
                        if not str(fault).startswith("NOGROUP"):
                            raise
                        # Redis has lost the stream. While all slots are in use, nobody reads and joins again.
                        await self.join()
                        lost = mine
                    for entry in lost:
                        run = self.runs.get((stream, entry))
                        # If only the stream was lost, nobody else can take the job: the run goes on.
                        if run and not await self.is_running(run.job.decode()) and run is self.runs.get((stream, entry)):
                            run.stop(LEAVE)

    async def hear_cancels(self):
        while True:
            with contextlib.suppress(redis.RedisError, OSError):
                async with self.client.pubsub() as cancels:
                    await cancels.subscribe(f"{self.prefix}:cancels:{self.worker}")
                    while True:
                        message = await cancels.get_message(ignore_subscribe_messages=True, timeout=None)
                        job, _, epoch = (message["data"] if message else b"").partition(b" ")
                        for run in self.runs.values():
                            if (run.job, str(run.epoch).encode()) == (job, epoch):
                                run.stop(END)
            await asyncio.sleep(AGAIN)

    def signed(self, job, epoch, n, kind, data):
        """Returns a part of an answer with its signature."""
        if kind == "fail":  # not a part: it only gives the reason for the end
            return data
        data = data.encode() if isinstance(data, str) else data
        place = f"{self.prefix}:reply:{job}:{int(epoch)}-{n}:{kind}\n".encode()
        return hmac.new(self.keys[0].encode(), place + data, hashlib.sha256).hexdigest().encode() + b" " + data

    def refusal(self, genuine, sealed):
        """Returns why a job may not run here, if so, and lets the worker pause: perhaps its own key is the wrong one."""
        if genuine and (self.keys or not sealed):
            return None
        if time.monotonic() >= self.resumes:  # several that were taken together count once
            self.pause = min(max(2 * self.pause, PAUSES[0]), PAUSES[1])
            self.resumes = time.monotonic() + self.pause * self.interval
        why = f"The job's signature is wrong, or the worker {self.worker} has another key."
        if genuine:
            why = f"The gateway reads signed answers only, and the worker {self.worker} has no key."
        logging.warning("handed back a job: %s", why)
        return why

    def is_genuine(self, job, path, headers, body, signature):
        if not self.keys:
            return True
        lines = [f"{self.prefix}:job".encode(), job.encode(), self.pool.encode(), path, headers, body]
        right = (hmac.new(key.encode(), b"\n".join(lines), hashlib.sha256).hexdigest() for key in self.keys)
        return any(hmac.compare_digest(it.encode(), signature) for it in right)
