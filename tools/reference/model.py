"""Forward pass of every family in plain float64 NumPy.

This is the oracle for the C++ engine: written from the published mathematics, slow, without any
cache, batching or rounding. Matrices are [out, in]; activations are [positions, features].
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Callable

import numpy as np

from checkpoint import Checkpoint
from model_config import INNER_NORM_EPS, ModelConfig, Yarn, read_config

WEIGHT_SUM_FLOOR = 1e-20
ROUNDED_GROUP = 32

# What becomes of the input of the matrix "gate", "up", "gate_up" or "down".
PartInput = Callable[[str, np.ndarray], np.ndarray]


@dataclasses.dataclass
class Output:
    """Logits [positions, vocab], experts [positions, MoE layers, k] by falling selection score,
    and the narrowest gap between a chosen and a rejected selection score in the whole pass."""

    logits: np.ndarray
    experts: np.ndarray
    margin: float


@dataclasses.dataclass
class Routing:
    """Chosen experts and their weights, both [positions, k], and the narrowest margin."""

    experts: np.ndarray
    weights: np.ndarray
    margin: float


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """Scales each row to a root mean square of one, then by the weight."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def silu(x: np.ndarray) -> np.ndarray:
    """Returns x times its sigmoid."""
    return x * sigmoid(x)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + e^-x) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def round_to_int8(x: np.ndarray) -> np.ndarray:
    """Rounds activations to 8 bits in groups of 32 inputs, as the engine's fast path does before
    it multiplies with weights that are whole numbers (in long chunks not with those of kv_b)."""
    width = x.shape[-1]
    groups = np.pad(x, [(0, 0), (0, -width % ROUNDED_GROUP)]).reshape(len(x), -1, ROUNDED_GROUP)
    scales = np.abs(groups).max(axis=2, keepdims=True) / 127.0
    codes = np.rint(np.divide(groups, scales, out=np.zeros_like(groups), where=scales > 0.0))
    return (codes * scales).reshape(len(x), -1)[:, :width]


def swiglu(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray,
           part_input: PartInput) -> np.ndarray:
    """Gated feed-forward network."""
    inner = silu(part_input("gate", x) @ gate.T) * (part_input("up", x) @ up.T)
    return part_input("down", inner) @ down.T


# --- Rotary positions ---


def yarn_amplitude(factor: float, scale: float) -> float:
    """Attention amplitude that YaRN adds for a stretch factor."""
    return 1.0 if factor <= 1.0 else 0.1 * scale * math.log(factor) + 1.0


