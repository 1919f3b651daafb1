"""Writes toy checkpoints in the formats of other programs: GGUF, MLX, compressed-tensors.

Usage: python3 recast_toys.py OUT_DIR [--only NAME]

Random weights as make_toys.py draws them are quantised; the float64 reference runs on what the
codes stand for. Each folder holds what a user would have, and the expected results.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
import tempfile
import zlib
from typing import Any, Callable

import numpy as np

from block_formats import BLOCK_FORMATS, pack_bits, quantize_affine, quantize_zero_point
from gguf_io import GgufTensor, Typed, write_gguf, write_split
from make_toys import draw_ids, make_from_arguments, write_expected
from model import Model
from number_formats import bf16_to_float, dequantize_mxfp4, float_to_bf16
from safetensors_io import Tensor, native, write_file
from toy_specs import ToySpec, config_json, fields, grouped_fields, yarn
from toy_weights import ToyBuilder

F32 = np.float32
GGUF_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm", "self_attn.kv_b_proj": "attn_kv_b",
    "self_attn.embed_q": "attn_k_b", "self_attn.unembed_out": "attn_v_b",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
    "mlp.switch_mlp.gate_proj": "ffn_gate_exps", "mlp.switch_mlp.up_proj": "ffn_up_exps",
    "mlp.switch_mlp.down_proj": "ffn_down_exps", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclasses.dataclass(frozen=True)
class Recast:
    """A toy and the form that it gets."""

    name: str
    spec: ToySpec
    form: str  # "gguf", "mlx" or "packed"
    # GGUF: module ending -> type, "" for the rest. MLX: (bits, group), "mxfp4". Packed: the same.
    kinds: dict[str, Any]
    split_kv: bool = True
    parts: int = 1
    dtype: str = "BF16"  # of scales

    def kind(self, module: str) -> Any:
        """What a module is stored as: the longest ending that fits."""
        fitting = [ending for ending in self.kinds if module.endswith(ending)]
        return self.kinds[max(fitting, key=len)]

    def rounds(self, name: str) -> bool:
        """Whether the engine rounds what meets an official linear: codes are whole numbers."""
        module = name.replace(".experts.", ".switch_mlp.").replace("gate_up_proj", "gate_proj")
        return self.kind(module) not in (None, "F32", "F16", "BF16")


def wide_latent(name: str, model_type: str = "deepseek_v3", **changes: Any) -> ToySpec:
    """A DeepSeek whose inputs are whole blocks of 256 where they can be."""
    sizes = {"hidden_size": 256, "moe_intermediate_size": 256, "intermediate_size": 256,
             "q_lora_rank": 64, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16,
             "v_head_dim": 32, "num_hidden_layers": 2, "torch_dtype": "float32"}
    return ToySpec(name, "F32", fields(model_type, **{**sizes, **changes}), shards=1)


def wide_grouped(name: str, architecture: str, model_type: str, **changes: Any) -> ToySpec:
    """The same with grouped-query attention."""
    sizes = {"hidden_size": 256, "moe_intermediate_size": 256, "num_attention_heads": 8,
             "num_hidden_layers": 2, "torch_dtype": "float32"}
    return ToySpec(name, "F32", grouped_fields(architecture, model_type, **{**sizes, **changes}),
                   shards=1, experts="MXFP4" if model_type == "gpt_oss" else "")


def qwen3(name: str) -> ToySpec:
    """Qwen3-MoE."""
    return wide_grouped(name, "Qwen3MoeForCausalLM", "qwen3_moe", num_experts=8,
                        norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[])


def mixtral(name: str) -> ToySpec:
    """Mixtral."""
    return wide_grouped(name, "MixtralForCausalLM", "mixtral", num_local_experts=4,
                        rms_norm_eps=1e-5, attention_bias=..., moe_intermediate_size=...,
                        intermediate_size=256)


def glm4(name: str) -> ToySpec:
    """GLM-4.5."""
    return wide_grouped(name, "Glm4MoeForCausalLM", "glm4_moe", use_qk_norm=True,
                        partial_rotary_factor=0.5, routed_scaling_factor=2.5, n_routed_experts=8,
                        n_shared_experts=1, first_k_dense_replace=1, n_group=1, topk_group=1,
                        norm_topk_prob=True, attention_bias=True, rms_norm_eps=1e-5)


def gpt_oss(name: str) -> ToySpec:
    """gpt-oss."""
    stretched = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
                 "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return wide_grouped(name, "GptOssForCausalLM", "gpt_oss", intermediate_size=256,
                        moe_intermediate_size=..., num_local_experts=8, rope_theta=150000,
                        rope_scaling=stretched, attention_bias=True, rms_norm_eps=1e-5,
                        sliding_window=128, swiglu_limit=7.0,
                        layer_types=["sliding_attention", "full_attention"], experts_per_token=2)


def all_recasts() -> list[Recast]:
    """Every toy of this kind."""
    v2 = {"architectures": ["DeepseekV2ForCausalLM"], "scoring_func": "softmax",
          "norm_topk_prob": False, "topk_method": "greedy", "q_lora_rank": None,
          "routed_scaling_factor": 1.0, "n_shared_experts": 2,
          "rope_scaling": yarn(40, mscale=0.707, mscale_all_dim=0.707)}
    return [
        Recast("gguf_q4_k_m", wide_latent("v3"), "gguf",
               {"": "Q4_K", "down_proj": "Q6_K", "lm_head": "Q6_K", "q_b_proj": "Q8_0",
                "embed_q": "Q8_0", "unembed_out": "Q8_0", "o_proj": "Q5_0"}, parts=3),
        # Heads narrower than a group of 32, and gates in other formats than what they meet.
        Recast("gguf_mixed", wide_latent("mixed", v_head_dim=16, qk_nope_head_dim=16), "gguf",
               {"": "Q8_0", "up_proj": "Q4_K", "mlp.gate_proj": "F16",
                "shared_experts.up_proj": "F16",
                "switch_mlp.gate_proj": "BF16", "kv_b_proj": "Q4_0"}, split_kv=False),
        Recast("gguf_v2_lite", wide_latent("v2", "deepseek_v2", **v2), "gguf",
               {"": "Q5_K", "down_proj": "IQ4_XS", "kv_b_proj": "Q4_0", "o_proj": "Q5_1"},
               split_kv=False),
        Recast("gguf_qwen3", qwen3("qwen3"), "gguf",
               {"": "Q8_0", "up_proj": "Q4_1", "gate_proj": "IQ4_NL", "embed_tokens": "F16",
                "v_proj": "BF16"}),
        Recast("gguf_mixtral", mixtral("mixtral"), "gguf", {"": "Q4_0", "down_proj": "Q5_K"}),
        Recast("gguf_glm4", glm4("glm4"), "gguf", {"": "Q6_K", "up_proj": "Q4_K"}),
        Recast("gguf_gpt_oss", gpt_oss("oss"), "gguf",
               {"": "Q8_0", "switch_mlp.gate_proj": "MXFP4", "switch_mlp.up_proj": "MXFP4",
                "switch_mlp.down_proj": "MXFP4"}),
        Recast("mlx_v3", wide_latent("v3m"), "mlx",
               {"": (4, 64), "mlp.gate": (8, 64), "embed_q": (4, 32), "unembed_out": (6, 64),
                "lm_head": (6, 64)}),
        Recast("mlx_qwen3", qwen3("qwen3m"), "mlx",
               {"": (3, 128), "mlp.gate": None, "down_proj": (5, 64), "o_proj": (2, 32),
                "embed_tokens": (8, 32)}, dtype="F16"),
        Recast("mlx_gpt_oss", gpt_oss("ossm"), "mlx",
               {"": (8, 32), "switch_mlp.gate_proj": "mxfp4", "switch_mlp.up_proj": "mxfp4",
                "switch_mlp.down_proj": "mxfp4"}),
        Recast("packed_g128", qwen3("qwen3p"), "packed",
               {"": (4, 128), "mlp.gate": None, "embed_tokens": None, "lm_head": None,
                "o_proj": (8, 256), "down_proj": (4, 64)}),
    ]


# --- The model's tensors, as other programs arrange them --------------------------------------


def stack_experts(tensors: dict[str, np.ndarray], mixtral_names: bool) -> dict[str, np.ndarray]:
    """Replaces each expert's matrices by one tensor a layer."""
    parts = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"} if mixtral_names else {}
    out: dict[str, np.ndarray] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, values in tensors.items():
        if ".experts." not in name or "_bias" in name or "proj_" in name:
            out[name.replace("block_sparse_moe", "mlp")] = values
            continue
        prefix, rest = name.split(".experts.")
        part = rest.split(".")[1]
        prefix = prefix.replace("block_sparse_moe", "mlp")
        stacks.setdefault(f"{prefix}.switch_mlp.{parts.get(part, part)}.weight", []).append(values)
    out.update({name: np.stack(stack) for name, stack in stacks.items()})
    return out


