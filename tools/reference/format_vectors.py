"""Writes the golden vectors of the quantised formats: bytes as files hold them, and what other
programs' decoders (gguf-py, mlx, compressed-tensors) make of them.

Usage: python3 format_vectors.py --out tests/golden/formats [gguf mlx packed]

By hand, not in CI: needs the packages gguf, mlx[cpu], compressed-tensors with torch. src/model/golden_formats_test.cc compares
our decoders with the result, bit for bit.
"""

from __future__ import annotations

import argparse
import pathlib

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
MLX_TYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
PACKED_ROWS = 13
PACKED_COLS = 128


def random_blocks(rng: np.random.Generator, name: str) -> np.ndarray:
    """Returns blocks of random bits with finite scales, then some of all ones and all zeros."""
    import gguf  # pylint: disable=import-outside-toplevel
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
    import gguf  # pylint: disable=import-outside-toplevel
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
    import mlx.core as mx  # pylint: disable=import-outside-toplevel
    stored = getattr(mx, MLX_TYPES[dtype])
    words = rng.integers(0, 2**32, (MLX_ROWS, MLX_COLS * bits // 32), dtype=np.uint32)
    shape = (MLX_ROWS, MLX_COLS // group)
    scales = mx.array(rng.normal(0, 0.1, shape).astype(np.float32)).astype(stored)
    biases = mx.array(rng.normal(0, 1.0, shape).astype(np.float32)).astype(stored)
    values = mx.dequantize(mx.array(words), scales.astype(mx.float32), biases.astype(mx.float32),
                           group_size=group, bits=bits)
    name = f"b{bits}.g{group}.{dtype}"
    tensors = {f"{name}.weight": native("U32", words),
               f"{name}.values": native("F32", np.array(values))}
    for part, array in (("scales", scales), ("biases", biases)):
        raw = np.array(array if dtype == "F32" else array.view(mx.uint16))
        tensors[f"{name}.{part}"] = Tensor(dtype, raw)
    return tensors


def packed_vectors(rng: np.random.Generator) -> dict[str, Tensor]:
    """Returns weight_packed, weight_scale, weight_zero_point and values for 4 and 8 bits."""
    tensors = {}
    for bits in (4, 8):
        for group in (32, 64, 128, None):
            for symmetric in (True, False):
                tensors.update(packed_matrix(rng, bits, group, symmetric))
    return tensors


def packed_matrix(rng: np.random.Generator, bits: int, group: int | None,
                  symmetric: bool) -> dict[str, Tensor]:
    """One weight, compressed and decompressed; without a group, a scale a row."""
    import torch  # pylint: disable=import-outside-toplevel
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, group_size=group,
                               strategy="group" if group else "channel")
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    shape = (PACKED_ROWS, PACKED_COLS // (group or PACKED_COLS))
    state = {"weight": torch.tensor(rng.normal(0, 1, (PACKED_ROWS, PACKED_COLS)),
                                    dtype=torch.float32),
             "weight_scale": torch.tensor(rng.uniform(0.01, 0.3, shape), dtype=torch.float32)}
    if not symmetric:
        half = 2**(bits - 1)
        state["weight_zero_point"] = torch.tensor(rng.integers(-half, half, shape),
                                                  dtype=torch.int8)
    packed = PackedQuantizationCompressor.compress(state, scheme)
    values = PackedQuantizationCompressor.decompress(dict(packed), scheme)["weight"]
    name = f"b{bits}.g{group or PACKED_COLS}.{'sym' if symmetric else 'asym'}"
    name += "" if group else ".channel"
    tensors = {f"{name}.values": native("F32", values.numpy())}
    for part, dtype in (("weight_packed", "I32"), ("weight_scale", "F32"),
                        ("weight_zero_point", "I32")):
        if part in packed:
            tensors[f"{name}.{part}"] = native(dtype, packed[part].numpy())
    return tensors


VECTORS = {"gguf": gguf_vectors, "mlx": mlx_vectors, "packed": packed_vectors}


def main() -> None:
    """Parses the command line and writes the vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("kinds", nargs="*", default=list(VECTORS), choices=VECTORS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for kind in arguments.kinds:
        write_file(arguments.out / f"{kind}.safetensors", VECTORS[kind](np.random.default_rng(5)))


if __name__ == "__main__":
    main()
