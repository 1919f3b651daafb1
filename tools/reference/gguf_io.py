"""Writes GGUF files, version 3, with NumPy alone."""

from __future__ import annotations

import pathlib
import struct
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

ALIGNMENT = 32
TYPES = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}
STRING, ARRAY = 8, 9


class Typed(NamedTuple):
    """A number of a type that Python does not have."""

    kind: str
    value: Any


class GgufTensor(NamedTuple):
    """The type's number, the shape with the outermost dimension first, and the bytes."""

    number: int
    shape: tuple[int, ...]
    data: bytes


def text(value: str) -> bytes:
    """A text with its length."""
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar_type(value: Any) -> str:
    """The type that a Python value is stored as."""
    if isinstance(value, bool):
        return "bool"
    return "u32" if isinstance(value, int) else "f32"


def encode_value(value: Any) -> bytes:
    """The type and the value."""
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, (list, tuple)) and not isinstance(value, Typed):
        return encode_list(list(value))
    kind, plain = value if isinstance(value, Typed) else (scalar_type(value), value)
    number, layout = TYPES[kind]
    return struct.pack("<I", number) + struct.pack(layout, plain)


def encode_list(values: Sequence[Any]) -> bytes:
    """A list of texts, whole numbers (int32) or floats."""
    head = struct.pack("<I", ARRAY)
    if not values or isinstance(values[0], str):
        return head + struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))
    kind, dtype = ("f32", "<f4") if isinstance(values[0], float) else ("i32", "<i4")
    count = struct.pack("<IQ", TYPES[kind][0], len(values))
    return head + count + np.array(values, dtype).tobytes()


def write_gguf(path: pathlib.Path, metadata: Mapping[str, Any],
               tensors: Mapping[str, GgufTensor]) -> None:
    """Writes one file."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    for key, value in metadata.items():
        head += text(key) + encode_value(value)
    offset = 0
    for name, tensor in tensors.items():
        head += text(name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
        head += struct.pack("<IQ", tensor.number, offset)
        offset += len(tensor.data) + -len(tensor.data) % ALIGNMENT
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % ALIGNMENT))
        for tensor in tensors.values():
            file.write(tensor.data + bytes(-len(tensor.data) % ALIGNMENT))


def write_split(folder: pathlib.Path, base: str, metadata: Mapping[str, Any],
                tensors: Mapping[str, GgufTensor], parts: int) -> None:
    """Writes `parts` files, the metadata alone in the first."""
    names = list(tensors)
    others = parts - 1
    for part in range(parts):
        share = names[(part - 1) * len(names) // others:part * len(names) // others] if part else []
        own = dict(metadata) if part == 0 else {}
        own.update({"split.no": part, "split.count": parts, "split.tensors.count": len(names)})
        write_gguf(folder / f"{base}-{part + 1:05d}-of-{parts:05d}.gguf", own,
                   {name: tensors[name] for name in share})
