"""Compares the engine with Ember's golden answers and its held-out text.

Usage: python3 check_ember.py --conclave PROGRAM [--model DIR]

golden.json and heldout.json were computed by transformers in float32. Every prompt is run once
over its ids and its greedy answer (teacher forcing), so a wrong token does not hide later ones.
The held-out negative log-likelihood is the mean over ids[1:], each given all ids before it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from typing import Any

import numpy as np

from conclave_cli import Conclave, Report, RunError, relative_errors

EXACT_LOGIT_ERROR_MAX = 0.02
EXACT_MARGIN_MIN = 1e-3
FAST_MARGIN_MIN = 0.5
FAST_MEDIAN_MAX = 2.5e-2
FAST_FORCED_P99_MAX = 3e-2
EXACT_NLL_ERROR_MAX = 1e-3
FAST_NLL_ERROR_MAX = 0.01
DEFAULT_MODEL = pathlib.Path(__file__).resolve().parents[2] / "models" / "ember"


@dataclasses.dataclass
class Forced:
    """One golden prompt run three ways; logits are [positions, vocab]."""

    golden: dict[str, Any]
    exact: np.ndarray
    fast: np.ndarray
    fast_forced: np.ndarray

    @property
    def first_answer(self) -> int:
        """Position whose logits choose the first token of the answer."""
        return len(self.golden["ids"]) - 1


def run_golden(conclave: Conclave, model: pathlib.Path, golden: dict[str, Any]) -> Forced:
    """Runs one prompt with its answer: exact, fast, and fast with the experts of exact."""
    ids = golden["ids"] + golden["greedy"][:-1]
    experts = conclave.scratch("experts.json")
    experts.unlink(missing_ok=True)
    exact = conclave.logits(model, ids, "--exact", "--dump-experts", experts)
    fast = conclave.logits(model, ids)
    forced = conclave.logits(model, ids, "--force-experts", experts)
    return Forced(golden, exact, fast, forced)


def top_logit_error(run: Forced) -> float:
    """Returns the largest error of the golden top logits of the first answer token."""
    row = run.exact[run.first_answer]
    return float(np.abs(row[run.golden["top10_ids"]] - run.golden["top10_logits"]).max())


def changed_choices(run: Forced, logits: np.ndarray, margin_min: float) -> int:
    """Counts answer tokens of a clear margin for which another token is now first."""
    choices = logits[run.first_answer:].argmax(axis=1)
    clear = np.array(run.golden["margins"]) > margin_min
    return int(np.sum(clear & (choices != np.array(run.golden["greedy"]))))


def check_golden(report: Report, runs: list[Forced]) -> None:
    """Checks exact and fast logits over all prompts."""
    report.below("exact, top-10 logits of the first answer token",
                 max(top_logit_error(run) for run in runs), EXACT_LOGIT_ERROR_MAX)
    total = sum(len(run.golden["greedy"]) for run in runs)
    exact = sum(changed_choices(run, run.exact, EXACT_MARGIN_MIN) for run in runs)
    report.check(f"exact, greedy choices of margin > {EXACT_MARGIN_MIN:g}", exact == 0,
                 f"{exact} of {total} changed")
    fast = sum(changed_choices(run, run.fast, FAST_MARGIN_MIN) for run in runs)
    report.check(f"fast, greedy choices of margin > {FAST_MARGIN_MIN:g}", fast == 0,
                 f"{fast} of {total} changed")


def check_fast_error(report: Report, runs: list[Forced]) -> None:
    """Checks the fast path against the exact one over the whole vocabulary, at all positions."""
    errors = np.concatenate([relative_errors(run.fast, run.exact) for run in runs])
    forced = np.concatenate([relative_errors(run.fast_forced, run.exact) for run in runs])
    answers = np.concatenate(
        [relative_errors(run.fast, run.exact)[run.first_answer:] for run in runs])
    print(f"     fast against exact, {len(errors)} positions: median {np.median(errors):.3g}, "
          f"p99 {np.quantile(errors, 0.99):.3g}, max {errors.max():.3g}; "
          f"answers alone: median {np.median(answers):.3g}")
    print(f"     with the experts of exact: median {np.median(forced):.3g}, "
          f"p99 {np.quantile(forced, 0.99):.3g}, max {forced.max():.3g}")
    report.below("fast against exact, median relative error", float(np.median(errors)),
                 FAST_MEDIAN_MAX)
    report.below("fast with the experts of exact, p99 relative error",
                 float(np.quantile(forced, 0.99)), FAST_FORCED_P99_MAX)


def check_heldout(report: Report, conclave: Conclave, model: pathlib.Path) -> None:
    """Checks the held-out negative log-likelihood of both paths."""
    heldout = json.loads((model / "heldout.json").read_text())
    expected = heldout["nll"]
    for name, options, bound in (("exact", ["--exact"], EXACT_NLL_ERROR_MAX),
                                 ("fast", [], FAST_NLL_ERROR_MAX)):
        found = conclave.nll(model, heldout["ids"], *options)
        report.below(f"{name}, held-out nll {found:.6f} against {expected:.6f}",
                     abs(found - expected), bound)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conclave", type=pathlib.Path, required=True)
    parser.add_argument("--model", type=pathlib.Path, default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    report = Report()
    conclave = Conclave(arguments.conclave)
    golden = json.loads((arguments.model / "golden.json").read_text())
    try:
        runs = [run_golden(conclave, arguments.model, entry) for entry in golden]
        check_golden(report, runs)
        check_fast_error(report, runs)
        check_heldout(report, conclave, arguments.model)
    except (RunError, OSError, KeyError, ValueError) as error:
        report.check("run", False, str(error))
    conclave.close()
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
