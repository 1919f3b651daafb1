"""Compares the engine with the float64 reference on the toy checkpoints of make_toys.py.

Usage: python3 check_toys.py --conclave PROGRAM --toys DIR [--only NAME]
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
import sys
from typing import Callable

import numpy as np

from conclave_cli import Conclave, Report, RunError, read_experts, relative_errors

EXACT_ERROR_MAX = 1e-4
FAST_MEDIAN_MAX = 0.05
FAST_FORCED_P99_MAX = 0.03
# Of what rounding activations costs by itself, where that is more. Which values round up differs;
# and in short chunks the engine also rounds what meets the two halves of kv_b.
FORCED = {"at once": ([], 1.15), "decode": (["--chunk", "1"], 1.3)}
NLL_ERROR_MAX = 1e-4
CHUNKS = {"exact": [], "exact, chunks of 7": ["--chunk", "7"], "exact, decode": ["--chunk", "1"]}


class ToyCheck:
    """All checks of one toy folder."""

    def __init__(self, conclave: Conclave, folder: pathlib.Path, report: Report) -> None:
        expected = json.loads((folder / "expected.json").read_text())
        self._conclave = conclave
        self._folder = folder
        self._report = report
        self._ids: list[int] = expected["ids"]
        self._nll: float = expected["nll"]
        self._rounding_p99: float = expected["rounding_p99"]
        self._experts = np.sort(np.array(expected["experts"]), axis=2)
        flat = np.fromfile(folder / expected["logits"], dtype="<f4").astype(np.float64)
        self._logits = flat.reshape(len(self._ids), -1)

    def run(self) -> None:
        """Runs every check; one that cannot run counts as failed."""
        for name, options in CHUNKS.items():
            self._guard(name, functools.partial(self._exact, options))
        self._guard("fast, median", self._fast)
        for name, (options, margin) in FORCED.items():
            self._guard(f"fast with the experts of exact, {name}, p99",
                        functools.partial(self._fast_forced, options, margin))
        self._guard("perplexity", self._perplexity)

    def _guard(self, name: str, check: Callable[[], tuple[float, float]]) -> None:
        label = f"{self._folder.name}, {name}"
        try:
            self._report.below(label, *check())
        except (RunError, OSError, KeyError, ValueError) as error:
            self._report.check(label, False, str(error))

    def _exact(self, options: list[str]) -> tuple[float, float]:
        dump = self._conclave.scratch("experts.json")
        dump.unlink(missing_ok=True)
        logits = self._conclave.logits(self._folder, self._ids, "--exact", "--dump-experts", dump,
                                       *options)
        same = np.array_equal(read_experts(dump), self._experts)
        name = f"{self._folder.name}, experts {' '.join(options)}".rstrip()
        self._report.check(name, same, "as expected" if same else "others chosen")
        return float(relative_errors(logits, self._logits).max()), EXACT_ERROR_MAX

    def _fast(self) -> tuple[float, float]:
        errors = relative_errors(self._conclave.logits(self._folder, self._ids), self._logits)
        return float(np.median(errors)), FAST_MEDIAN_MAX

    def _fast_forced(self, options: list[str], margin: float) -> tuple[float, float]:
        experts = self._conclave.scratch("forced.json")
        experts.write_text(json.dumps(self._experts.tolist()))
        logits = self._conclave.logits(self._folder, self._ids, "--force-experts", experts,
                                       *options)
        p99 = float(np.quantile(relative_errors(logits, self._logits), 0.99))
        return p99, max(FAST_FORCED_P99_MAX, margin * self._rounding_p99)

    def _perplexity(self) -> tuple[float, float]:
        nll = self._conclave.nll(self._folder, self._ids, "--exact")
        return abs(nll - self._nll), NLL_ERROR_MAX


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conclave", type=pathlib.Path, required=True)
    parser.add_argument("--toys", type=pathlib.Path, required=True)
    parser.add_argument("--only", help="one toy by name")
    arguments = parser.parse_args()
    report = Report()
    conclave = Conclave(arguments.conclave)
    for expected in sorted(arguments.toys.glob("*/expected.json")):
        if arguments.only in (None, expected.parent.name):
            ToyCheck(conclave, expected.parent, report).run()
    conclave.close()
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
