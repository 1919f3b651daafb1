"""Writes Ember, the built-in model, as a GGUF file: tokenizer, template and all.

Usage: python3 recast_ember.py OUT_DIR [--model DIR]

Nothing is rounded: BF16 stays, and INT4 with its scales is what Q4_0 says (docs/models.md 5.1). So
the golden answers hold, and check_ember.py can run on the folder.
"""

from __future__ import annotations

import argparse
import base64
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from block_formats import halves
from check_ember import DEFAULT_MODEL
from gguf_io import GgufTensor, write_gguf
from number_formats import bf16_to_float, unpack_int4
from recast_toys import Recast, byte_letters, gguf_metadata, gguf_name
from safetensors_io import Tensor, read_folder
from toy_specs import ToySpec


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that byte-pair merging joins last to make a token."""
    parts = [token[i:i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [(ranks.get(a + b, len(ranks)), i)
                 for i, (a, b) in enumerate(zip(parts, parts[1:]))]
        _, at = min(pairs)
        parts[at:at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def tokenizer_metadata(model: pathlib.Path, vocab_size: int) -> dict[str, Any]:
    """What GGUF says about Kimi's kind of tokenizer."""
    lines = (model / "tiktoken.model").read_text().split("\n")
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in lines if line}
    letters = byte_letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    tokens = [spelled[token] for token in sorted(ranks, key=lambda token: ranks[token])]
    types = [1] * len(tokens)
    config = json.loads((model / "tokenizer_config.json").read_text())
    added = {int(key): value for key, value in config["added_tokens_decoder"].items()}
    for index in range(len(tokens), vocab_size):
        token = added.get(index, {"content": f"<|reserved_token_{index}|>", "special": True})
        tokens.append(token["content"])
        types.append(3 if token["special"] else 4)
    merges = [" ".join(spelled[part] for part in last_merge(token, ranks))
              for token in sorted(ranks, key=lambda token: ranks[token]) if len(token) > 1]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "kimi-k2",
            "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": merges,
            "tokenizer.chat_template": (model / "chat_template.jinja").read_text()}


def q4_0(words: np.ndarray, scale_bits: np.ndarray) -> bytes:
    """INT4 as Q4_0; every scale must be a float16 number."""
    rows = words.shape[0]
    codes = (unpack_int4(words, words.shape[1] * 8) + 8).astype(np.uint8).reshape(rows, -1, 32)
    scales = bf16_to_float(scale_bits)
    stored = scales.astype("<f2")
    if not np.array_equal(stored.astype(np.float64), scales):
        raise ValueError("a scale is no float16 number")
    return np.concatenate([stored[..., None].view(np.uint8), halves(codes)], axis=-1).tobytes()


def convert(tensors: dict[str, Tensor]) -> dict[str, GgufTensor]:
    """All tensors, experts stacked, kv_b whole."""
    out: dict[str, GgufTensor] = {}
    stacks: dict[str, list[bytes]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        if ".experts." in name:
            if not name.endswith(".weight_packed"):
                continue
            module = name.removesuffix(".weight_packed")
            prefix, rest = module.split(".experts.")
            stack = f"{prefix}.switch_mlp.{rest.split('.')[1]}.weight"
            scale = tensors[module + ".weight_scale"].data
            shapes[stack] = (tensor.data.shape[0], tensor.data.shape[1] * 8)
            stacks.setdefault(stack, []).append(q4_0(tensor.data, scale))
            continue
        plain = tensor.to_float()
        if plain.ndim == 1 or name.endswith("mlp.gate.weight"):
            out[gguf_name(name)] = GgufTensor(0, plain.shape, plain.astype("<f4").tobytes())
        else:
            out[gguf_name(name)] = GgufTensor(30, plain.shape, tensor.data.tobytes())
    for name, stack in stacks.items():
        out[gguf_name(name)] = GgufTensor(2, (len(stack), *shapes[name]), b"".join(stack))
    return out


def by_expert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sorted so that the experts of a layer come by their number."""
    def key(name: str) -> list[Any]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]
    return {name: tensors[name] for name in sorted(tensors, key=key)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path, default=DEFAULT_MODEL)
    arguments = parser.parse_args()
    fields = json.loads((arguments.model / "config.json").read_text())
    fields["model_type"] = "deepseek_v3"  # which has the same architecture in GGUF
    recast = Recast("Ember", ToySpec("ember", "BF16", fields), "gguf", {}, split_kv=False)
    metadata = {**gguf_metadata(recast), **tokenizer_metadata(arguments.model, fields["vocab_size"])}
    tensors = convert(by_expert(read_folder(arguments.model)))
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_gguf(arguments.out / "ember.gguf", metadata, tensors)
    for name in ("golden.json", "heldout.json"):
        shutil.copy(arguments.model / name, arguments.out)


if __name__ == "__main__":
    main()
