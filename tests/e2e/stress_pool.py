"""Long runs of a pool, for `./dev ci --long`.

    python3 tests/e2e/stress_pool.py losses 200    # random losses under load
    python3 tests/e2e/stress_pool.py calm 600      # seconds with both cores loaded, five machines

`losses` passes when every stream is the undisturbed one, whatever was lost and when, and when the
processes that lived through it keep no more memory and files than before. `calm` passes when nothing
was declared lost. The last line is the result.
"""

import os
import random
import signal
import subprocess
import sys
import time

import netns
from pool import Pool
from test_pool_faults import FAULTS, PAUSE_MAX_S, SLOW, TOKENS, Watched, check

MEMORY_GROWTH_MAX = 32 << 20  # bytes of one agent
WARM_UP = 12  # losses before the first count: one of every kind


def resident(pid):
    """Bytes of its own: without the shared memory of weights and KV cache."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("RssAnon"):
                return int(line.split()[1]) << 10
    raise AssertionError(f"no RssAnon of {pid}")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def counts(pool):
    return {"memory": resident(pool.head.pid), "files": descriptors(pool.head.pid)}


def losses(n):
    chance = random.Random(1)
    tally = {}
    arguments = dict(node_arguments=[SLOW, SLOW], namespaces=True)
    with Pool(2, "--shares", "1,1,1", *SLOW, **arguments) as pool:
        expected = Watched(pool).tokens
        before = None
        for i in range(n):
            name = chance.choice(list(FAULTS)) if i >= WARM_UP else list(FAULTS)[i % len(FAULTS)]
            strike, mend = FAULTS[name]
            check(pool, expected, name, strike, mend, tally, at=chance.randrange(1, TOKENS - 20))
            if i + 1 == min(WARM_UP, n):
                before = counts(pool)
            if (i + 1) % 20 == 0:
                print(f"{i + 1} losses, {counts(pool)}", flush=True)
        after = counts(pool)
    grown = after["memory"] - before["memory"]
    assert grown <= MEMORY_GROWTH_MAX, f"memory grew by {grown} bytes"
    assert after["files"] <= before["files"] + 2, f"files: {before['files']}, then {after['files']}"
    pauses = sorted(pause for of_kind in tally.values() for pause in of_kind)
    late = sum(pause > PAUSE_MAX_S for pause in pauses)
    print(f"{n} losses, every answer as without them; pause median {pauses[n // 2]:.2f} s, "
          f"longest {pauses[-1]:.2f} s, {late} above {PAUSE_MAX_S:.0f} s; "
          f"memory {grown / 1e6:+.1f} MB, files {after['files'] - before['files']:+d}")  # fmt: skip
    return late


def calm(seconds):
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count())]
    try:
        with Pool(4, "--shares", "1,1,1,1,1", namespaces=True) as pool:
            begun, answers = time.monotonic(), 0
            expected = Watched(pool, at=0).tokens
            while time.monotonic() - begun < seconds:
                assert Watched(pool, at=0).tokens == expected, "the answer changed"
                answers += 1
            status = pool.status()
        lost = [e["text"] for e in status["history"] if " lost" in e["text"] or " ends" in e["text"]]
        assert status["losses_survived"] is not None and status["epoch"] == 1, lost
        print(f"{seconds} s, 5 machines, {answers} answers, both cores loaded: nothing declared lost")
    finally:
        for process in load:
            process.send_signal(signal.SIGKILL)
            process.wait()
    return 0


def main():
    kind, amount = sys.argv[1], int(sys.argv[2])
    netns.in_namespace({"losses": 3, "calm": 5}[kind])
    sys.exit(1 if {"losses": losses, "calm": calm}[kind](amount) else 0)


if __name__ == "__main__":
    main()
