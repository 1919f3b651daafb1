"""The toy checkpoints: one per model family and per quirk of the official layout."""

from __future__ import annotations

import dataclasses
from typing import Any

KIMI_IGNORE = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
               "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]
MEDIA_TOKEN = 3


@dataclasses.dataclass(frozen=True)
class ToySpec:
    """What to write: dimensions as config.json names them, and how the files spell things."""

    name: str
    linears: str  # Stored format of all linears but the router: "BF16", "F16", "F32" or "FP8".
    fields: dict[str, Any]
    experts: str = ""  # Format of the routed experts where it differs: "INT4", "FUSED", "MXFP4".
    shards: int = 2
    multimodal: bool = False  # language_model. prefix, nested text_config, vision tensors.
    shape_dtype: str = "I32"  # Type of weight_shape.
    mtp: bool = False  # A next-token layer after the last one.
    inv_freq: bool = False  # Stored rotary tables, to be ignored.
    scales_apart: bool = False  # FP8 scales in another shard than their matrices.
    bias_mean: float = 0.0  # Centre of the router's selection bias.


def yarn(factor: float, theta_spelling: str = "type", **changes: Any) -> dict[str, Any]:
    """Returns a rope_scaling block, or the part of rope_parameters that equals one."""
    block = {theta_spelling: "yarn", "factor": factor, "original_max_position_embeddings": 4096,
             "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    return {**block, **changes}


def fields(model_type: str, **changes: Any) -> dict[str, Any]:
    """Returns the text fields of config.json, with the given ones replaced, added or (Ellipsis)
    removed."""
    kimi = model_type == "kimi_k2"
    base: dict[str, Any] = {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": model_type,
        "vocab_size": 320, "hidden_size": 96, "num_hidden_layers": 3,
        "first_k_dense_replace": 1, "intermediate_size": 160, "moe_intermediate_size": 64,
        "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2,
        "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "norm_topk_prob": True, "routed_scaling_factor": 2.827 if kimi else 2.5,
        "moe_layer_freq": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
        "q_lora_rank": 48, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8,
        "v_head_dim": 16, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 50000.0 if kimi else 10000, "rope_scaling": yarn(40),
        "max_position_embeddings": 4096, "attention_bias": False, "attention_dropout": 0.0,
        "tie_word_embeddings": False, "num_nextn_predict_layers": 0, "initializer_range": 0.02,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not ...}


def kimi_specs() -> list[ToySpec]:
    """The Kimi K2 line."""
    thinking = fields(
        "kimi_k2", vocab_size=512, hidden_size=128, num_hidden_layers=4, n_routed_experts=16,
        num_experts_per_tok=4, q_lora_rank=64, kv_lora_rank=64, qk_nope_head_dim=32,
        qk_rope_head_dim=16, v_head_dim=32, rms_norm_eps=1e-5, max_position_embeddings=262144,
        rope_scaling=yarn(64.0, beta_fast=1.0))
    instruct = fields(
        "kimi_k2", hidden_size=160, moe_intermediate_size=96, intermediate_size=192,
        q_lora_rank=64, kv_lora_rank=64, qk_nope_head_dim=32, v_head_dim=32,
        rope_scaling=yarn(32.0, beta_fast=1.0))
    k25 = fields(
        "kimi_k2", num_experts_per_tok=3, qk_rope_head_dim=16, v_head_dim=32,
        rms_norm_eps=1e-5, rope_scaling=yarn(64.0))
    return [
        ToySpec("kimi_k2_int4", "BF16", thinking, experts="INT4"),
        ToySpec("kimi_k2_fp8", "FP8", instruct, shards=3, scales_apart=True),
        ToySpec("kimi_k25", "BF16", k25, experts="INT4", multimodal=True, shape_dtype="I64"),
    ]


def deepseek_specs() -> list[ToySpec]:
    """DeepSeek-V3 as published and as other tools re-save it."""
    grouped = {"n_routed_experts": 16, "num_experts_per_tok": 4, "n_group": 4, "topk_group": 2}
    v5_rope = {"rope_theta": 10000.0, **yarn(40.0, theta_spelling="rope_type")}
    v5 = fields("deepseek_v3", rope_parameters=v5_rope, rope_scaling=..., rope_theta=...,
                topk_method=..., scoring_func=..., moe_layer_freq=..., torch_dtype=...,
                dtype="bfloat16", rope_interleave=True, qk_head_dim=24, head_dim=8,
                num_experts_per_tok=3, transformers_version="5.0.0")
    return [
        ToySpec("deepseek_v3_fp8", "FP8",
                fields("deepseek_v3", hidden_size=144, v_head_dim=32,
                       num_nextn_predict_layers=1, **grouped), mtp=True, inv_freq=True),
        ToySpec("deepseek_v3_bf16", "BF16", v5),
        ToySpec("deepseek_v3_f32", "F32",
                fields("deepseek_v3", torch_dtype="float32", hidden_size=64, n_shared_experts=2),
                shards=1),
        ToySpec("deepseek_v3_f16", "F16", fields("deepseek_v3", torch_dtype="float16"), shards=1),
        ToySpec("deepseek_v3_no_yarn", "BF16",
                fields("deepseek_v3", rope_scaling=None, rms_norm_eps=1e-5)),
        ToySpec("deepseek_v3_mscale", "BF16",
                fields("deepseek_v3", rope_scaling=yarn(40, mscale=1.0, mscale_all_dim=0.6))),
        ToySpec("deepseek_v3_fused", "BF16", {**v5, "norm_topk_prob": False}, experts="FUSED"),
        ToySpec("deepseek_v3_group_mask", "BF16", fields("deepseek_v3", **grouped),
                bias_mean=-1.0),
    ]


def relative_specs() -> list[ToySpec]:
    """Relatives of V3: no query compression, softmax routers."""
    v2 = {"architectures": ["DeepseekV2ForCausalLM"], "scoring_func": "softmax",
          "norm_topk_prob": False, "n_shared_experts": 2,
          "rope_scaling": yarn(40, mscale=0.707, mscale_all_dim=0.707)}
    moonlight = fields("deepseek_v3", q_lora_rank=None, rope_scaling=None, rope_theta=50000.0,
                       rms_norm_eps=1e-5, routed_scaling_factor=2.446)
    lite = fields("deepseek_v2", q_lora_rank=None, topk_method="greedy",
                  routed_scaling_factor=1.0, **v2)
    large = fields("deepseek_v2", topk_method="group_limited_greedy", n_routed_experts=16,
                   num_experts_per_tok=3, n_group=4, topk_group=2, routed_scaling_factor=16.0, **v2)
    return [
        ToySpec("moonlight", "BF16", moonlight),
        ToySpec("deepseek_v2_lite", "BF16", lite),
        ToySpec("deepseek_v2", "BF16", large),
    ]


def grouped_fields(architecture: str, model_type: str, **changes: Any) -> dict[str, Any]:
    """Returns the config.json of a family with grouped-query attention."""
    base: dict[str, Any] = {
        "architectures": [architecture], "model_type": model_type, "vocab_size": 320,
        "hidden_size": 96, "num_hidden_layers": 3, "intermediate_size": 160,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32,
        "num_experts_per_tok": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "rope_scaling": None, "max_position_embeddings": 4096,
        "attention_dropout": 0.0, "attention_bias": False, "tie_word_embeddings": False,
        "initializer_range": 0.02, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
        "torch_dtype": "bfloat16", "use_cache": True,
    }
    base.update(changes)
    return {key: value for key, value in base.items() if value is not ...}


def qwen3_specs() -> list[ToySpec]:
    """Qwen3-MoE: as published; with dense layers between, YaRN and fused experts."""
    common = {"num_experts": 8, "moe_intermediate_size": 64, "norm_topk_prob": True,
              "sliding_window": None, "use_sliding_window": False, "max_window_layers": 3,
              "router_aux_loss_coef": 0.001, "output_router_logits": False}
    stretched = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    return [
        ToySpec("qwen3_moe", "BF16",
                grouped_fields("Qwen3MoeForCausalLM", "qwen3_moe", decoder_sparse_step=1,
                               mlp_only_layers=[], **common)),
        ToySpec("qwen3_moe_mixed", "F32",
                grouped_fields("Qwen3MoeForCausalLM", "qwen3_moe", num_hidden_layers=5,
                               decoder_sparse_step=2, mlp_only_layers=[1], num_attention_heads=4,
                               num_key_value_heads=4, rope_scaling=stretched,
                               torch_dtype="float32", **{**common, "norm_topk_prob": False}),
                experts="FUSED", shards=1),
        ToySpec("qwen3_moe_fp8", "FP8",
                grouped_fields("Qwen3MoeForCausalLM", "qwen3_moe", hidden_size=144,
                               decoder_sparse_step=1, mlp_only_layers=[], **common)),
    ]


def mixtral_specs() -> list[ToySpec]:
    """Mixtral, whose config.json may leave head_dim to be derived."""
    return [ToySpec("mixtral", "BF16",
                    grouped_fields("MixtralForCausalLM", "mixtral", hidden_size=128, head_dim=...,
                                   num_attention_heads=4, num_key_value_heads=1,
                                   attention_bias=..., num_local_experts=4, intermediate_size=96,
                                   rms_norm_eps=1e-5, sliding_window=None,
                                   output_router_logits=False, router_aux_loss_coef=0.02))]


def glm_specs() -> list[ToySpec]:
    """GLM-4.5 with and GLM-4.5-Air without norms of queries and keys, in both spellings."""
    common = {"n_routed_experts": 8, "n_shared_experts": 1, "moe_intermediate_size": 64,
              "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "norm_topk_prob": True,
              "attention_bias": True, "rms_norm_eps": 1e-5}
    v5 = {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0,
                              "partial_rotary_factor": 0.5},
          "rope_theta": ..., "rope_scaling": ...}
    return [
        ToySpec("glm4_moe", "BF16",
                grouped_fields("Glm4MoeForCausalLM", "glm4_moe", use_qk_norm=True,
                               partial_rotary_factor=0.5, routed_scaling_factor=2.5,
                               num_nextn_predict_layers=1, **common), mtp=True),
        ToySpec("glm4_moe_air", "BF16",
                grouped_fields("Glm4MoeForCausalLM", "glm4_moe", use_qk_norm=False,
                               routed_scaling_factor=1.0, **common, **v5)),
    ]


