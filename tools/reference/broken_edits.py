"""Small edits that break a checkpoint folder in one way."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import struct
from typing import Any, Callable

import numpy as np

from safetensors_io import (INDEX_FILE, Tensor, encode_header, native, read_file, read_header,
                            write_file)

FIRST = "model-00001-of-00002.safetensors"
SECOND = "model-00002-of-00002.safetensors"
Edit = Callable[[pathlib.Path], None]


@dataclasses.dataclass(frozen=True)
class Broken:
    """A way to break a folder, and what the error message must contain.

    Faults inside the tensors' data show only when weights are read: `data_only` then lets a
    command that reads headers alone succeed.
    """

    name: str
    expect: tuple[str, ...]
    edit: Edit
    base: str = "int4"
    data_only: bool = False


def config(**changes: Any) -> Edit:
    """Replaces fields of config.json, or removes them (Ellipsis)."""

    def edit(folder: pathlib.Path) -> None:
        path = folder / "config.json"
        fields = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))

    return edit


def nested_config(keys: tuple[str, ...], value: Any) -> Edit:
    """Replaces one field inside nested objects of config.json."""

    def edit(folder: pathlib.Path) -> None:
        path = folder / "config.json"
        fields = json.loads(path.read_text())
        inner = fields
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        path.write_text(json.dumps(fields))

    return edit


def text(file: str, content: str) -> Edit:
    """Replaces a whole file."""
    return raw(file, lambda _: content.encode())


def remove(file: str) -> Edit:
    """Deletes a file."""
    return lambda folder: (folder / file).unlink()


def raw(file: str, change: Callable[[bytes], bytes]) -> Edit:
    """Replaces a file's bytes."""

    def edit(folder: pathlib.Path) -> None:
        path = folder / file
        path.write_bytes(change(path.read_bytes()))

    return edit


def header_length(length: int) -> Edit:
    """Overwrites the header length of the first shard."""
    return raw(FIRST, lambda blob: struct.pack("<Q", length) + blob[8:])


def header_text(content: bytes) -> Edit:
    """Replaces the header of the first shard by any bytes."""
    return raw(FIRST, lambda blob: struct.pack("<Q", len(content)) + content)


def header(name: str, **changes: Any) -> Edit:
    """Replaces fields of one tensor's header entry, leaving the data alone."""

    def edit(folder: pathlib.Path) -> None:
        path = folder / file_of(folder, name)
        entries, start = read_header(path)
        entries[name] = {**entries[name], **changes}
        path.write_bytes(encode_header(entries) + path.read_bytes()[start:])

    return edit


def shift_data(name: str, by: int) -> Edit:
    """Moves the stated range of one tensor, leaving the data alone."""

    def edit(folder: pathlib.Path) -> None:
        begin, end = read_header(folder / file_of(folder, name))[0][name]["data_offsets"]
        header(name, data_offsets=[begin + by, end + by])(folder)

    return edit


def gap_before_data(folder: pathlib.Path) -> None:
    """Moves all data of the first shard up by 64 bytes that no tensor covers."""
    path = folder / FIRST
    entries, start = read_header(path)
    for entry in entries.values():
        entry["data_offsets"] = [offset + 64 for offset in entry["data_offsets"]]
    path.write_bytes(encode_header(entries) + bytes(64) + path.read_bytes()[start:])


def duplicate_key(name: str) -> Edit:
    """States one tensor twice in the header of its shard."""

    def edit(folder: pathlib.Path) -> None:
        path = folder / file_of(folder, name)
        entries, start = read_header(path)
        again = f", {json.dumps(name)}: {json.dumps(entries[name])}}}"
        content = (json.dumps(entries)[:-1] + again).encode()
        path.write_bytes(struct.pack("<Q", len(content)) + content + path.read_bytes()[start:])

    return edit


def tensor(name: str, change: Callable[[Tensor], Tensor]) -> Edit:
    """Replaces one tensor and writes its shard anew."""

    def edit(folder: pathlib.Path) -> None:
        path = folder / file_of(folder, name)
        tensors = read_file(path)
        tensors[name] = change(tensors[name])
        write_file(path, tensors)

    return edit


def values(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Edit:
    """Replaces the stored bits of one tensor, keeping its type."""
    return tensor(name, lambda old: native(old.dtype, change(old.data.copy())))


def drop_tensor(name: str) -> Edit:
    """Removes one tensor from its shard and from the index."""

    def edit(folder: pathlib.Path) -> None:
        path = folder / file_of(folder, name)
        tensors = read_file(path)
        del tensors[name]
        write_file(path, tensors)
        edit_index(folder, lambda weight_map: weight_map.pop(name))

    return edit


def add_tensor(name: str, file: str, listed: bool = True) -> Edit:
    """Adds a small BF16 tensor to a shard, and to the index if it is to be listed."""

    def edit(folder: pathlib.Path) -> None:
        tensors = read_file(folder / file)
        tensors[name] = native("BF16", np.zeros(64))
        write_file(folder / file, tensors)
        if listed:
            edit_index(folder, lambda weight_map: weight_map.update({name: file}))

    return edit


def index_entry(name: str, file: str) -> Edit:
    """Lists a tensor under a file in the index."""
    return lambda folder: edit_index(folder, lambda entries: entries.update({name: file}))


def index_renames(old: str, new: str) -> Edit:
    """Lists all tensors of one file under another file's name."""

    def edit(folder: pathlib.Path) -> None:
        edit_index(folder, lambda entries: entries.update(
            {name: new for name, file in entries.items() if file == old}))

    return edit


def edit_index(folder: pathlib.Path, change: Callable[[dict[str, str]], Any]) -> None:
    """Changes the weight map of the index."""
    path = folder / INDEX_FILE
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def file_of(folder: pathlib.Path, name: str) -> str:
    """Returns the shard that the index names for a tensor."""
    return json.loads((folder / INDEX_FILE).read_text())["weight_map"][name]
