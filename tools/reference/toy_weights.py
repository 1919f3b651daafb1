"""Random weights of a toy checkpoint, under the official names and in the official formats."""

from __future__ import annotations

from typing import Any

import numpy as np

from model_config import parse_config
from number_formats import quantize_fp8, quantize_int4, quantize_mxfp4
from safetensors_io import Tensor, bf16, native
from toy_specs import ToySpec

# Small embeddings and small latents let the epsilon of each norm show in the logits.
EMBEDDING_STD = 0.05
LATENT_GAIN = 0.05
ROUTER_GAIN = 2.0
QUERY_GAIN = 0.5
BIAS_STD = 0.3
CLAMPED_GAIN = 3.0  # so that some values meet the limit
SCALE_SUFFIX = ".weight_scale_inv"


class ToyBuilder:
    """Draws tensors one by one, in the order of the layers."""

    def __init__(self, spec: ToySpec, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._spec = spec
        self._fields: dict[str, Any] = spec.fields
        self._config = parse_config(spec.fields)
        self._rng = np.random.default_rng(seed)
        self._float_dtype = "BF16" if spec.linears == "FP8" else spec.linears

    def build(self) -> dict[str, Tensor]:
        """Draws the whole checkpoint."""
        sizes = self._fields
        vocab, hidden = sizes["vocab_size"], sizes["hidden_size"]
        self._plain("model.embed_tokens.weight", self._normal(vocab, hidden) * EMBEDDING_STD)
        layers = sizes["num_hidden_layers"]
        for layer in range(layers):
            self._layer(layer)
        if self._spec.mtp:
            self._mtp_layer(layers)
        self._norm("model.norm", hidden)
        self._plain("lm_head.weight", self._normal(vocab, hidden) * hidden**-0.5)
        tensors = self._with_vision() if self._spec.multimodal else self.tensors
        return scales_last(tensors) if self._spec.scales_apart else tensors

    def _normal(self, *shape: int) -> np.ndarray:
        return self._rng.standard_normal(shape)

    def _plain(self, name: str, values: np.ndarray) -> None:
        """Stores values in the unquantised type of the checkpoint."""
        dtype = self._float_dtype
        self.tensors[name] = bf16(values) if dtype == "BF16" else native(dtype, values)

    def _norm(self, name: str, size: int) -> None:
        self._plain(name + ".weight", 1.0 + 0.2 * self._normal(size))

    def _draw(self, rows: int, columns: int, gain: float | np.ndarray = 1.0) -> np.ndarray:
        """Draws a matrix that keeps the size of its input, times a gain (or one per row)."""
        return self._normal(rows, columns) * gain * columns**-0.5

    def _linear(self, name: str, rows: int, columns: int,
                gain: float | np.ndarray = 1.0) -> None:
        """Draws a linear that the checkpoint's format applies to."""
        values = self._draw(rows, columns, gain)
        if self._spec.linears != "FP8":
            self._plain(name + ".weight", values)
            return
        codes, scales = quantize_fp8(values)
        self.tensors[name + ".weight"] = native("F8_E4M3", codes)
        self.tensors[name + SCALE_SUFFIX] = native("F32", scales)

    def _int4_linear(self, name: str, rows: int, columns: int) -> None:
        words, scales = quantize_int4(self._draw(rows, columns))
        self.tensors[name + ".weight_packed"] = native("I32", words)
        self.tensors[name + ".weight_scale"] = native("BF16", scales)
        shape = np.array([rows, columns])
        self.tensors[name + ".weight_shape"] = native(self._spec.shape_dtype, shape)

    def _layer(self, layer: int) -> None:
        prefix = f"model.layers.{layer}."
        hidden = self._fields["hidden_size"]
        self._norm(prefix + "input_layernorm", hidden)
        attention = self._grouped if self._config.kv_heads else self._latent
        attention(prefix + "self_attn.")
        self._norm(prefix + "post_attention_layernorm", hidden)
        if layer < self._config.layers and not self._config.is_moe(layer):
            self._mlp(prefix + "mlp", self._fields["intermediate_size"])
        else:
            self._moe(f"{prefix}{self._config.moe_block}.")

    def _grouped(self, prefix: str) -> None:
        config, hidden = self._config, self._fields["hidden_size"]
        for part, heads in (("q", config.heads), ("k", config.kv_heads), ("v", config.kv_heads)):
            gain = QUERY_GAIN if part == "q" else 1.0
            self._linear(f"{prefix}{part}_proj", heads * config.v_head, hidden, gain)
            if config.attention_bias:
                self._plain(f"{prefix}{part}_proj.bias",
                            BIAS_STD * self._normal(heads * config.v_head))
            if config.qk_norm and part != "v":
                self._norm(f"{prefix}{part}_norm", config.v_head)
        self._linear(prefix + "o_proj", hidden, config.heads * config.v_head)
        if config.swiglu_limit is not None:
            self._plain(prefix + "o_proj.bias", BIAS_STD * self._normal(hidden))
            self._plain(prefix + "sinks", self._normal(config.heads))

    def _latent(self, prefix: str) -> None:
        sizes = self._fields
        hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
        rope, latent = sizes["qk_rope_head_dim"], sizes["kv_lora_rank"]
        queries = heads * (sizes["qk_nope_head_dim"] + rope)
        if sizes["q_lora_rank"] is None:
            self._linear(prefix + "q_proj", queries, hidden, QUERY_GAIN)
        else:
            rank = sizes["q_lora_rank"]
            self._linear(prefix + "q_a_proj", rank, hidden, LATENT_GAIN)
            self._norm(prefix + "q_a_layernorm", rank)
            self._linear(prefix + "q_b_proj", queries, rank, QUERY_GAIN)
        # The rope rows are never normalised, so they are not small.
        gains = np.where(np.arange(latent + rope) < latent, LATENT_GAIN, 1.0)[:, None]
        self._linear(prefix + "kv_a_proj_with_mqa", latent + rope, hidden, gains)
        self._norm(prefix + "kv_a_layernorm", latent)
        values = heads * (sizes["qk_nope_head_dim"] + sizes["v_head_dim"])
        self._linear(prefix + "kv_b_proj", values, latent)
        self._linear(prefix + "o_proj", hidden, heads * sizes["v_head_dim"])
        if self._spec.inv_freq:
            table = 10000.0 ** (-np.arange(rope // 2) * 2.0 / rope)
            self.tensors[prefix + "rotary_emb.inv_freq"] = native("F32", table)

    def _mlp(self, name: str, width: int) -> None:
        hidden = self._fields["hidden_size"]
        self._linear(name + ".gate_proj", width, hidden)
        self._linear(name + ".up_proj", width, hidden)
        self._linear(name + ".down_proj", hidden, width)

    def _moe(self, prefix: str) -> None:
        sizes, experts = self._fields, self._config.experts
        hidden = sizes["hidden_size"]
        width = sizes.get("moe_intermediate_size", sizes.get("intermediate_size"))
        if self._config.swiglu_limit is not None:
            self._clamped_moe(prefix, width)
            return
        self._plain(prefix + "gate.weight", self._draw(experts, hidden, ROUTER_GAIN))
        if self._config.topk_method == "noaux_tc":
            bias = self._spec.bias_mean + BIAS_STD * self._normal(experts)
            self.tensors[prefix + "gate.e_score_correction_bias"] = native("F32", bias)
        if self._spec.experts == "FUSED":
            self._plain(prefix + "experts.gate_up_proj",
                        self._normal(experts, 2 * width, hidden) * hidden**-0.5)
            self._plain(prefix + "experts.down_proj",
                        self._normal(experts, hidden, width) * width**-0.5)
        else:
            for expert in range(experts):
                self._expert(f"{prefix}experts.{expert}", width)
        if sizes.get("n_shared_experts"):
            self._mlp(prefix + "shared_experts", width * sizes["n_shared_experts"])

    def _clamped_moe(self, prefix: str, width: int) -> None:
        experts, hidden = self._config.experts, self._fields["hidden_size"]
        self._plain(prefix + "router.weight", self._draw(experts, hidden, ROUTER_GAIN))
        self._plain(prefix + "router.bias", BIAS_STD * self._normal(experts))
        for part, rows, columns in (("gate_up_proj", 2 * width, hidden),
                                    ("down_proj", hidden, width)):
            gain = CLAMPED_GAIN if part == "gate_up_proj" else 1.0
            blocks, scales = quantize_mxfp4(
                self._normal(experts, rows, columns) * gain * columns**-0.5)
            self.tensors[f"{prefix}experts.{part}_blocks"] = native("U8", blocks)
            self.tensors[f"{prefix}experts.{part}_scales"] = native("U8", scales)
            self._plain(f"{prefix}experts.{part}_bias", BIAS_STD * self._normal(experts, rows))

    def _expert(self, name: str, width: int) -> None:
        hidden = self._fields["hidden_size"]
        if self._config.model_type == "mixtral":
            for part, rows, columns in (("w1", width, hidden), ("w3", width, hidden),
                                        ("w2", hidden, width)):
                self._linear(f"{name}.{part}", rows, columns)
            return
        if self._spec.experts != "INT4":
            self._mlp(name, width)
            return
        self._int4_linear(name + ".gate_proj", width, hidden)
        self._int4_linear(name + ".up_proj", width, hidden)
        self._int4_linear(name + ".down_proj", hidden, width)

    def _mtp_layer(self, layer: int) -> None:
        """A next-token layer, which a plain forward pass must skip."""
        hidden, vocab = self._fields["hidden_size"], self._fields["vocab_size"]
        prefix = f"model.layers.{layer}."
        self._plain(prefix + "embed_tokens.weight", self._normal(vocab, hidden))
        self._norm(prefix + "enorm", hidden)
        self._norm(prefix + "hnorm", hidden)
        self._plain(prefix + "eh_proj.weight", self._draw(hidden, 2 * hidden))
        self._layer(layer)
        self._norm(prefix + "shared_head.norm", hidden)
        self._plain(prefix + "shared_head.head.weight", self._draw(vocab, hidden))

    def _with_vision(self) -> dict[str, Tensor]:
        """Adds the multimodal prefix, and tensors that a text engine must skip."""
        vision = {
            "mm_projector.pre_norm.weight": bf16(self._normal(16)),
            "mm_projector.proj.0.weight": bf16(self._normal(64, 64)),
            "vision_tower.patch_embed.proj.weight": bf16(self._normal(16, 3, 14, 14)),
            "vision_tower.encoder.blocks.0.wqkv.weight": bf16(self._normal(48, 16)),
        }
        text = {"language_model." + name: tensor for name, tensor in self.tensors.items()}
        return {**text, **vision}


def scales_last(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Moves the FP8 scales behind everything else, so that they fall into the last shard."""
    return dict(sorted(tensors.items(), key=lambda item: item[0].endswith(SCALE_SUFFIX)))
