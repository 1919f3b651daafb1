"""Dequantised weights of a checkpoint folder, in float64, by their official names."""

from __future__ import annotations

import pathlib

import numpy as np

from number_formats import bf16_to_float, dequantize_fp8, dequantize_int4, dequantize_mxfp4
from safetensors_io import Tensor, read_folder

TEXT_PREFIX = "language_model."
VISION_PREFIXES = ("vision_tower.", "mm_projector.")


def text_name(name: str) -> str | None:
    """Returns a tensor's name without the prefix of multimodal files; None for vision tensors."""
    if name.startswith(VISION_PREFIXES):
        return None
    return name.removeprefix(TEXT_PREFIX)


class Checkpoint:
    """All text tensors of a folder. Matrices are dequantised exactly when asked for."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._tensors: dict[str, Tensor] = {}
        for name, tensor in read_folder(folder).items():
            stripped = text_name(name)
            if stripped is not None:
                self._tensors[stripped] = tensor

    def has(self, name: str) -> bool:
        """Says whether a tensor is stored under this very name."""
        return name in self._tensors

    def values(self, name: str) -> np.ndarray:
        """Returns a tensor that no format scales."""
        return self._tensors[name].to_float()

    def optional(self, name: str) -> np.ndarray | None:
        """Returns a tensor that no format scales, None where there is none."""
        return self.values(name) if self.has(name) else None

    def matrix(self, name: str) -> np.ndarray:
        """Returns the [out, in] matrix of the linear `name`, whatever format holds it."""
        if name + ".weight_packed" in self._tensors:
            return self._int4(name)
        weight = self._tensors[name + ".weight"]
        scale = self._tensors.get(name + ".weight_scale_inv")
        return dequantize_fp8(weight.data, scale.data) if scale else weight.to_float()

    def expert(self, layer: int, expert: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns gate [I, H], up [I, H] and down [H, I] of one routed expert."""
        mixtral = f"model.layers.{layer}.block_sparse_moe.experts.{expert}."
        if mixtral + "w1.weight" in self._tensors:
            return tuple(self.matrix(mixtral + part) for part in ("w1", "w3", "w2"))
        prefix = f"model.layers.{layer}.mlp.experts."
        if prefix + "gate_up_proj" in self._tensors:
            gate, up = np.split(self._slice(prefix + "gate_up_proj", expert), 2)
            return gate, up, self._slice(prefix + "down_proj", expert)
        parts = [self.matrix(f"{prefix}{expert}.{part}_proj") for part in ("gate", "up", "down")]
        return parts[0], parts[1], parts[2]

    def mxfp4_expert(self, layer: int, expert: int) -> tuple[np.ndarray, ...]:
        """Returns gate_up [2 I, H] with its bias and down [H, I] with its bias."""
        parts = []
        for part in ("gate_up_proj", "down_proj"):
            name = f"model.layers.{layer}.mlp.experts.{part}"
            parts.append(dequantize_mxfp4(self._tensors[name + "_blocks"].data[expert],
                                          self._tensors[name + "_scales"].data[expert]))
            parts.append(self._slice(name + "_bias", expert))
        return tuple(parts)

    def _int4(self, name: str) -> np.ndarray:
        rows, columns = (int(size) for size in self._tensors[name + ".weight_shape"].data)
        words = self._tensors[name + ".weight_packed"].data
        scales = self._tensors[name + ".weight_scale"].to_float()
        matrix = dequantize_int4(words, scales, columns)
        if matrix.shape != (rows, columns):
            raise ValueError(f"{name}: shape {matrix.shape}, stated {(rows, columns)}")
        return matrix

    def _slice(self, name: str, index: int) -> np.ndarray:
        dtype, data = self._tensors[name]
        part = np.ascontiguousarray(data[index])
        return bf16_to_float(part) if dtype == "BF16" else part.astype(np.float64)
