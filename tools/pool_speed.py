#!/usr/bin/env python3
"""pool_speed.py MODEL [--weights int8] [--pairs 7] [--tokens 48] [--delays 100,500]

Decode speed of two nodes with one thread each against one process with two threads, on the same two
cores. The share of the single process that could be reached is B / (B + r): B bytes are read per
token, of which r both nodes must read (`conclave model inspect`). Pairs are interleaved, each side
loaded anew; prints every pair, then medians, for each way of connecting. Speeds are means over all tokens and, in
parentheses, those of the median step: on a shared host a core is taken away now and then, which one
process evades by giving the other thread more to do, and two nodes cannot.

With --delays, in microseconds, every message takes so much longer (the Delayed transport), and a
step should be longer by that many delays as it has messages in sequence: two a layer, one that
begins it and one that ends it. Then prints measured against expected.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import local_server

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / "build/release/conclave"
LOG = ROOT / "build/logs/pool-speed.log"
WAYS = {
    "shm": [],
    "TLS": ["--no-shared-memory"],
    "clear": ["--no-shared-memory", "--private-link"],
}
START_S = 300
# `taskset -c A,B tools/pool_speed.py ...` measures on two cores of a larger machine.
CORES = sorted(os.sched_getaffinity(0))


class Process:
    def __init__(self, log, core, *arguments):
        command = [BINARY, *arguments] if core is None else ["taskset", "-c", core, BINARY, *arguments]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL,
                                        stdout=log, stderr=log)  # fmt: skip

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def wait_healthy(port):
    deadline = time.monotonic() + START_S
    while not local_server.is_healthy(port):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not ready within {START_S} s; see {LOG}")
        time.sleep(0.2)


class Speed:
    """Of several greedy answers, after the first token of each."""

    def __init__(self, port, tokens):
        self.times, self.seconds = [], 0.0
        token_times(port, 8)
        for _ in range(3):
            times = token_times(port, tokens)
            self.seconds += times[-1] - times[0]
            self.times += [b - a for a, b in zip(times, times[1:])]

    def mean(self):
        return len(self.times) / self.seconds

    def median(self):
        """At the median step: without the moments in which the host takes a core away."""
        return 1.0 / statistics.median(self.times)


def token_times(port, tokens):
    request = {"messages": [{"role": "user", "content": "x"}], "temperature": 0,
               "max_tokens": tokens, "ignore_eos": True, "logprobs": True}  # fmt: skip
    times = []
    for chunk in local_server.stream_chat(port, request):
        for choice in chunk.get("choices", []):
            times += [time.monotonic()] * len((choice.get("logprobs") or {}).get("content", []))
    if len(times) != tokens:
        raise RuntimeError(f"{len(times)} tokens instead of {tokens}")
    return times


def alone(options, log):
    port = local_server.free_port()
    server = Process(log, None, "serve", options.model, "--port", port, "--threads", 2,
                     "--weights", options.weights, "--context", 512)  # fmt: skip
    try:
        wait_healthy(port)
        return Speed(port, options.tokens)
    finally:
        server.end()


def ask(folder, *arguments):
    done = subprocess.run([BINARY, *arguments, "--state", folder / "head"], capture_output=True,
                          text=True)  # fmt: skip
    return done.stdout if done.returncode == 0 else None


def together(options, log, flags, delay_us=0, nodes=2):
    """Speed of a pool of `nodes` ranks of one thread; two have a core each, more share both."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="conclave-speed-"))
    port = local_server.free_port()
    shared = ["--threads", 1, "--bandwidth", 20, "--delay-us", delay_us, *flags]
    processes = []
    shares = ",".join(["1"] * nodes)
    cores = CORES[:2] if nodes == 2 else [None] * nodes
    try:
        processes.append(Process(log, cores[0], "serve", options.model, "--port", port, "--weights",
                                 options.weights, "--context", 512, "--pool", "--pool-host",
                                 "127.0.0.1", "--pool-port", 0, "--nodes", nodes, "--survive", 0,
                                 "--shares", shares, "--state", folder / "head", *shared))  # fmt: skip
        for i in range(1, nodes):
            code = None
            while code is None:
                time.sleep(0.1)
                code = ask(folder, "pair", "--json")
            processes.append(Process(log, cores[i], "node", "--join", json.loads(code)["code"],
                                     "--name", f"node-{i}", "--models", options.model, "--state",
                                     folder / f"node-{i}", *shared))  # fmt: skip
        wait_healthy(port)
        return Speed(port, options.tokens)
    finally:
        for process in reversed(processes):
            process.end()
        shutil.rmtree(folder, ignore_errors=True)


def delayed(options, log, delays):
    config = json.loads((pathlib.Path(options.model) / "config.json").read_text())
    rounds = 2 * config["num_hidden_layers"] + 2
    errors = {delay: [] for delay in delays}
    for _ in range(options.pairs):
        base = 1.0 / together(options, log, WAYS["shm"]).median()
        for delay in delays:
            step = 1.0 / together(options, log, WAYS["shm"], delay).median()
            expected = base + rounds * delay * 1e-6
            errors[delay].append(step / expected - 1.0)
            print(f"delay {delay:4d} us  step {step * 1e3:6.2f} ms  expected {expected * 1e3:6.2f} ms"
                  f"  {errors[delay][-1]:+6.1%}", flush=True)  # fmt: skip
    for delay in delays:
        median = statistics.median(errors[delay])
        print(f"delay {delay:4d} us  {rounds} rounds, median {median:+.1%} of compute + rounds x delay")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--delays", default="")
    options = parser.parse_args()
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        if options.delays:
            return delayed(options, log, [int(delay) for delay in options.delays.split(",")])
        for way in options.ways.split(","):
            means, medians = [], []
            for _ in range(options.pairs):
                one = alone(options, log)
                two = together(options, log, WAYS[way])
                means.append(two.mean() / one.mean())
                medians.append(two.median() / one.median())
                print(f"{way:6s} one process {one.mean():6.2f} ({one.median():6.2f})  two nodes "
                      f"{two.mean():6.2f} ({two.median():6.2f}) tok/s  share {means[-1]:.3f} "
                      f"({medians[-1]:.3f})", flush=True)  # fmt: skip
            print(f"{way:6s} median share {statistics.median(means):.3f}, at the median step "
                  f"{statistics.median(medians):.3f}", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
