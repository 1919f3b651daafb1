#!/usr/bin/env python3
"""predict_pool.py MODEL [--weights int8] [--runs 7] [--nodes 1,2,3] [--pace 0.6]

Predicts what a pool of one-thread ranks on this machine will do, and measures it. Before and after
each measurement of the pool: `conclave probe` once per rank, all at the same time, since the ranks
share this machine's memory as well; `conclave plan` with what they found, for equal shares, as the
measured pool has them. Where there are more ranks than cores, ranks and probes compute only --pace
of the time. Exit status 1: a median above --limit.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import pool_speed
from prediction_error import median_error

# Messages of 28 KB through shared memory, measured: docs/cluster.md.
LINK = """[[link]]
name = "this-machine"
title = "shared memory"
transport = "shared-memory"
latency_us = 5
bandwidth_gb_s = 8
"""


def probes(nodes, pace, folder):
    """Machine entries, measured side by side."""
    running = []
    for i in range(nodes):
        command = [pool_speed.BINARY, "probe", "--threads", "1", "--name", f"rank-{i}", "--pace",
                   str(pace), "--out", folder / f"{i}.toml"]  # fmt: skip
        if nodes == 2:
            command = ["taskset", "-c", str(pool_speed.CORES[i]), *command]
        running.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, text=True))  # fmt: skip
    for process in running:
        _, errors = process.communicate()
        if process.returncode != 0:
            sys.exit(f"conclave probe: {errors}")
    return [(folder / f"{i}.toml").read_text() for i in range(nodes)]


def even_software():
    """The catalogue's conclave, dividing as pool_speed.py's pools do: evenly."""
    text = (pool_speed.ROOT / "data/software.toml").read_text()
    entry = text[text.index("[[software]]") :].split("[[software]]")[1]
    return "[[software]]" + entry.replace("equal_shares = false", "equal_shares = true")


def predicted(options, nodes, pace, folder):
    cluster = folder / "cluster.toml"
    cluster.write_text(
        f"""name = "pool"
allow_uneven = true
use_all = true
strategy = "slice"
[workload]
context = {options.tokens // 2}
reserve = 512
prompt = 64
"""
        + LINK
        + even_software()
        + "".join(probes(nodes, pace, folder))
    )
    done = subprocess.run(
        list(map(str, [pool_speed.BINARY, "plan", cluster, "--model", options.model, "--weights",
                       options.weights, "--json"])),
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"conclave plan: {done.stderr}")
    return json.loads(done.stdout)["prediction"]["tokens_per_second"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--nodes", default="1,2,3")
    parser.add_argument("--pace", type=float, default=0.6)
    parser.add_argument("--limit", type=float, default=0.12)
    options = parser.parse_args()
    failed = False
    pool_speed.LOG.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, pool_speed.LOG.open("wb") as log:
        for nodes in map(int, options.nodes.split(",")):
            pace = options.pace if nodes > len(pool_speed.CORES) else 1.0
            median = median_error(
                f"{nodes} ranks",
                options.runs,
                lambda n=nodes, p=pace: predicted(options, n, p, pathlib.Path(folder)),
                lambda n=nodes, p=pace: pool_speed.together(
                    options, log, ["--pace", p], nodes=n
                ).median(),
            )
            failed = failed or median > options.limit
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
