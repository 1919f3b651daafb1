#!/usr/bin/env python3
"""pool_idle.py [SECONDS]: CPU seconds of all conclave processes of each machine of an idle pool of
three, over 60 s. Exits 1 above 0.6."""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests/e2e"))

from pool import Pool  # noqa: E402
from serving import wait_until  # noqa: E402

LIMIT_S = 0.6
LINKS = 6  # of three machines; a pool that has just come together measures each once


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main():
    length = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with Pool(2, "--shares", "1,1,1") as pool:
        pool.head.chat("Who are you?", max_tokens=8)
        machines = {"head": [pool.head.pid, pool.head.worker()]}
        machines.update({node.name: node.pids("node") for node in pool.nodes})
        wait_until(lambda: len(pool.status()["links"]) == LINKS, 30, "all links are measured")
        before = {name: cpu_seconds(pids) for name, pids in machines.items()}
        time.sleep(length)
        used = {name: cpu_seconds(pids) - before[name] for name, pids in machines.items()}
    for name, seconds in used.items():
        print(f"{name:8s} {seconds:.2f} CPU s in {length:.0f} s")
    return 1 if max(used.values()) > LIMIT_S * length / 60.0 else 0


if __name__ == "__main__":
    sys.exit(main())
