"""Runs the conclave program and reads what it prints."""

from __future__ import annotations

import json
import pathlib
import subprocess
import tempfile
from typing import Sequence

import numpy as np

ALL_LOGITS = "999999"
SECONDS_MAX = 300


class RunError(Exception):
    """A run that failed, or printed what it should not."""


class Conclave:
    """One built program. Keeps its scratch files in a temporary folder until `close`."""

    def __init__(self, program: pathlib.Path) -> None:
        self._program = program
        self._scratch = tempfile.TemporaryDirectory(prefix="conclave-check-")

    def close(self) -> None:
        """Removes the scratch files."""
        self._scratch.cleanup()

    def scratch(self, name: str) -> pathlib.Path:
        """Returns the path of a scratch file."""
        return pathlib.Path(self._scratch.name) / name

    def run(self, *arguments: str | pathlib.Path) -> subprocess.CompletedProcess[str]:
        """Runs the program to its end, whatever its exit status."""
        command = [str(self._program), *(str(argument) for argument in arguments)]
        try:
            return subprocess.run(command, capture_output=True, text=True, errors="replace",
                                  timeout=SECONDS_MAX, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired as error:
            raise RunError(f"no end after {SECONDS_MAX} s: {' '.join(command)}") from error

    def json(self, *arguments: str | pathlib.Path) -> dict:
        """Runs the program and parses its output; it must succeed."""
        result = self.run(*arguments)
        if result.returncode != 0:
            raise RunError(f"exit {result.returncode}: {result.stderr.strip()}")
        try:
            return json.loads(result.stdout)
        except json.JSONDecodeError as error:
            raise RunError(f"output is not JSON: {error}") from error

    def ids_file(self, ids: Sequence[int]) -> pathlib.Path:
        """Writes ids for --ids."""
        path = self.scratch("ids.json")
        path.write_text(json.dumps(list(ids)))
        return path

    def logits(self, model: pathlib.Path, ids: Sequence[int],
               *options: str | pathlib.Path) -> np.ndarray:
        """Returns the logits [positions, vocab] of a whole sequence."""
        output = self.json("logits", model, "--ids", self.ids_file(ids), "--top", ALL_LOGITS,
                           *options)
        return logits_matrix(output, len(ids))

    def nll(self, model: pathlib.Path, ids: Sequence[int], *options: str) -> float:
        """Returns the mean negative log-likelihood of ids[1:]."""
        output = self.json("perplexity", model, "--ids", self.ids_file(ids), "--json", *options)
        if output["tokens"] != len(ids) - 1:
            raise RunError(f"{output['tokens']} tokens predicted, {len(ids) - 1} expected")
        return output["nll"]


def logits_matrix(output: dict, count: int) -> np.ndarray:
    """Turns the printed positions, each best first, into a matrix [positions, vocab]."""
    positions = output["positions"]
    if len(positions) != count:
        raise RunError(f"{len(positions)} positions printed, {count} expected")
    vocab = len(positions[0]["ids"])
    matrix = np.full((count, vocab), np.nan)
    for row, position in zip(matrix, positions):
        order, values = np.array(position["ids"]), np.array(position["logits"], dtype=np.float64)
        if sorted(order) != list(range(vocab)) or np.any(np.diff(values) > 0):
            raise RunError("a position's ids are not all ids, or not best first")
        row[order] = values
    return matrix


def read_experts(path: pathlib.Path) -> np.ndarray:
    """Reads a --dump-experts file as [positions, MoE layers, k], each choice sorted by id."""
    dumped = json.loads(path.read_text())
    experts = dumped["experts"] if isinstance(dumped, dict) else dumped
    return np.sort(np.array(experts, dtype=np.int64), axis=2)


def relative_errors(actual: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Returns |actual - expected| / |expected| of each position."""
    difference = np.linalg.norm(actual - expected, axis=1)
    return difference / np.linalg.norm(expected, axis=1)


class Report:
    """Prints one line per check and counts the failures."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0

    def check(self, name: str, passed: bool, figures: str) -> None:
        """Records one check."""
        self.passed += passed
        self.failed += not passed
        print(f"{'ok  ' if passed else 'FAIL'} {name}: {figures}", flush=True)

    def below(self, name: str, value: float, bound: float) -> None:
        """Checks that a value is below a bound; NaN is not."""
        self.check(name, bool(value < bound), f"{value:.3g} (bound {bound:g})")

    def close(self) -> int:
        """Prints the totals and returns the exit status."""
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0
