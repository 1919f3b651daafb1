"""The fields of config.json that the forward pass needs, for the DeepSeek and Kimi families."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

INNER_NORM_EPS = 1e-6  # The official modules build the two inner MLA norms with their own default.
V2_MODEL_TYPES = ("deepseek_v2",)


@dataclasses.dataclass(frozen=True)
class Yarn:
    """Parameters of YaRN. A missing mscale is None."""

    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    mscale: float | None
    mscale_all_dim: float | None


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Dimensions and switches of one checkpoint."""

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: int
    dense_layers: int
    moe_layer_freq: int
    heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope: int
    qk_rope: int
    v_head: int
    experts: int
    experts_per_token: int
    groups: int
    groups_kept: int
    topk_method: str
    scoring: str
    normalize_weights: bool
    routed_scale: float
    norm_eps: float
    rope_theta: float
    yarn: Yarn | None

    def is_moe(self, layer: int) -> bool:
        """Says whether a layer routes to experts."""
        return layer >= self.dense_layers and layer % self.moe_layer_freq == 0


class Fields:
    """Looks fields up in text_config first, then at the top level."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._scopes = [config.get("text_config") or {}, config]

    def get(self, name: str, default: Any = None) -> Any:
        """Returns a field, or the default where it is absent or null."""
        for scope in self._scopes:
            if scope.get(name) is not None:
                return scope[name]
        return default

    def need(self, name: str) -> Any:
        """Returns a field that must be there."""
        value = self.get(name)
        if value is None:
            raise KeyError(f"config.json has no {name}")
        return value


def parse_yarn(rope: dict[str, Any]) -> Yarn | None:
    """Reads rope_scaling or rope_parameters; None where the frequencies are not scaled."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "yarn":
        raise ValueError(f"unknown rope type {kind}")
    return Yarn(
        factor=float(rope["factor"]),
        original_positions=int(rope["original_max_position_embeddings"]),
        beta_fast=float(rope.get("beta_fast", 32.0)),
        beta_slow=float(rope.get("beta_slow", 1.0)),
        mscale=rope.get("mscale"),
        mscale_all_dim=rope.get("mscale_all_dim"),
    )


def parse_config(config: dict[str, Any]) -> ModelConfig:
    """Reads a parsed config.json."""
    fields = Fields(config)
    model_type = str(fields.need("model_type"))
    is_v2 = model_type in V2_MODEL_TYPES
    rope = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    return ModelConfig(
        model_type=model_type,
        vocab_size=fields.need("vocab_size"),
        hidden_size=fields.need("hidden_size"),
        layers=fields.need("num_hidden_layers"),
        dense_layers=fields.get("first_k_dense_replace", 0),
        moe_layer_freq=fields.get("moe_layer_freq", 1),
        heads=fields.need("num_attention_heads"),
        q_lora_rank=fields.get("q_lora_rank"),
        kv_lora_rank=fields.need("kv_lora_rank"),
        qk_nope=fields.need("qk_nope_head_dim"),
        qk_rope=fields.need("qk_rope_head_dim"),
        v_head=fields.need("v_head_dim"),
        experts=fields.need("n_routed_experts"),
        experts_per_token=fields.need("num_experts_per_tok"),
        groups=fields.get("n_group", 1),
        groups_kept=fields.get("topk_group", 1),
        topk_method=fields.get("topk_method", "greedy" if is_v2 else "noaux_tc"),
        scoring=fields.get("scoring_func", "softmax" if is_v2 else "sigmoid"),
        normalize_weights=bool(fields.get("norm_topk_prob", not is_v2)),
        routed_scale=float(fields.get("routed_scaling_factor", 1.0)),
        norm_eps=float(fields.need("rms_norm_eps")),
        rope_theta=float(rope.get("rope_theta") or fields.get("rope_theta", 10000.0)),
        yarn=parse_yarn(rope),
    )


def read_config(folder: pathlib.Path) -> ModelConfig:
    """Reads config.json of a checkpoint folder."""
    return parse_config(json.loads((folder / "config.json").read_text()))
