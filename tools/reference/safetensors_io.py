"""Reads and writes safetensors files with NumPy alone, in the order of the official writer.

NumPy has neither BF16 nor FP8, so those tensors travel as their bit patterns (uint16, uint8) and
each tensor carries the name of its stored type.
"""

from __future__ import annotations

import json
import pathlib
import struct
from typing import Mapping, NamedTuple, Sequence

import numpy as np

from number_formats import bf16_to_float, float_to_bf16, fp8_to_float

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
HEADER_BYTES_MAX = 100_000_000
HEADER_ALIGNMENT = 8

# Stored type -> NumPy type, in the order of the official writer: widest first, and among types of
# one width the order of its enumeration.
NUMPY_TYPES: dict[str, str] = {
    "U64": "<u8", "I64": "<i8", "F64": "<f8",
    "F32": "<f4", "U32": "<u4", "I32": "<i4",
    "BF16": "<u2", "F16": "<f2", "U16": "<u2", "I16": "<i2",
    "F8_E8M0": "u1", "F8_E4M3": "u1", "F8_E5M2": "u1", "I8": "i1", "U8": "u1", "BOOL": "?",
}
WRITE_RANK = {name: rank for rank, name in enumerate(NUMPY_TYPES)}


class Tensor(NamedTuple):
    """A stored tensor: its type's name and its bits (BF16 as uint16, FP8 as uint8)."""

    dtype: str
    data: np.ndarray

    def to_float(self) -> np.ndarray:
        """Returns the values as float64, without the scale of any quantised format."""
        if self.dtype == "BF16":
            return bf16_to_float(self.data)
        if self.dtype == "F8_E4M3":
            return fp8_to_float(self.data)
        if self.dtype in ("F64", "F32", "F16"):
            return self.data.astype(np.float64)
        raise ValueError(f"{self.dtype} has no float value")


def bf16(values: np.ndarray) -> Tensor:
    """Rounds values to a BF16 tensor."""
    return Tensor("BF16", float_to_bf16(values))


def native(dtype: str, values: np.ndarray) -> Tensor:
    """Stores values as a type that NumPy has, or bit patterns as one that it lacks."""
    return Tensor(dtype, np.ascontiguousarray(values, dtype=NUMPY_TYPES[dtype]))


def read_header(path: pathlib.Path) -> tuple[dict[str, dict], int]:
    """Returns the tensor entries of a file's header and the offset at which its data begin."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > HEADER_BYTES_MAX:
            raise ValueError(f"{path}: header of {length} bytes")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return entries, 8 + length


def read_file(path: pathlib.Path) -> dict[str, Tensor]:
    """Reads every tensor of one file."""
    entries, start = read_header(path)
    blob = np.memmap(path, dtype=np.uint8, mode="r")
    tensors = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        raw = np.array(blob[start + begin:start + end])
        data = raw.view(NUMPY_TYPES[entry["dtype"]]).reshape(entry["shape"])
        tensors[name] = Tensor(entry["dtype"], data)
    return tensors


def read_folder(folder: pathlib.Path) -> dict[str, Tensor]:
    """Reads every tensor of a checkpoint: one file, or the shards that its index names."""
    index = folder / INDEX_FILE
    if not index.exists():
        return read_file(folder / SINGLE_FILE)
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors.update(read_file(folder / name))
    return tensors


def write_order(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names as the official writer lays them out: by type, then by name."""
    return sorted(tensors, key=lambda name: (WRITE_RANK[tensors[name].dtype], name))


def encode_header(entries: Mapping[str, object]) -> bytes:
    """Encodes a header with its length, padded so that the data begin at a multiple of 8."""
    text = json.dumps({"__metadata__": {"format": "pt"}, **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def write_file(path: pathlib.Path, tensors: Mapping[str, Tensor]) -> int:
    """Writes one file and returns the number of its data bytes."""
    entries: dict[str, object] = {}
    offset = 0
    names = write_order(tensors)
    for name in names:
        dtype, data = tensors[name]
        end = offset + data.nbytes
        entries[name] = {"dtype": dtype, "shape": list(data.shape), "data_offsets": [offset, end]}
        offset = end
    with path.open("wb") as file:
        file.write(encode_header(entries))
        for name in names:
            file.write(np.ascontiguousarray(tensors[name].data).tobytes())
    return offset


def split_shards(tensors: Mapping[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    """Splits tensors, in the given order, into `count` parts of about equal bytes."""
    total = sum(tensor.data.nbytes for tensor in tensors.values())
    shards: list[dict[str, Tensor]] = [{} for _ in range(count)]
    done = 0
    for name, tensor in tensors.items():
        shards[min(done * count // total, count - 1)][name] = tensor
        done += tensor.data.nbytes
    return shards


def write_folder(folder: pathlib.Path, shards: Sequence[Mapping[str, Tensor]]) -> None:
    """Writes one file, or several with their index."""
    if len(shards) == 1:
        write_file(folder / SINGLE_FILE, shards[0])
        return
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        total += write_file(folder / name, shard)
        weight_map.update(dict.fromkeys(shard, name))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + "\n")
