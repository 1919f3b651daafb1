"""The fields of config.json that the forward pass needs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

INNER_NORM_EPS = 1e-6  # The official modules build the two inner MLA norms with their own default.
V2_MODEL_TYPES = ("deepseek_v2",)
GROUPED_MODEL_TYPES = ("qwen3_moe", "mixtral", "glm4_moe", "gpt_oss")


@dataclasses.dataclass(frozen=True)
class Yarn:
    """Parameters of YaRN. A missing mscale is None."""

    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    mscale: float | None
    mscale_all_dim: float | None
    truncate: bool = True


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Dimensions and switches of one checkpoint. Grouped attention has kv_heads, and qk_nope +
    qk_rope = v_head; latent attention has the ranks instead."""

    model_type: str
    vocab_size: int
    hidden_size: int
    layers: int
    moe_layers: frozenset[int]
    heads: int
    kv_heads: int
    qk_norm: bool
    attention_bias: bool
    q_lora_rank: int | None
    kv_lora_rank: int | None
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
    moe_block: str
    windows: tuple[int | None, ...]  # by layer: how many positions back it looks, itself one
    swiglu_limit: float | None  # gpt-oss, which has biases and sinks everywhere besides

    def is_moe(self, layer: int) -> bool:
        """Says whether a layer routes to experts."""
        return layer in self.moe_layers


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
        truncate=bool(rope.get("truncate", True)),
    )


def parse_moe_layers(fields: Fields, model_type: str) -> frozenset[int]:
    """Says which layers have experts."""
    layers = range(fields.need("num_hidden_layers"))
    if model_type in ("mixtral", "gpt_oss"):
        return frozenset(layers)
    if model_type == "qwen3_moe":
        step, dense = fields.get("decoder_sparse_step", 1), fields.get("mlp_only_layers", [])
        return frozenset(i for i in layers if i not in dense and (i + 1) % step == 0)
    first, step = fields.need("first_k_dense_replace"), fields.get("moe_layer_freq", 1)
    return frozenset(i for i in layers if i >= first and i % step == 0)


def parse_attention(fields: Fields, model_type: str, rope: dict[str, Any]) -> dict[str, Any]:
    """Reads what the two kinds of attention say in different words."""
    if model_type not in GROUPED_MODEL_TYPES:
        return {"kv_heads": 0, "qk_norm": False, "attention_bias": False,
                "q_lora_rank": fields.get("q_lora_rank"),
                "kv_lora_rank": fields.need("kv_lora_rank"),
                "qk_nope": fields.need("qk_nope_head_dim"),
                "qk_rope": fields.need("qk_rope_head_dim"), "v_head": fields.need("v_head_dim")}
    head = fields.get("head_dim", fields.need("hidden_size") // fields.need("num_attention_heads"))
    glm = model_type == "glm4_moe"
    share = fields.get("partial_rotary_factor", rope.get("partial_rotary_factor", 0.5))
    rotary = int(head * share) if glm else head
    return {"kv_heads": fields.need("num_key_value_heads"),
            "qk_norm": model_type == "qwen3_moe" or bool(fields.get("use_qk_norm", False)),
            "attention_bias": (glm or model_type == "gpt_oss")
                              and bool(fields.get("attention_bias", False)),
            "q_lora_rank": None, "kv_lora_rank": None,
            "qk_nope": head - rotary, "qk_rope": rotary, "v_head": head}


def parse_router(fields: Fields, model_type: str) -> dict[str, Any]:
    """Reads what decides a choice of experts."""
    softmax = model_type in (*V2_MODEL_TYPES, "qwen3_moe", "mixtral", "gpt_oss")
    names = {"qwen3_moe": "num_experts", "mixtral": "num_local_experts",
             "gpt_oss": "num_local_experts"}
    normalize = (model_type in ("mixtral", "gpt_oss")
                 or bool(fields.get("norm_topk_prob", not softmax)))
    return {"experts": fields.need(names.get(model_type, "n_routed_experts")),
            "experts_per_token": fields.need("num_experts_per_tok"),
            "groups": fields.get("n_group", 1), "groups_kept": fields.get("topk_group", 1),
            "topk_method": fields.get("topk_method", "greedy" if softmax else "noaux_tc"),
            "scoring": fields.get("scoring_func", "softmax" if softmax else "sigmoid"),
            "normalize_weights": normalize,
            "routed_scale": float(fields.get("routed_scaling_factor", 1.0)),
            "moe_block": "block_sparse_moe" if model_type == "mixtral" else "mlp"}


def parse_windows(fields: Fields) -> tuple[int | None, ...]:
    """Returns how far back each layer looks, None where to the beginning."""
    layers = fields.need("num_hidden_layers")
    types = fields.get("layer_types", ["full_attention"] * layers)
    window = fields.get("sliding_window")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def parse_config(config: dict[str, Any]) -> ModelConfig:
    """Reads a parsed config.json."""
    fields = Fields(config)
    model_type = str(fields.need("model_type"))
    rope = fields.get("rope_scaling") or fields.get("rope_parameters") or {}
    return ModelConfig(
        model_type=model_type,
        vocab_size=fields.need("vocab_size"),
        hidden_size=fields.need("hidden_size"),
        layers=fields.need("num_hidden_layers"),
        moe_layers=parse_moe_layers(fields, model_type),
        heads=fields.need("num_attention_heads"),
        norm_eps=float(fields.need("rms_norm_eps")),
        rope_theta=float(rope.get("rope_theta") or fields.get("rope_theta", 10000.0)),
        yarn=parse_yarn(rope),
        windows=parse_windows(fields),
        swiglu_limit=7.0 if model_type == "gpt_oss" else None,
        **parse_attention(fields, model_type, rope),
        **parse_router(fields, model_type),
    )


def read_config(folder: pathlib.Path) -> ModelConfig:
    """Reads config.json of a checkpoint folder."""
    return parse_config(json.loads((folder / "config.json").read_text()))