def open_gpt_oss(tensors: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Takes gate and up of gpt-oss apart; MXFP4 as the numbers that it stands for."""
    out = {}
    for name, tensor in tensors.items():
        base = name.removesuffix("_blocks").removesuffix("_bias")
        if name.endswith("_scales"):
            continue
        if not name.endswith(("_blocks", "_bias")):
            out[name] = tensor.to_float()
            continue
        is_bias = name.endswith("_bias")
        values = (tensor.to_float() if is_bias else
                  dequantize_mxfp4(tensor.data, tensors[base + "_scales"].data))
        last = "bias" if is_bias else "weight"
        base = base.replace(".experts.", ".switch_mlp.")
        if "gate_up_proj" in base:
            out[base.replace("gate_up", "gate") + "." + last] = values[:, 0::2]
            out[base.replace("gate_up", "up") + "." + last] = values[:, 1::2]
        else:
            out[base + "." + last] = values
    return out


def split_kv_b(tensors: dict[str, np.ndarray], spec: ToySpec) -> dict[str, np.ndarray]:
    """Replaces kv_b by W_uk, transposed head by head, and W_uv."""
    heads, nope = spec.fields["num_attention_heads"], spec.fields["qk_nope_head_dim"]
    out = {}
    for name, values in tensors.items():
        if not name.endswith("kv_b_proj.weight"):
            out[name] = values
            continue
        both = values.reshape(heads, -1, values.shape[-1])
        prefix = name.removesuffix("kv_b_proj.weight")
        out[prefix + "embed_q.weight"] = both[:, :nope].transpose(0, 2, 1)
        out[prefix + "unembed_out.weight"] = both[:, nope:]
    return out


def join_kv_b(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The way back."""
    out = {}
    for name, values in tensors.items():
        if name.endswith("unembed_out.weight"):
            continue
        if not name.endswith("embed_q.weight"):
            out[name] = values
            continue
        other = tensors[name.replace("embed_q", "unembed_out")]
        both = np.concatenate([values.transpose(0, 2, 1), other], axis=1)
        out[name.replace("embed_q", "kv_b_proj")] = both.reshape(-1, both.shape[-1])
    return out


def arranged(recast: Recast, official: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """All tensors as float64 under MLX's names."""
    model_type = recast.spec.fields["model_type"]
    if model_type == "gpt_oss":
        return open_gpt_oss(official)
    tensors = {name: tensor.to_float() for name, tensor in official.items()}
    if recast.form == "packed":
        return tensors
    tensors = stack_experts(tensors, model_type == "mixtral")
    latent = "kv_lora_rank" in recast.spec.fields
    return split_kv_b(tensors, recast.spec) if latent and recast.split_kv else tensors


def official_again(recast: Recast, official: dict[str, Tensor],
                   decoded: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The official tensors with the decoded values in them, in float32."""
    decoded = join_kv_b(decoded)
    parts = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    out = {}
    for name, tensor in official.items():
        if name.endswith(("_blocks", "_scales", "_bias")):
            out[name] = tensor  # gpt-oss: MXFP4 again
            continue
        found = name.replace("block_sparse_moe", "mlp")
        if ".experts." in found and found not in decoded:
            prefix, rest = found.split(".experts.")
            index, part = rest.split(".")[:2]
            values = decoded[f"{prefix}.switch_mlp.{parts.get(part, part)}.weight"][int(index)]
        else:
            values = decoded[found]
        out[name] = native("F32", values)
    return out


def is_matrix(name: str, values: np.ndarray) -> bool:
    """Whether a format may apply."""
    return name.endswith(".weight") and values.ndim >= 2


# --- GGUF ---------------------------------------------------------------------------------------


def gguf_name(name: str) -> str:
    """The name that llama.cpp gives a tensor."""
    if name.endswith("e_score_correction_bias"):
        return f"blk.{name.split('.')[2]}.exp_probs_b.bias"
    if name.endswith("self_attn.sinks"):
        return f"blk.{name.split('.')[2]}.attn_sinks.weight"
    module, last = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{last}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest]}.{last}"


def neighbour_pairs(values: np.ndarray, heads: int) -> np.ndarray:
    """Reorders the rows of queries or keys as converters of llama do."""
    shape = values.shape
    return values.reshape(heads, 2, -1, *shape[1:]).swapaxes(1, 2).reshape(shape)


def encode_gguf(kind: str, values: np.ndarray) -> tuple[GgufTensor, np.ndarray]:
    """The tensor and what it stands for."""
    shape = tuple(values.shape)
    if kind == "F32":
        stored = values.astype("<f4")
        return GgufTensor(0, shape, stored.tobytes()), stored
    if kind == "F16":
        stored = values.astype("<f2")
        return GgufTensor(1, shape, stored.tobytes()), stored.astype(F32)
    if kind == "BF16":
        stored = float_to_bf16(values)
        return GgufTensor(30, shape, stored.tobytes()), bf16_to_float(stored)
    block = BLOCK_FORMATS[kind]
    raw = block.encode(values.astype(F32).reshape(*shape[:-1], -1, block.inputs))
    return GgufTensor(block.number, shape, raw.tobytes()), block.decode(raw).reshape(shape)


def gguf_kind(recast: Recast, name: str, values: np.ndarray) -> str:
    """The type of one tensor; blocks that do not fit become smaller ones, as llama.cpp does."""
    if not is_matrix(name, values) or name.endswith(("mlp.gate.weight", "mlp.router.weight")):
        return "F32"
    kind = recast.kind(name.removesuffix(".weight"))
    block = BLOCK_FORMATS.get(kind)
    return kind if block is None or values.shape[-1] % block.inputs == 0 else "Q5_0"


def gguf_metadata(recast: Recast) -> dict[str, Any]:
    """The keys that llama.cpp's converter writes."""
    sizes = recast.spec.fields
    arch = {"deepseek_v3": "deepseek2", "deepseek_v2": "deepseek2", "qwen3_moe": "qwen3moe",
            "mixtral": "llama", "glm4_moe": "glm4moe", "gpt_oss": "gpt-oss"}[sizes["model_type"]]
    own: dict[str, Any] = {
        "block_count": sizes["num_hidden_layers"],
        "context_length": sizes["max_position_embeddings"],
        "embedding_length": sizes["hidden_size"], "feed_forward_length": sizes["intermediate_size"],
        "attention.head_count": sizes["num_attention_heads"],
        "attention.head_count_kv": sizes["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(sizes["rms_norm_eps"]),
        "rope.freq_base": float(sizes["rope_theta"]),
        "expert_used_count": sizes["num_experts_per_tok"],
    }
    for field in ("n_routed_experts", "num_experts", "num_local_experts"):
        if field in sizes:
            own["expert_count"] = sizes[field]
    own["expert_feed_forward_length"] = sizes.get("moe_intermediate_size",
                                                  sizes["intermediate_size"])
    own.update(latent_metadata(recast) if arch == "deepseek2" else grouped_metadata(sizes, arch))
    scaling = sizes.get("rope_scaling")
    if scaling:
        own.update({"rope.scaling.type": "yarn", "rope.scaling.factor": float(scaling["factor"]),
                    "rope.scaling.original_context_length":
                        scaling["original_max_position_embeddings"]})
        if "mscale_all_dim" in scaling:
            own["rope.scaling.yarn_log_multiplier"] = 0.1 * scaling["mscale_all_dim"]
    return {"general.architecture": arch, "general.name": recast.name,
            **{f"{arch}.{key}": value for key, value in own.items()},
            **byte_tokenizer(sizes["vocab_size"]),
            "tokenizer.ggml.eos_token_id": sizes["eos_token_id"]}


def byte_letters() -> list[str]:
    """GPT-2's printable character for each byte."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    table = {byte: chr(byte) for byte in own}
    table.update({byte: chr(256 + i) for i, byte in enumerate(others)})
    return [table[byte] for byte in range(256)]


def byte_tokenizer(vocab_size: int) -> dict[str, Any]:
    """Tokens that are bytes, and unused ones."""
    unused = [f"[PAD{i}]" for i in range(256, vocab_size)]
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2",
            "tokenizer.ggml.tokens": byte_letters() + unused,
            "tokenizer.ggml.token_type": [1] * 256 + [5] * len(unused),
            "tokenizer.ggml.merges": [],
            "tokenizer.chat_template":
                "{% for message in messages %}{{ message.content }}{% endfor %}"}


def latent_metadata(recast: Recast) -> dict[str, Any]:
    """What deepseek2 has besides."""
    sizes = recast.spec.fields
    nope, rope, value = (sizes[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim",
                                                "v_head_dim"))
    own = {"attention.kv_lora_rank": sizes["kv_lora_rank"], "rope.dimension_count": rope,
           "expert_shared_count": sizes["n_shared_experts"],
           "expert_weights_scale": float(sizes["routed_scaling_factor"]),
           "expert_weights_norm": sizes["norm_topk_prob"],
           "expert_gating_func": 2 if sizes["scoring_func"] == "sigmoid" else 1,
           "leading_dense_block_count": sizes["first_k_dense_replace"]}
    if sizes["q_lora_rank"]:
        own["attention.q_lora_rank"] = sizes["q_lora_rank"]
    if recast.split_kv:
        latent = sizes["kv_lora_rank"]
        own.update({"attention.key_length": latent + rope, "attention.value_length": latent,
                    "attention.key_length_mla": nope + rope, "attention.value_length_mla": value})
    else:
        own.update({"attention.key_length": nope + rope, "attention.value_length": value})
    return own


def grouped_metadata(sizes: dict[str, Any], arch: str) -> dict[str, Any]:
    """What the others have besides."""
    head = sizes["head_dim"]
    own: dict[str, Any] = {"attention.key_length": head, "attention.value_length": head,
                           "rope.dimension_count": head}
    if arch == "glm4moe":
        own.update({"rope.dimension_count": head // 2, "expert_gating_func": 2,
                    "expert_shared_count": sizes["n_shared_experts"],
                    "expert_weights_scale": float(sizes["routed_scaling_factor"]),
                    "expert_weights_norm": sizes["norm_topk_prob"],
                    "leading_dense_block_count": sizes["first_k_dense_replace"]})
    if arch == "gpt-oss":
        own["attention.sliding_window"] = sizes["sliding_window"]
    return own


def write_as_gguf(recast: Recast, folder: pathlib.Path,
                  tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Writes the files and returns what their tensors stand for."""
    sizes = recast.spec.fields
    post_norm = sizes["model_type"] in ("glm4_moe", "gpt_oss")
    stored, decoded = {}, {}
    for name, values in tensors.items():
        tensor, meant = encode_gguf(gguf_kind(recast, name, values), values)
        decoded[name] = meant
        if sizes["model_type"] == "mixtral" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = sizes["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            rows = len(values)
            raw = np.frombuffer(tensor.data, np.uint8).reshape(rows, -1)
            tensor = tensor._replace(data=neighbour_pairs(raw, heads).tobytes())
        stored_name = gguf_name(name)
        if post_norm:
            stored_name = stored_name.replace("ffn_norm", "post_attention_norm")
        stored[stored_name] = tensor
    if recast.parts == 1:
        write_gguf(folder / "toy.gguf", gguf_metadata(recast), stored)
    else:
        write_split(folder, "toy", gguf_metadata(recast), stored, recast.parts)
    return decoded


# --- MLX and compressed-tensors -----------------------------------------------------------------


def rounding(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    """What a scale becomes when it is stored."""
    if dtype == "BF16":
        return lambda values: bf16_to_float(float_to_bf16(values)).astype(F32)
    return lambda values: values.astype(np.float16 if dtype == "F16" else F32).astype(F32)


def stored_scale(dtype: str, values: np.ndarray) -> Tensor:
    """A tensor of scales."""
    return Tensor("BF16", float_to_bf16(values)) if dtype == "BF16" else native(dtype, values)


def write_as_mlx(recast: Recast, folder: pathlib.Path,
                 tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Writes config.json and one file; returns what its tensors stand for."""
    stored: dict[str, Tensor] = {}
    decoded: dict[str, np.ndarray] = {}
    overrides: dict[str, Any] = {}
    for name, values in tensors.items():
        module = name.removesuffix(".weight")
        kind = recast.kind(module) if is_matrix(name, values) else None
        if kind is None:
            stored[name] = native("F32", values)
            decoded[name] = values
        elif kind == "mxfp4":
            groups = values.astype(F32).reshape(*values.shape[:-1], -1, 32)
            raw = BLOCK_FORMATS["MXFP4"].encode(groups)
            codes = np.concatenate([raw[..., 1:] & 15, raw[..., 1:] >> 4], axis=-1)
            stored[name] = native("U32", pack_bits(codes.reshape(values.shape), 4))
            stored[module + ".scales"] = native("U8", raw[..., 0])
            decoded[name] = BLOCK_FORMATS["MXFP4"].decode(raw).reshape(values.shape)
            overrides[module] = {"group_size": 32, "bits": 4, "mode": "mxfp4"}
        else:
            bits, group = kind
            words, scales, offsets, decoded[name] = quantize_affine(values, bits, group,
                                                                    rounding(recast.dtype))
            stored[name] = native("U32", words)
            stored[module + ".scales"] = stored_scale(recast.dtype, scales)
            stored[module + ".biases"] = stored_scale(recast.dtype, offsets)
            overrides[module] = {"group_size": group, "bits": bits}
    write_file(folder / "model.safetensors", stored)
    bits, group = recast.kinds[""]
    config = config_json(recast.spec)
    block = {"group_size": group, "bits": bits, "mode": "affine", **overrides}
    config.update({"quantization": block, "quantization_config": block})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return decoded


def write_as_packed(recast: Recast, folder: pathlib.Path,
                    tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """compressed-tensors with zero points."""
    stored: dict[str, Tensor] = {}
    decoded: dict[str, np.ndarray] = {}
    for name, values in tensors.items():
        module = name.removesuffix(".weight")
        kind = recast.kind(module) if is_matrix(name, values) else None
        if kind is None:
            stored[name], decoded[name] = native("F32", values), values
            continue
        bits, group = kind
        words, scales, zeros, decoded[name] = quantize_zero_point(values, bits, group,
                                                                  rounding(recast.dtype))
        stored[module + ".weight_packed"] = native("I32", words.view("<i4"))
        stored[module + ".weight_scale"] = stored_scale(recast.dtype, scales)
        stored[module + ".weight_zero_point"] = native("I32", zeros.view("<i4"))
        stored[module + ".weight_shape"] = native("I64", np.array(values.shape))
    write_file(folder / "model.safetensors", stored)
    schemes = sorted({kind for kind in recast.kinds.values() if kind})
    groups = {f"group_{i}": {"targets": ["Linear"], "weights": {
        "num_bits": bits, "type": "int", "symmetric": False, "strategy": "group",
        "group_size": group, "dynamic": False}} for i, (bits, group) in enumerate(schemes)}
    config = config_json(recast.spec)
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "quantization_status": "compressed", "ignore": ["lm_head", "re:.*mlp.gate$"],
        "config_groups": groups}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return decoded


WRITERS = {"gguf": write_as_gguf, "mlx": write_as_mlx, "packed": write_as_packed}


def make_recast(recast: Recast, out: pathlib.Path) -> None:
    """Writes one folder, replacing an older one."""
    folder = out / recast.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    seed = zlib.crc32(recast.name.encode())
    official = ToyBuilder(recast.spec, seed).build()
    decoded = WRITERS[recast.form](recast, folder, arranged(recast, official))
    with tempfile.TemporaryDirectory() as scratch:
        plain = pathlib.Path(scratch)
        write_file(plain / "model.safetensors", official_again(recast, official, decoded))
        (plain / "config.json").write_text(json.dumps(config_json(recast.spec)))
        ids, output = draw_ids(Model(plain), seed)
        write_expected(folder, ids, output, Model(plain, recast.rounds))
    print(f"{recast.name}: routing margin {output.margin:.1e}, "
          f"logits std {float(output.logits.std()):.2f}", flush=True)


if __name__ == "__main__":
    make_from_arguments(__doc__.splitlines()[0], all_recasts(), make_recast)
