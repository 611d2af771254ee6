"""A queue under load, with real processes: two builds without a setting, a rolling update, conversations.

Run by scripts/queue-load. SEED, PARTS (builds update sessions) and SHORT=1 may be in the environment. The short form
prints the figures that depend on an otherwise idle machine, and does not judge them.
"""

import asyncio
import os
import sys
import time

from builds import rolling_update, two_builds
from sessions import sessions

SHORT = bool(os.environ.get("SHORT"))
SEED = int(os.environ.get("SEED") or time.time())
PARTS = os.environ.get("PARTS", "builds update sessions").split()


async def main():
    faults = []
    print(f"queue load with seed {SEED}", flush=True)
    if "builds" in PARTS:
        await two_builds(5 if SHORT else 60, SEED, faults.append)
    if "update" in PARTS:
        await rolling_update(2 if SHORT else 10, SEED, not SHORT, faults.append)
    if "sessions" in PARTS:
        await sessions(*((40, 10) if SHORT else (200, 20)), SEED, not SHORT, faults.append)
    for fault in faults:
        print(f"NOT MET    {fault}")
    if faults:
        sys.exit(f"{len(faults)} faults")
    print("met        no build got another's jobs, none ran at two versions, and conversations stayed in order and at their worker")


asyncio.run(main())
