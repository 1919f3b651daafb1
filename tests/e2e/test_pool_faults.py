"""Faults while an answer streams: the same stream goes on, with the tokens of an undisturbed run.

    python3 tests/e2e/test_pool_faults.py [--times N] [NAME ...]     # default: each once

Real processes in network namespaces. Faults fire at a token's index. Prints the longest pause of
each stream, and with --times the median and the maximum.
"""

import json
import os
import signal
import statistics
import sys
import threading
import time

import netns
from pool import Pool
from serving import wait_until

PAUSE_MAX_S = 3.0
TOKENS = 160
AT = 40  # token at which a fault fires
PROMPT = "Tell me a story about a king and his three sons."
LONG_PROMPT = "Tell me a story about a king and his three sons. " * 120
FIELDS = dict(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=True)
SLOW = ("--delay-us", "1500")  # so that a fault meets an answer in progress


def host(pool, name):
    return pool.nodes.index(pool.node(name)) + 1


# Each: (what happens, how it is undone). The head is called "head", the nodes node-a and node-b.
def kill(name, which):
    def strike(pool):
        pool.node(name).kill(which)

    def mend(pool):
        node = pool.node(name)
        if which != "worker":
            node.start()

    return strike, mend


def freeze(name, which):
    return (lambda pool: pool.node(name).freeze(which)), (lambda pool: pool.node(name).thaw("node"))


def head_worker(number):
    def strike(pool):
        os.kill(pool.head.worker(), number)

    return strike, lambda pool: None


def both_workers(pool):
    for name in ("node-a", "node-b"):
        pool.node(name).kill("worker")


def nothing(pool):
    pass


FAULTS = {
    "worker killed": kill("node-a", "worker"),
    "agent killed": kill("node-a", "agent"),
    "node killed": kill("node-a", "node"),
    "head's worker killed": head_worker(signal.SIGKILL),
    "worker stopped": freeze("node-a", "worker"),
    "agent stopped": freeze("node-a", "agent"),
    "node stopped": freeze("node-a", "node"),
    "head's worker stopped": head_worker(signal.SIGSTOP),
    "interface down": (
        lambda pool: netns.interface(host(pool, "node-a"), False),
        lambda pool: netns.interface(host(pool, "node-a"), True),
    ),
    "cable pulled": (
        lambda pool: netns.cable(host(pool, "node-a"), False),
        lambda pool: netns.cable(host(pool, "node-a"), True),
    ),
    "half-open link": (
        lambda pool: netns.half_open(host(pool, "node-a"), True),
        lambda pool: netns.half_open(host(pool, "node-a"), False),
    ),
    "both workers killed": (both_workers, nothing),
}


class Watched:
    """One stream, its longest pause, and what to do at token `at`."""

    def __init__(self, pool, prompt=PROMPT, at=AT, strike=None):
        self.pause = 0.0
        self.tokens = []
        self.finish = None
        self.error = None
        stream = pool.head.stream(prompt, **FIELDS)
        last = time.monotonic()
        for chunk in stream:
            now = time.monotonic()
            self.pause = max(self.pause, now - last)
            last = now
            if "error" in chunk:
                self.error = chunk["error"]
                break
            for choice in chunk["choices"]:
                for token in (choice.get("logprobs") or {}).get("content", []):
                    self.tokens.append(tuple(token["bytes"]))
                    if len(self.tokens) == at and strike:
                        strike(pool)
                self.finish = choice["finish_reason"] or self.finish
        self.done = stream.done
        stream.close()


def check(pool, expected, name, strike, mend, tally, at=AT):
    seen = Watched(pool, at=at, strike=strike)
    assert seen.error is None, f"{name}: {seen.error}"
    assert seen.done and seen.finish == "length", f"{name}: {seen.done} {seen.finish}"
    assert seen.tokens == expected, f"{name}: the answer changed"
    tally.setdefault(name, []).append(seen.pause)
    mend(pool)
    pool.wait_running(3, 60)
    # A machine that came back takes part again when nobody is disturbed by it. What others took over
    # meanwhile they may keep: then more than one loss is survived.
    wait_until(lambda: pool.status()["losses_survived"] >= 1, 30, "backups are there again")


