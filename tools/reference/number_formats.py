"""Exact conversions between stored bit patterns and float64: BF16, FP8 E4M3, packed INT4, MXFP4."""

from __future__ import annotations

import numpy as np

FP8_MAX = 448.0
FP8_BLOCK = 128
INT4_GROUP = 32
NIBBLES_PER_WORD = 8
MXFP4_GROUP = 32
MXFP4_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def bf16_to_float(bits: np.ndarray) -> np.ndarray:
    """Widens BF16 bit patterns (uint16) to float64."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def float_to_bf16(values: np.ndarray) -> np.ndarray:
    """Rounds finite values to BF16 bit patterns (uint16), to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounding = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + rounding) >> np.uint32(16)).astype(np.uint16)


def fp8_table() -> np.ndarray:
    """Returns the float64 value of each of the 256 E4M3FN codes; 0x7F and 0xFF are NaN."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> 3) & 0xF
    mantissa = (codes & 7).astype(np.float64)
    normal = (1.0 + mantissa / 8.0) * np.exp2(exponent - 7.0)
    table = sign * np.where(exponent == 0, mantissa * 2.0**-9, normal)
    table[(codes & 0x7F) == 0x7F] = np.nan
    return table


def fp8_to_float(codes: np.ndarray) -> np.ndarray:
    """Decodes E4M3FN codes (uint8) to float64."""
    return fp8_table()[codes]


def float_to_fp8(values: np.ndarray) -> np.ndarray:
    """Rounds values to the nearest E4M3FN code, saturating at the largest finite one."""
    positive = fp8_table()[:0x7F]
    magnitude = np.minimum(np.abs(values), FP8_MAX)
    above = np.clip(np.searchsorted(positive, magnitude), 1, len(positive) - 1)
    lower_is_nearer = magnitude - positive[above - 1] <= positive[above] - magnitude
    codes = np.where(lower_is_nearer, above - 1, above)
    return (codes | np.where(np.signbit(values), 0x80, 0)).astype(np.uint8)


def expand_blocks(scales: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Repeats one scale per 128x128 block over a [rows, columns] matrix with partial edges."""
    expanded = np.repeat(np.repeat(scales, FP8_BLOCK, axis=0), FP8_BLOCK, axis=1)
    return expanded[:rows, :columns]


def dequantize_fp8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns codes [out, in] times their block's scale [ceil(out/128), ceil(in/128)]."""
    rows, columns = codes.shape
    return fp8_to_float(codes) * expand_blocks(scales.astype(np.float64), rows, columns)


def quantize_fp8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantises [out, in] to (codes uint8, block scales float32)."""
    rows, columns = values.shape
    scales = np.empty((-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)), dtype=np.float32)
    for i, j in np.ndindex(scales.shape):
        block = values[i * FP8_BLOCK:(i + 1) * FP8_BLOCK, j * FP8_BLOCK:(j + 1) * FP8_BLOCK]
        scales[i, j] = np.abs(block).max() / FP8_MAX
    return float_to_fp8(values / expand_blocks(scales.astype(np.float64), rows, columns)), scales


def unpack_int4(words: np.ndarray, columns: int) -> np.ndarray:
    """Unpacks int32 words [out, ceil(in/8)], lowest nibble first, to integers -8..7 [out, in]."""
    shifts = np.arange(NIBBLES_PER_WORD, dtype=np.uint32) * np.uint32(4)
    nibbles = (words.view(np.uint32)[:, :, None] >> shifts) & np.uint32(0xF)
    return nibbles.reshape(words.shape[0], -1)[:, :columns].astype(np.int64) - 8


def pack_int4(values: np.ndarray) -> np.ndarray:
    """Packs integers -8..7 [out, in], in a multiple of 8, to int32 words [out, in/8]."""
    nibbles = (values + 8).astype(np.uint32).reshape(values.shape[0], -1, NIBBLES_PER_WORD)
    shifts = np.arange(NIBBLES_PER_WORD, dtype=np.uint32) * np.uint32(4)
    return np.bitwise_or.reduce(nibbles << shifts, axis=2).view(np.int32)


def dequantize_int4(words: np.ndarray, scales: np.ndarray, columns: int) -> np.ndarray:
    """Returns (u - 8) * scale for packed words and float scales [out, ceil(in/32)]."""
    wide = np.repeat(scales.astype(np.float64), INT4_GROUP, axis=1)[:, :columns]
    return unpack_int4(words, columns) * wide


def quantize_int4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantises [out, in], in a multiple of 32, to (words int32, BF16 scale bits uint16)."""
    rows = values.shape[0]
    groups = values.reshape(rows, -1, INT4_GROUP)
    scale_bits = float_to_bf16(np.abs(groups).max(axis=2) / 7.5)
    steps = np.rint(groups / bf16_to_float(scale_bits)[:, :, None])
    return pack_int4(np.clip(steps, -8, 7).astype(np.int64).reshape(rows, -1)), scale_bits


def dequantize_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns [..., in] from blocks uint8 [..., in/32, 16], even inputs low, and E8M0 scales
    uint8 [..., in/32]."""
    codes = np.stack([blocks & 0xF, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], MXFP4_GROUP)
    values = MXFP4_VALUES[codes] * np.exp2(scales.astype(np.float64) - 127.0)[..., None]
    return values.reshape(*blocks.shape[:-2], -1)


def quantize_mxfp4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantises [..., in], in a multiple of 32, to (blocks uint8, scales uint8)."""
    groups = values.reshape(*values.shape[:-1], -1, MXFP4_GROUP)
    exponents = np.ceil(np.log2(np.abs(groups).max(axis=-1) / MXFP4_VALUES[7]))
    scaled = groups / np.exp2(exponents)[..., None]
    codes = np.abs(scaled[..., None] - MXFP4_VALUES).argmin(axis=-1).astype(np.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponents + 127).astype(np.uint8)
