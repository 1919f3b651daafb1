"""Writes the golden vectors of the quantised formats: bytes as files hold them, and what other
programs' decoders (gguf-py, mlx) make of them.

Usage: python3 format_vectors.py --out tests/golden/formats

By hand, not in CI: needs the packages gguf and mlx[cpu]. src/model/golden_formats_test.cc compares
our decoders with the result, bit for bit.
"""

from __future__ import annotations

import argparse
import pathlib

import gguf
import mlx.core as mx
import numpy as np

from safetensors_io import Tensor, native, write_file

BLOCKS = 12
MLX_ROWS = 4
MLX_COLS = 128
# Type -> where its float16 scales lie in a block.
GGUF_SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_XS": [0], "MXFP4": [],
}
# Zero, one, the smallest subnormal, the largest number, and negative ones.
EDGE_SCALES = np.array([0.0, 1.0, 6e-8, 65504.0, -0.25, -65504.0], dtype=np.float16)
MLX_TYPES = {"BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}


def random_blocks(rng: np.random.Generator, name: str) -> np.ndarray:
    """Returns blocks of random bits with finite scales, then some of all ones and all zeros."""
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    blocks = rng.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    blocks[-1], blocks[-2] = 255, 0
    for place in GGUF_SCALES[name]:
        scales = rng.normal(0.0, 0.1, BLOCKS).astype(np.float16)
        scales[:len(EDGE_SCALES)] = np.roll(EDGE_SCALES, place // 2)
        blocks[:, place:place + 2] = scales.view(np.uint8).reshape(-1, 2)
    if name == "MXFP4":
        blocks[:, 0] = np.linspace(0, 252, BLOCKS).astype(np.uint8)
    return blocks


def gguf_vectors(rng: np.random.Generator) -> dict[str, Tensor]:
    """Returns NAME.blocks and NAME.values for each type of GGUF."""
    tensors = {}
    for name in GGUF_SCALES:
        blocks = random_blocks(rng, name)
        values = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name])
        tensors[f"{name}.blocks"] = native("U8", blocks)
        tensors[f"{name}.values"] = native("F32", values)
    return tensors


def mlx_vectors(rng: np.random.Generator) -> dict[str, Tensor]:
    """Returns weight, scales, biases and values for each number of bits and size of group."""
    tensors = {}
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            for dtype in MLX_TYPES if bits in (3, 4, 8) else ["BF16"]:
                tensors.update(mlx_matrix(rng, bits, group, dtype))
    return tensors


def mlx_matrix(rng: np.random.Generator, bits: int, group: int, dtype: str) -> dict[str, Tensor]:
    """Random words and scales. Values are decoded with float32 scales, as matrix products do."""
    words = rng.integers(0, 2**32, (MLX_ROWS, MLX_COLS * bits // 32), dtype=np.uint32)
    shape = (MLX_ROWS, MLX_COLS // group)
    scales = mx.array(rng.normal(0, 0.1, shape).astype(np.float32)).astype(MLX_TYPES[dtype])
    biases = mx.array(rng.normal(0, 1.0, shape).astype(np.float32)).astype(MLX_TYPES[dtype])
    values = mx.dequantize(mx.array(words), scales.astype(mx.float32), biases.astype(mx.float32),
                           group_size=group, bits=bits)
    name = f"b{bits}.g{group}.{dtype}"
    tensors = {f"{name}.weight": native("U32", words),
               f"{name}.values": native("F32", np.array(values))}
    for part, array in (("scales", scales), ("biases", biases)):
        raw = np.array(array if dtype == "F32" else array.view(mx.uint16))
        tensors[f"{name}.{part}"] = Tensor(dtype, raw)
    return tensors


def main() -> None:
    """Parses the command line and writes all vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    write_file(out / "gguf.safetensors", gguf_vectors(rng))
    write_file(out / "mlx.safetensors", mlx_vectors(rng))


if __name__ == "__main__":
    main()