def loss_during_prefill(pool, _, tally):
    expected = Watched(pool, LONG_PROMPT, at=0)
    assert expected.done, expected.error
    timer = threading.Timer(0.05, lambda: pool.node("node-b").kill("node"))
    timer.start()
    seen = Watched(pool, LONG_PROMPT, at=0)
    timer.join()
    assert seen.done and seen.tokens == expected.tokens, "loss during prefill"
    tally.setdefault("loss during prefill", []).append(seen.pause)
    pool.node("node-b").start()
    pool.wait_running(3, 60)


def two_losses(pool, expected, tally):
    """Both nodes one after the other; the head can hold the whole model alone."""

    seen = Watched(pool, strike=lambda p: p.node("node-a").kill("node"))
    assert seen.tokens == expected, "first of two losses"
    wait_until(lambda: not pool.status()["rebuilding"], 20, "the rebuild")
    seen = Watched(pool, strike=lambda p: p.node("node-b").kill("node"))
    assert seen.tokens == expected, "second of two losses"
    tally.setdefault("two losses in a row", []).append(seen.pause)
    for name in ("node-a", "node-b"):
        pool.node(name).start()
    pool.wait_running(3, 60)


def loss_during_load(tally):
    pool = Pool(2, "--shares", "1,1,1", *SLOW, node_arguments=[SLOW, SLOW], namespaces=True,
                wait=False)  # fmt: skip
    with pool:
        wait_until(lambda: pool.status()["phase"] != "gathering", 20, "the model is divided")
        pool.node("node-a").kill("node")
        begun = time.monotonic()
        pool.head.wait_ready(60)
        status, _ = pool.head.chat("Who are you?", max_tokens=8)
        assert status == 200
        tally.setdefault("loss during load", []).append(time.monotonic() - begun)


# Stories of more than one stream, by name as FAULTS are.
STORIES = {"loss during prefill": loss_during_prefill, "two losses in a row": two_losses}
LOADING = "loss during load"


def main():
    netns.in_namespace(3)
    arguments = sys.argv[1:]
    times = 1
    if "--times" in arguments:
        at = arguments.index("--times")
        times = int(arguments[at + 1])
        del arguments[at : at + 2]
    tally = {}
    unknown = set(arguments) - {*FAULTS, *STORIES, LOADING}
    if unknown:
        sys.exit(f"no such fault: {sorted(unknown)}; there are {[*FAULTS, *STORIES, LOADING]}")
    names = [n for n in FAULTS if not arguments or n in arguments]
    stories = [n for n in STORIES if not arguments or n in arguments]
    with Pool(2, "--shares", "1,1,1", *SLOW, node_arguments=[SLOW, SLOW], namespaces=True) as pool:
        expected = Watched(pool).tokens
        assert len(expected) == TOKENS
        for turn in range(times):
            for name in names:
                strike, mend = FAULTS[name]
                check(pool, expected, name, strike, mend, tally)
                print(f"{name:24s} pause {tally[name][-1]:5.2f} s", flush=True)
            for name in stories:
                STORIES[name](pool, expected, tally)
        history = [entry["text"] for entry in pool.status()["history"]]
    if not arguments or LOADING in arguments:
        for _ in range(times):
            loss_during_load(tally)
    print(f"\n{'fault':26s} {'median':>8s} {'max':>8s} of {times}")
    for name, pauses in tally.items():
        print(f"{name:26s} {statistics.median(pauses):8.2f} {max(pauses):8.2f} s")
    late = {name: max(p) for name, p in tally.items() if max(p) > PAUSE_MAX_S}
    if late:
        print(json.dumps(history[-40:], indent=1))
        sys.exit(f"longer than {PAUSE_MAX_S} s: {late}")


if __name__ == "__main__":
    main()
