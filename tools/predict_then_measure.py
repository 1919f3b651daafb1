#!/usr/bin/env python3
"""Predicts a model's decode speed on this machine and measures it, several times.

  tools/predict_then_measure.py MODEL [--weights int8] [--threads 1,2] [--runs 7]

Each run is `conclave bench --runs 1`; before and after it, `conclave probe` and `conclave plan` with
what that found, so that predictions and measurement share the minute.

Prints every run, then the median error for each number of threads; the exit status is 1 when one is
above --limit.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from prediction_error import median_error

ROOT = pathlib.Path(__file__).resolve().parent.parent
DECODE_TOKENS = 48


def conclave(*arguments):
    done = subprocess.run(
        [ROOT / "build/release/conclave", *map(str, arguments)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"conclave {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def predicted(model, weights, threads, folder):
    entry = folder / "probe.toml"
    conclave("probe", "--threads", threads, "--name", "here", "--out", entry)
    names = [line.split('"')[1] for line in entry.read_text().splitlines() if line.startswith("name")]
    plan = conclave(
        "plan", "--catalogue", entry, "--machines", names[0], "--model", model, "--weights", weights,
        "--context", DECODE_TOKENS // 2, "--reserve", 1024, "--prompt", 64, "--json",
    )  # fmt: skip
    return json.loads(plan)["prediction"]["tokens_per_second"]


def measured(model, weights, threads):
    bench = conclave(
        "bench", model, "--weights", weights, "--threads", threads, "--runs", 1, "--prefill", 8,
        "--decode", DECODE_TOKENS, "--json",
    )  # fmt: skip
    rows = {row["name"]: row for row in json.loads(bench)["results"]}
    return rows["decode"]["tokens_per_second"]["median"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--weights", default="native", choices=["native", "int8", "int4"])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--limit", type=float, default=0.12, help="median error that passes")
    options = parser.parse_args()

    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads.split(","):
            median = median_error(
                f"{threads} threads",
                options.runs,
                lambda t=threads: predicted(options.model, options.weights, t, pathlib.Path(folder)),
                lambda t=threads: measured(options.model, options.weights, t),
            )
            failed = failed or median > options.limit
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
