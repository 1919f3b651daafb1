"""The quantised formats that other programs write: GGUF's blocks, MLX's and compressed-tensors'
streams of bits. Each has an encoder, simple rather than good, and an exact float32 decoder."""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np

from number_formats import quantize_mxfp4

F32 = np.float32
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113],
                      dtype=F32)
MXFP4_TWICE = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=F32)


def to_f16(values: np.ndarray) -> np.ndarray:
    """Rounds to float16 and returns its bytes [..., 2]."""
    return values.astype(np.float16)[..., None].view(np.uint8)


def from_f16(raw: np.ndarray) -> np.ndarray:
    """Widens the two bytes [..., 2] of a float16 to float32."""
    return np.ascontiguousarray(raw).view(np.float16)[..., 0].astype(F32)


def extreme(groups: np.ndarray) -> np.ndarray:
    """Returns the value of largest size of each group."""
    index = np.abs(groups).argmax(axis=-1)[..., None]
    return np.take_along_axis(groups, index, axis=-1)[..., 0]


def divide(values: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Returns values / scale, 0 where the scale is 0."""
    return np.divide(values, scale, out=np.zeros_like(values), where=scale != 0)


def halves(codes: np.ndarray) -> np.ndarray:
    """Packs codes [..., 32]: low nibbles the first 16, high ones the others."""
    return (codes[..., :16] | codes[..., 16:] << 4).astype(np.uint8)


def from_halves(raw: np.ndarray) -> np.ndarray:
    """The codes [..., 32] of 16 bytes."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def top_bits(codes: np.ndarray) -> np.ndarray:
    """Returns bit 4 of 32 codes as four bytes, the first code lowest."""
    return np.packbits(codes >> 4 & 1, axis=-1, bitorder="little")


def with_top_bits(codes: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """Adds bit 4 to codes below 16."""
    return codes | np.unpackbits(raw, axis=-1, bitorder="little") << 4


# --- Blocks of 32: one scale, perhaps a minimum ---


def encode_symmetric(groups: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns float16 scales and codes 0..2*steps-1, the extreme value falling on -steps."""
    raw = to_f16(extreme(groups) / F32(-steps))
    codes = np.rint(divide(groups, from_f16(raw)[..., None])) + steps
    return raw, np.clip(codes, 0, 2 * steps - 1).astype(np.uint8)


def encode_ranged(groups: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns float16 scales and minima, and codes 0..top."""
    low = groups.min(axis=-1)
    scale, minimum = to_f16((groups.max(axis=-1) - low) / F32(top)), to_f16(low)
    codes = np.rint(divide(groups - from_f16(minimum)[..., None], from_f16(scale)[..., None]))
    return scale, minimum, np.clip(codes, 0, top).astype(np.uint8)


def encode_q4_0(groups: np.ndarray) -> np.ndarray:
    """18 bytes."""
    scale, codes = encode_symmetric(groups, 8)
    return np.concatenate([scale, halves(codes)], axis=-1)


def decode_q4_0(raw: np.ndarray) -> np.ndarray:
    """d (n - 8)."""
    return from_f16(raw[..., :2])[..., None] * (from_halves(raw[..., 2:]).astype(F32) - 8)


def encode_q4_1(groups: np.ndarray) -> np.ndarray:
    """20 bytes."""
    scale, minimum, codes = encode_ranged(groups, 15)
    return np.concatenate([scale, minimum, halves(codes)], axis=-1)


def decode_q4_1(raw: np.ndarray) -> np.ndarray:
    """d n + m."""
    scale, minimum = from_f16(raw[..., :2])[..., None], from_f16(raw[..., 2:4])[..., None]
    return scale * from_halves(raw[..., 4:]).astype(F32) + minimum


def encode_q5_0(groups: np.ndarray) -> np.ndarray:
    """22 bytes."""
    scale, codes = encode_symmetric(groups, 16)
    return np.concatenate([scale, top_bits(codes), halves(codes & 15)], axis=-1)


def decode_q5_0(raw: np.ndarray) -> np.ndarray:
    """d (n - 16)."""
    codes = with_top_bits(from_halves(raw[..., 6:]), raw[..., 2:6])
    return from_f16(raw[..., :2])[..., None] * (codes.astype(F32) - 16)


def encode_q5_1(groups: np.ndarray) -> np.ndarray:
    """24 bytes."""
    scale, minimum, codes = encode_ranged(groups, 31)
    return np.concatenate([scale, minimum, top_bits(codes), halves(codes & 15)], axis=-1)


def decode_q5_1(raw: np.ndarray) -> np.ndarray:
    """d n + m."""
    codes = with_top_bits(from_halves(raw[..., 8:]), raw[..., 4:8]).astype(F32)
    return from_f16(raw[..., :2])[..., None] * codes + from_f16(raw[..., 2:4])[..., None]


def encode_q8_0(groups: np.ndarray) -> np.ndarray:
    """34 bytes."""
    scale = to_f16(np.abs(groups).max(axis=-1) / F32(127))
    codes = np.clip(np.rint(divide(groups, from_f16(scale)[..., None])), -127, 127)
    return np.concatenate([scale, codes.astype(np.int8).view(np.uint8)], axis=-1)


def decode_q8_0(raw: np.ndarray) -> np.ndarray:
    """d q."""
    codes = np.ascontiguousarray(raw[..., 2:]).view(np.int8).astype(F32)
    return from_f16(raw[..., :2])[..., None] * codes


def nearest_iq4(values: np.ndarray) -> np.ndarray:
    """The code whose value is nearest."""
    return np.abs(values[..., None] - IQ4_VALUES).argmin(axis=-1).astype(np.uint8)


def encode_iq4_nl(groups: np.ndarray) -> np.ndarray:
    """18 bytes."""
    scale = to_f16(extreme(groups) / F32(-127))
    codes = nearest_iq4(divide(groups, from_f16(scale)[..., None]))
    return np.concatenate([scale, halves(codes)], axis=-1)


def decode_iq4_nl(raw: np.ndarray) -> np.ndarray:
    """d times a table."""
    return from_f16(raw[..., :2])[..., None] * IQ4_VALUES[from_halves(raw[..., 2:])]


def encode_gguf_mxfp4(groups: np.ndarray) -> np.ndarray:
    """17 bytes: the scale, then the codes in GGUF's order."""
    blocks, scales = quantize_mxfp4(groups.astype(np.float64))
    blocks = blocks[..., 0, :]
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], 32)
    return np.concatenate([scales, halves(codes)], axis=-1)


def decode_gguf_mxfp4(raw: np.ndarray) -> np.ndarray:
    """2^(e - 128) times twice the value."""
    scale = np.exp2(raw[..., :1].astype(np.float64) - 128.0)
    return (scale * MXFP4_TWICE[from_halves(raw[..., 1:])]).astype(F32)


# --- Blocks of 256: scales of sub-blocks in 6 or 8 bits ---


def pack_k_scales(scales: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """Packs eight 6-bit scales and minima into 12 bytes."""
    low = scales[..., :4] | (scales[..., 4:] >> 4) << 6
    middle = minima[..., :4] | (minima[..., 4:] >> 4) << 6
    return np.concatenate([low, middle, scales[..., 4:] & 15 | (minima[..., 4:] & 15) << 4],
                          axis=-1).astype(np.uint8)


def unpack_k_scales(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scales and minima."""
    low, middle, high = raw[..., :4], raw[..., 4:8], raw[..., 8:12]
    scales = np.concatenate([low & 63, high & 15 | low >> 6 << 4], axis=-1)
    minima = np.concatenate([middle & 63, high >> 4 | middle >> 6 << 4], axis=-1)
    return scales, minima


def encode_k(groups: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """The 16 bytes of scales, and codes [..., 8, 32] of 0..top."""
    parts = groups.reshape(*groups.shape[:-1], 8, 32)
    low = np.minimum(parts.min(axis=-1), 0)
    scale = (parts.max(axis=-1) - low) / F32(top)
    d = to_f16(scale.max(axis=-1) / F32(63))
    dmin = to_f16(-low.min(axis=-1) / F32(63))
    scales = np.clip(np.rint(divide(scale, from_f16(d)[..., None])), 0, 63).astype(np.uint8)
    minima = np.clip(np.rint(divide(-low, from_f16(dmin)[..., None])), 0, 63).astype(np.uint8)
    step = from_f16(d)[..., None] * scales.astype(F32)
    offset = from_f16(dmin)[..., None] * minima.astype(F32)
    codes = np.rint(divide(parts + offset[..., None], step[..., None]))
    head = np.concatenate([d, dmin, pack_k_scales(scales, minima)], axis=-1)
    return head, np.clip(codes, 0, top).astype(np.uint8)


def decode_k(raw: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """d s n - dmin m for codes [..., 8, 32]."""
    scales, minima = unpack_k_scales(raw[..., 4:16])
    step = from_f16(raw[..., :2])[..., None] * scales.astype(F32)
    offset = from_f16(raw[..., 2:4])[..., None] * minima.astype(F32)
    return (step[..., None] * codes.astype(F32) - offset[..., None]).reshape(*raw.shape[:-1], 256)


def k_nibbles(codes: np.ndarray) -> np.ndarray:
    """Sub-blocks 2c and 2c + 1 share bytes."""
    return (codes[..., 0::2, :] | codes[..., 1::2, :] << 4).reshape(*codes.shape[:-2], 128)


def from_k_nibbles(raw: np.ndarray) -> np.ndarray:
    """Codes [..., 8, 32] of 128 bytes."""
    rows = raw.reshape(*raw.shape[:-1], 4, 32)
    return np.stack([rows & 15, rows >> 4], axis=-2).reshape(*raw.shape[:-1], 8, 32)


def encode_q4_k(groups: np.ndarray) -> np.ndarray:
    """144 bytes."""
    head, codes = encode_k(groups, 15)
    return np.concatenate([head, k_nibbles(codes)], axis=-1)


def decode_q4_k(raw: np.ndarray) -> np.ndarray:
    """See decode_k."""
    return decode_k(raw, from_k_nibbles(raw[..., 16:]))


def encode_q5_k(groups: np.ndarray) -> np.ndarray:
    """176 bytes: bit j of byte i is bit 4 of code i of sub-block j."""
    head, codes = encode_k(groups, 31)
    fifth = np.packbits(np.moveaxis(codes >> 4, -2, -1), axis=-1, bitorder="little")[..., 0]
    return np.concatenate([head, fifth, k_nibbles(codes & 15)], axis=-1)


def decode_q5_k(raw: np.ndarray) -> np.ndarray:
    """See decode_k."""
    fifth = np.unpackbits(raw[..., 16:48, None], axis=-1, bitorder="little")
    return decode_k(raw, from_k_nibbles(raw[..., 48:]) | np.moveaxis(fifth, -1, -2) << 4)


def encode_q6_k(groups: np.ndarray) -> np.ndarray:
    """210 bytes: halves of 128, quarters of 32 sharing bytes."""
    parts = groups.reshape(*groups.shape[:-1], 16, 16)
    scale = extreme(parts) / F32(-32)
    d = to_f16(extreme(scale) / F32(-128))
    scales = np.clip(np.rint(divide(scale, from_f16(d)[..., None])), -128, 127).astype(np.int8)
    step = from_f16(d)[..., None] * scales.astype(F32)
    codes = np.clip(np.rint(divide(parts, step[..., None])) + 32, 0, 63).astype(np.uint8)
    quarters = codes.reshape(*groups.shape[:-1], 2, 4, 32)
    low = np.concatenate([quarters[..., 0, :] & 15 | (quarters[..., 2, :] & 15) << 4,
                          quarters[..., 1, :] & 15 | (quarters[..., 3, :] & 15) << 4], axis=-1)
    high = sum((quarters[..., i, :] >> 4) << 2 * i for i in range(4))
    flat = groups.shape[:-1]
    return np.concatenate([low.reshape(*flat, 128), high.reshape(*flat, 64).astype(np.uint8),
                           scales.view(np.uint8), d], axis=-1)


def decode_q6_k(raw: np.ndarray) -> np.ndarray:
    """d s (n - 32)."""
    flat = raw.shape[:-1]
    low = raw[..., :128].reshape(*flat, 2, 2, 32)
    high = raw[..., 128:192].reshape(*flat, 2, 1, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=-2)
    shifts = (np.arange(4, dtype=np.uint8) * 2)[:, None]
    codes = (nibbles | (high >> shifts & 3) << 4).reshape(*flat, 16, 16).astype(F32)
    scales = np.ascontiguousarray(raw[..., 192:208]).view(np.int8).astype(F32)
    step = from_f16(raw[..., 208:210])[..., None] * scales
    return (step[..., None] * (codes - 32)).reshape(*flat, 256)


def encode_iq4_xs(groups: np.ndarray) -> np.ndarray:
    """136 bytes."""
    parts = groups.reshape(*groups.shape[:-1], 8, 32)
    scale = extreme(parts) / F32(-127)
    d = to_f16(np.abs(scale).max(axis=-1) / F32(31))
    scales = np.clip(np.rint(divide(scale, from_f16(d)[..., None])), -32, 31).astype(np.int64) + 32
    step = from_f16(d)[..., None] * (scales - 32).astype(F32)
    codes = nearest_iq4(divide(parts, step[..., None]))
    high = sum((scales[..., i] >> 4) << 2 * i for i in range(8)).astype("<u2")
    low = (scales[..., 0::2] & 15 | (scales[..., 1::2] & 15) << 4).astype(np.uint8)
    return np.concatenate([d, high[..., None].view(np.uint8), low,
                           halves(codes).reshape(*groups.shape[:-1], 128)], axis=-1)


def decode_iq4_xs(raw: np.ndarray) -> np.ndarray:
    """d (s - 32) times a table."""
    flat = raw.shape[:-1]
    high = np.ascontiguousarray(raw[..., 2:4]).view("<u2").astype(np.int64)
    low = np.stack([raw[..., 4:8] & 15, raw[..., 4:8] >> 4], axis=-1).reshape(*flat, 8)
    scales = low | (high >> 2 * np.arange(8) & 3) << 4
    step = from_f16(raw[..., :2])[..., None] * (scales - 32).astype(F32)
    codes = from_halves(raw[..., 8:].reshape(*flat, 8, 16))
    return (step[..., None] * IQ4_VALUES[codes]).reshape(*flat, 256)


class BlockFormat(NamedTuple):
    """One type of GGUF."""

    number: int
    inputs: int
    encode: Callable[[np.ndarray], np.ndarray]
    decode: Callable[[np.ndarray], np.ndarray]


BLOCK_FORMATS = {
    "Q4_0": BlockFormat(2, 32, encode_q4_0, decode_q4_0),
    "Q4_1": BlockFormat(3, 32, encode_q4_1, decode_q4_1),
    "Q5_0": BlockFormat(6, 32, encode_q5_0, decode_q5_0),
    "Q5_1": BlockFormat(7, 32, encode_q5_1, decode_q5_1),
    "Q8_0": BlockFormat(8, 32, encode_q8_0, decode_q8_0),
    "Q4_K": BlockFormat(12, 256, encode_q4_k, decode_q4_k),
    "Q5_K": BlockFormat(13, 256, encode_q5_k, decode_q5_k),
    "Q6_K": BlockFormat(14, 256, encode_q6_k, decode_q6_k),
    "IQ4_NL": BlockFormat(20, 32, encode_iq4_nl, decode_iq4_nl),
    "IQ4_XS": BlockFormat(23, 256, encode_iq4_xs, decode_iq4_xs),
    "MXFP4": BlockFormat(39, 32, encode_gguf_mxfp4, decode_gguf_mxfp4),
}


# --- Streams of bits with scales beside them ---


def pack_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Packs codes [..., in] of `bits` bits into little-endian 32-bit words, lowest bits first."""
    flags = codes[..., None] >> np.arange(bits) & 1
    return np.packbits(flags.reshape(*codes.shape[:-1], -1).astype(np.uint8), axis=-1,
                       bitorder="little").view("<u4")


def quantize_affine(values: np.ndarray, bits: int, group: int, round_scale: Callable
                    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns words, scales, offsets and decoded float32 values of [..., in]; `round_scale` gives
    the float32 value that a scale has when stored."""
    groups = values.astype(F32).reshape(*values.shape[:-1], -1, group)
    low, high = groups.min(axis=-1), groups.max(axis=-1)
    # As MLX: from the end that is farther from zero, which may make the scale negative.
    from_high = np.abs(high) > np.abs(low)
    step = (high - low) / F32(2**bits - 1)
    scales = round_scale(np.where(from_high, -step, step))
    offsets = round_scale(np.where(from_high, high, low))
    codes = np.rint(divide(groups - offsets[..., None], scales[..., None]))
    codes = np.clip(codes, 0, 2**bits - 1).astype(np.uint32)
    decoded = scales[..., None] * codes.astype(F32) + offsets[..., None]
    return (pack_bits(codes.reshape(values.shape), bits), scales, offsets,
            decoded.reshape(values.shape))


def quantize_zero_point(values: np.ndarray, bits: int, group: int, round_scale: Callable
                        ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same of [out, in] with whole zero points, which are packed down the rows."""
    rows = values.shape[0]
    groups = values.astype(F32).reshape(rows, -1, group)
    low, high = np.minimum(groups.min(axis=-1), 0), np.maximum(groups.max(axis=-1), 0)
    top = 2**bits - 1
    scales = round_scale((high - low) / F32(top))
    zeros = np.clip(np.rint(divide(-low, scales)), 0, top).astype(np.uint32)
    codes = np.rint(divide(groups, scales[..., None])) + zeros[..., None]
    codes = np.clip(codes, 0, top).astype(np.uint32)
    decoded = scales[..., None] * (codes.astype(F32) - zeros[..., None].astype(F32))
    padded = np.pad(zeros, ((0, -rows % (32 // bits)), (0, 0)))
    return (pack_bits(codes.reshape(values.shape), bits), scales,
            np.ascontiguousarray(pack_bits(padded.T, bits).T), decoded.reshape(values.shape))
