"""Writes small random checkpoints in the official layout, each with its expected results.

Usage: python3 make_toys.py OUT_DIR [--only NAME]

Every folder holds config.json, the weights, and from the float64 reference:
  expected.json   {"ids", "logits": file name, "experts" [position][MoE layer][k], "nll",
                   "rounding_p99": what rounding activations to int8 costs by itself}
  expected.f32    logits, little-endian float32 [positions, vocab]
The same seed gives the same bytes. Ids are redrawn until no routing decision is nearly a tie, so
that a float32 engine must choose the same experts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import zlib
from typing import Any, Callable, Iterable

import numpy as np

from conclave_cli import relative_errors
from model import Model, Output, mean_nll
from safetensors_io import split_shards, write_folder
from toy_specs import ToySpec, all_specs, config_json
from toy_weights import ToyBuilder

POSITIONS = 300
MARGIN_MIN = 1e-4
DRAWS_MAX = 500


def draw_ids(model: Model, seed: int) -> tuple[list[int], Output]:
    """Draws random ids until every routing margin in their forward pass is wide enough."""
    for draw in range(DRAWS_MAX):
        rng = np.random.default_rng([seed, draw])
        ids = [int(i) for i in rng.integers(0, model.config.vocab_size, POSITIONS)]
        output = model.forward(ids)
        if output.margin >= MARGIN_MIN:
            return ids, output
    raise RuntimeError(f"no ids with routing margins above {MARGIN_MIN} in {DRAWS_MAX} draws")


def rounding_p99(rounded: Model, ids: list[int], exact: Output) -> float:
    """The 99th percentile of the positions' relative errors in float64 with rounded activations
    and the experts of the exact pass: about what any kernel that rounds so loses."""
    logits = rounded.forward(ids, exact.experts).logits
    return float(np.quantile(relative_errors(logits, exact.logits), 0.99))


def write_expected(folder: pathlib.Path, ids: list[int], output: Output, rounded: Model) -> None:
    """Writes expected.json and expected.f32."""
    output.logits.astype("<f4").tofile(folder / "expected.f32")
    expected = {"ids": ids, "logits": "expected.f32", "experts": output.experts.tolist(),
                "nll": mean_nll(output.logits, ids),
                "rounding_p99": rounding_p99(rounded, ids, output)}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def write_checkpoint(spec: ToySpec, folder: pathlib.Path) -> int:
    """Writes the config and the weights; returns the seed."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config_json(spec), indent=2) + "\n")
    seed = zlib.crc32(spec.name.encode())
    tensors = ToyBuilder(spec, seed).build()
    write_folder(folder, split_shards(tensors, spec.shards))
    return seed


def make_toy(spec: ToySpec, out: pathlib.Path) -> None:
    """Writes one toy, replacing an older one."""
    folder = out / spec.name
    shutil.rmtree(folder, ignore_errors=True)
    seed = write_checkpoint(spec, folder)
    ids, output = draw_ids(Model(folder), seed)
    whole_numbers = spec.experts in ("INT4", "MXFP4")
    write_expected(folder, ids, output,
                   Model(folder, lambda name: whole_numbers and ".experts." in name))
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    spread = float(output.logits.std())
    print(f"{spec.name}: {size / 1e6:.2f} MB, logits std {spread:.2f}, "
          f"routing margin {output.margin:.1e}, nll {mean_nll(output.logits, ids):.4f}", flush=True)


def make_from_arguments(title: str, specs: Iterable[Any],
                        make: Callable[[Any, pathlib.Path], None]) -> None:
    """Command line of a maker of toys: all of them, or the one that is named."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--only", help="one toy by name")
    arguments = parser.parse_args()
    for spec in specs:
        if arguments.only in (None, spec.name):
            make(spec, arguments.out)


if __name__ == "__main__":
    make_from_arguments(__doc__.splitlines()[0], all_specs(), make_toy)