def gpt_oss_specs() -> list[ToySpec]:
    """gpt-oss: sinks, a window in every other layer, biases everywhere, MXFP4 experts."""
    stretched = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
                 "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return [ToySpec("gpt_oss", "BF16",
                    grouped_fields("GptOssForCausalLM", "gpt_oss", num_hidden_layers=4,
                                   intermediate_size=64, num_local_experts=8, rope_theta=150000,
                                   rope_scaling=stretched, attention_bias=True, rms_norm_eps=1e-5,
                                   sliding_window=128, swiglu_limit=7.0,
                                   layer_types=["sliding_attention", "full_attention"] * 2,
                                   experts_per_token=2, router_aux_loss_coef=0.9,
                                   output_router_logits=False),
                    experts="MXFP4")]


def all_specs() -> list[ToySpec]:
    """Every toy."""
    return (kimi_specs() + deepseek_specs() + relative_specs() + qwen3_specs() + mixtral_specs()
            + glm_specs() + gpt_oss_specs())


def int4_block() -> dict[str, Any]:
    """The quantization_config of Kimi K2-Thinking."""
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
               "group_size": 32, "observer": "minmax", "dynamic": False, "actorder": None,
               "block_structure": None}
    group = {"targets": ["Linear"], "input_activations": None, "output_activations": None,
             "weights": weights}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "quantization_status": "compressed", "kv_cache_scheme": None, "ignore": KIMI_IGNORE,
            "config_groups": {"group_0": group}}


def fp8_block() -> dict[str, Any]:
    """The quantization_config of DeepSeek-V3."""
    return {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [128, 128]}


def config_json(spec: ToySpec) -> dict[str, Any]:
    """Returns the whole config.json of a toy."""
    text = dict(spec.fields)
    if spec.experts == "INT4":
        text["quantization_config"] = int4_block()
    elif spec.experts == "MXFP4":
        text["quantization_config"] = {
            "quant_method": "mxfp4", "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens",
                "lm_head"]}
    elif spec.linears == "FP8":
        text["quantization_config"] = fp8_block()
    if not spec.multimodal:
        return text
    vision = {"patch_size": 14, "vt_hidden_size": 16, "vt_num_hidden_layers": 1,
              "vt_num_attention_heads": 2, "merge_kernel_size": [2, 2], "mm_hidden_size": 16}
    return {"architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25",
            "text_config": text, "vision_config": vision, "ignore_index": -100,
            "media_placeholder_token_id": MEDIA_TOKEN, "use_unified_vision_chunk": True,
            "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "dtype": "bfloat16",
            "tie_word_embeddings": False}