def yarn_ramp(yarn: Yarn, theta: float, dim: int) -> np.ndarray:
    """Returns how far each of the dim/2 frequencies is interpolated, from 0 to 1."""

    def dimension_of(rotations: float) -> float:
        wavelengths = yarn.original_positions / (rotations * 2.0 * math.pi)
        return dim * math.log(wavelengths) / (2.0 * math.log(theta))

    low, high = dimension_of(yarn.beta_fast), dimension_of(yarn.beta_slow)
    if yarn.truncate:
        low, high = float(math.floor(low)), float(math.ceil(high))
    low, high = max(low, 0.0), min(high, dim - 1.0)
    if low == high:
        high += 0.001
    return np.clip((np.arange(dim // 2) - low) / (high - low), 0.0, 1.0)


def rope_frequencies(config: ModelConfig) -> np.ndarray:
    """Returns the angle per position of each of the qk_rope/2 pairs."""
    dim = config.qk_rope
    base = config.rope_theta ** (-2.0 * np.arange(dim // 2) / dim)
    if config.yarn is None:
        return base
    ramp = yarn_ramp(config.yarn, config.rope_theta, dim)
    return base / config.yarn.factor * ramp + base * (1.0 - ramp)


def rope_multiplier(yarn: Yarn | None) -> float:
    """Returns the factor on the cosines and sines of both queries and keys."""
    if yarn is None:
        return 1.0
    if not yarn.mscale or not yarn.mscale_all_dim:
        return yarn_amplitude(yarn.factor, 1.0)
    over = yarn_amplitude(yarn.factor, yarn.mscale)
    return over / yarn_amplitude(yarn.factor, yarn.mscale_all_dim)


def softmax_scale(config: ModelConfig) -> float:
    """Returns the factor on attention scores, with YaRN's amplitude squared."""
    scale = (config.qk_nope + config.qk_rope) ** -0.5
    if config.yarn is None or not config.yarn.mscale_all_dim:
        return scale
    return scale * yarn_amplitude(config.yarn.factor, config.yarn.mscale_all_dim) ** 2


def rotate(x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Rotates [positions, ..., qk_rope]: pairs are neighbours (2j, 2j+1), with grouped attention
    (j, j + qk_rope/2)."""
    angles = np.arange(x.shape[0])[:, None] * rope_frequencies(config)
    angles = angles.reshape(x.shape[0], *([1] * (x.ndim - 2)), -1)
    cos, sin = np.cos(angles), np.sin(angles)
    if config.kv_heads:
        first, second = np.split(x, 2, axis=-1)
        rotated = np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
    else:
        even, odd = x[..., 0::2], x[..., 1::2]
        rotated = np.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return rotated.reshape(x.shape) * rope_multiplier(config.yarn)


def causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float,
                     window: int | None = None, sink: float | None = None) -> np.ndarray:
    """Attention of one head: [positions, features] each. A sink is one more score, of no value."""
    hidden = np.triu(np.ones((len(q), len(q)), dtype=bool), k=1)
    if window is not None:
        hidden |= np.tril(np.ones_like(hidden), k=-window)
    scores = np.where(hidden, -np.inf, q @ k.T * scale)
    if sink is None:
        return softmax(scores) @ v
    scores = np.concatenate([scores, np.full((len(q), 1), sink)], axis=1)
    return softmax(scores)[:, :-1] @ v


def clamped_swiglu(x: np.ndarray, gate_up: np.ndarray, gate_up_bias: np.ndarray, down: np.ndarray,
                   down_bias: np.ndarray, limit: float, part_input: PartInput) -> np.ndarray:
    """The experts of gpt-oss: rows of gate and up take turns."""
    both = part_input("gate_up", x) @ gate_up.T + gate_up_bias
    gate, up = np.minimum(both[:, 0::2], limit), np.clip(both[:, 1::2], -limit, limit)
    inner = (up + 1.0) * gate * sigmoid(1.702 * gate)
    return part_input("down", inner) @ down.T + down_bias


# --- Router ---


def keep_best_groups(config: ModelConfig, choice: np.ndarray) -> np.ndarray:
    """Sets the selection scores [positions, experts] of losing groups to minus infinity."""
    if config.groups == 1:
        return choice
    grouped = choice.reshape(len(choice), config.groups, -1)
    if config.topk_method == "group_limited_greedy":
        group_scores = grouped.max(axis=2)
    else:
        group_scores = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
    kept = np.argsort(-group_scores, axis=1, kind="stable")[:, :config.groups_kept]
    mask = np.full(group_scores.shape, -np.inf)
    np.put_along_axis(mask, kept, 0.0, axis=1)
    return (grouped + mask[:, :, None]).reshape(choice.shape)


def group_margin(config: ModelConfig, choice: np.ndarray) -> float:
    """Returns the narrowest gap between a kept and a dropped group's score."""
    if config.groups == 1 or config.groups_kept == config.groups:
        return math.inf
    grouped = np.sort(choice.reshape(len(choice), config.groups, -1), axis=2)
    best = 1 if config.topk_method == "group_limited_greedy" else 2
    scores = np.sort(grouped[:, :, -best:].sum(axis=2), axis=1)
    first_kept = config.groups - config.groups_kept
    return float((scores[:, first_kept] - scores[:, first_kept - 1]).min())


def expert_margin(choice: np.ndarray, count: int) -> float:
    """Returns the narrowest gap between the last chosen and the first rejected score."""
    if count == choice.shape[1]:
        return math.inf
    ordered = np.sort(choice, axis=1)
    return float((ordered[:, -count] - ordered[:, -count - 1]).min())


def route(config: ModelConfig, logits: np.ndarray, bias: np.ndarray | None,
          forced: np.ndarray | None = None) -> Routing:
    """Chooses experts from router logits [positions, experts], ties go to the lower index; or
    gives the forced ones [positions, k] their weights."""
    scores = sigmoid(logits) if config.scoring == "sigmoid" else softmax(logits)
    biased = scores if bias is None else scores + bias
    limited = config.topk_method != "greedy"
    choice = keep_best_groups(config, biased) if limited else biased
    count = config.experts_per_token
    experts = np.argsort(-choice, axis=1, kind="stable")[:, :count] if forced is None else forced
    weights = scale_weights(config, np.take_along_axis(scores, experts, axis=1))
    margin = expert_margin(choice, count)
    if limited:
        margin = min(margin, group_margin(config, biased))
    return Routing(experts, weights, margin)


def scale_weights(config: ModelConfig, weights: np.ndarray) -> np.ndarray:
    """Normalises and scales. With DeepSeek-V2's methods normalising replaces the scaling."""
    if not config.normalize_weights:
        return weights * config.routed_scale
    weights = weights / (weights.sum(axis=1, keepdims=True) + WEIGHT_SUM_FLOOR)
    return weights * config.routed_scale if config.topk_method == "noaux_tc" else weights


# --- Layers ---


class Model:
    """A checkpoint folder and its forward pass: exact, or with the input of those linears rounded
    to int8 that `rounded` says by their names (experts' have no number in them)."""

    def __init__(self, folder: pathlib.Path,
                 rounded: Callable[[str], bool] = lambda _: False) -> None:
        self.config = read_config(folder)
        self.weights = Checkpoint(folder)
        self._rounded = rounded

    def forward(self, ids: list[int], forced: np.ndarray | None = None) -> Output:
        """Runs one sequence from position 0, with the experts [positions, MoE layers, k] that are
        forced, if any are."""
        config = self.config
        hidden = self.weights.values("model.embed_tokens.weight")[np.asarray(ids)]
        routings = []
        for layer in range(config.layers):
            attention = self._grouped if config.kv_heads else self._latent
            hidden = hidden + attention(layer, self._norm(layer, "input_layernorm", hidden))
            x = self._norm(layer, "post_attention_layernorm", hidden)
            if config.is_moe(layer):
                given = None if forced is None else forced[:, len(routings)]
                out, routing = self._moe(layer, x, given)
                routings.append(routing)
            else:
                out = self._mlp(f"model.layers.{layer}.mlp", x)
            hidden = hidden + out
        last = rms_norm(hidden, self.weights.values("model.norm.weight"), config.norm_eps)
        logits = self._input("lm_head", last) @ self.weights.values("lm_head.weight").T
        experts = np.stack([routing.experts for routing in routings], axis=1)
        return Output(logits, experts, min(routing.margin for routing in routings))

    def _norm(self, layer: int, name: str, x: np.ndarray) -> np.ndarray:
        weight = self.weights.values(f"model.layers.{layer}.{name}.weight")
        return rms_norm(x, weight, self.config.norm_eps)

    def _input(self, name: str, x: np.ndarray) -> np.ndarray:
        """What the matrix of a linear is multiplied with."""
        return round_to_int8(x) if self._rounded(name) else x

    def _times(self, x: np.ndarray, name: str) -> np.ndarray:
        """x times the matrix of the linear `name`."""
        return self._input(name, x) @ self.weights.matrix(name).T

    def _part_input(self, prefix: str) -> PartInput:
        return lambda part, values: self._input(f"{prefix}.{part}_proj", values)

    def _queries(self, prefix: str, x: np.ndarray) -> np.ndarray:
        """Returns the unrotated queries [positions, heads, qk_nope + qk_rope]."""
        if self.config.q_lora_rank is None:
            q = self._times(x, prefix + "q_proj")
        else:
            weight = self.weights.values(prefix + "q_a_layernorm.weight")
            low = rms_norm(self._times(x, prefix + "q_a_proj"), weight, INNER_NORM_EPS)
            q = self._times(low, prefix + "q_b_proj")
        return q.reshape(len(x), self.config.heads, -1)

    def _heads(self, layer: int, part: str, x: np.ndarray) -> np.ndarray:
        """Returns grouped attention's queries, keys or values [positions, heads, head]: with their
        bias, and queries and keys normalised and rotated."""
        config = self.config
        name = f"model.layers.{layer}.self_attn.{part}"
        out = self._times(x, name + "_proj")
        if config.attention_bias:
            out = out + self.weights.values(name + "_proj.bias")
        out = out.reshape(len(x), -1, config.v_head)
        if part == "v":
            return out
        if config.qk_norm:
            out = rms_norm(out, self.weights.values(name + "_norm.weight"), config.norm_eps)
        rotated = rotate(out[..., :config.qk_rope], config)
        return np.concatenate([rotated, out[..., config.qk_rope:]], axis=-1)

    def _grouped(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Grouped-query attention."""
        config = self.config
        q, k, v = (self._heads(layer, part, x) for part in ("q", "k", "v"))
        per_group = config.heads // config.kv_heads
        prefix = f"model.layers.{layer}.self_attn."
        sinks = self.weights.optional(prefix + "sinks")
        heads = [causal_attention(q[:, head], k[:, head // per_group], v[:, head // per_group],
                                  softmax_scale(config), config.windows[layer],
                                  None if sinks is None else float(sinks[head]))
                 for head in range(config.heads)]
        out = self._times(np.concatenate(heads, axis=1), prefix + "o_proj")
        bias = self.weights.optional(prefix + "o_proj.bias")
        return out if bias is None else out + bias

    def _latent(self, layer: int, x: np.ndarray) -> np.ndarray:
        """Naive MLA: every key and value is decompressed."""
        config = self.config
        prefix = f"model.layers.{layer}.self_attn."
        q = self._queries(prefix, x)
        latent = self._times(x, prefix + "kv_a_proj_with_mqa")
        norm = self.weights.values(prefix + "kv_a_layernorm.weight")
        c = rms_norm(latent[:, :config.kv_lora_rank], norm, INNER_NORM_EPS)
        k_rope = rotate(latent[:, config.kv_lora_rank:], config)
        q_nope, q_rope = q[..., :config.qk_nope], rotate(q[..., config.qk_nope:], config)
        kv = (c @ self.weights.matrix(prefix + "kv_b_proj").T).reshape(len(x), config.heads, -1)
        k_nope, v = kv[..., :config.qk_nope], kv[..., config.qk_nope:]

        heads = []
        for head in range(config.heads):
            query = np.concatenate([q_nope[:, head], q_rope[:, head]], axis=1)
            key = np.concatenate([k_nope[:, head], k_rope], axis=1)
            heads.append(causal_attention(query, key, v[:, head], softmax_scale(config)))
        return self._times(np.concatenate(heads, axis=1), prefix + "o_proj")

    def _mlp(self, prefix: str, x: np.ndarray) -> np.ndarray:
        gate, up, down = (self.weights.matrix(f"{prefix}.{part}_proj")
                          for part in ("gate", "up", "down"))
        return swiglu(x, gate, up, down, self._part_input(prefix))

    def _moe(self, layer: int, x: np.ndarray,
             forced: np.ndarray | None) -> tuple[np.ndarray, Routing]:
        """Routed experts plus the shared ones, which carry no weight."""
        prefix = f"model.layers.{layer}.{self.config.moe_block}."
        clamped = self.config.swiglu_limit is not None
        router = prefix + ("router" if clamped else "gate")
        logits = x @ self.weights.values(router + ".weight").T
        if clamped:
            logits = logits + self.weights.values(router + ".bias")
        bias = self.weights.optional(router + ".e_score_correction_bias")
        routing = route(self.config, logits, bias, forced)
        part_input = self._part_input(prefix + "experts")
        out = self._shared(prefix, x)
        for expert in np.unique(routing.experts):
            rows, slots = np.nonzero(routing.experts == expert)
            if clamped:
                part = clamped_swiglu(x[rows], *self.weights.mxfp4_expert(layer, int(expert)),
                                      self.config.swiglu_limit, part_input)
            else:
                part = swiglu(x[rows], *self.weights.expert(layer, int(expert)), part_input)
            out[rows] += part * routing.weights[rows, slots][:, None]
        return out, routing

    def _shared(self, prefix: str, x: np.ndarray) -> np.ndarray:
        stored = prefix + "shared_experts.gate_proj.weight"
        present = self.weights.has(stored) or self.weights.has(stored + "_packed")
        return self._mlp(prefix + "shared_experts", x) if present else np.zeros_like(x)


def mean_nll(logits: np.ndarray, ids: list[int]) -> float:
    """Mean negative log-likelihood of ids[1:], each under the logits of the position before."""
    rows = logits[:-1]
    top = rows.max(axis=1)
    log_sum = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
    return float(np.mean(log_sum - rows[np.arange(len(rows)), np.asarray(ids[1:])]))
