"""Writes broken variants of a tiny checkpoint, for check_broken.py.

Usage: python3 make_broken.py OUT_DIR

Every folder holds expect.txt: one substring of the error message per line. A first line of
"@data" says that the fault lies in the tensors' data, so that only reading them shows it.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil

import numpy as np

from broken_edits import (FIRST, SECOND, Broken, add_tensor, config, drop_tensor, duplicate_key,
                          gap_before_data, header, header_length, header_text, index_entry,
                          index_renames, nested_config, raw, remove, shift_data, tensor, text,
                          values)
from make_toys import write_checkpoint
from safetensors_io import INDEX_FILE, bf16, native
from toy_specs import ToySpec, fields

LAYER = "model.layers.1."
OUTPUT = LAYER + "self_attn.o_proj.weight"
QUERY = LAYER + "self_attn.q_a_proj.weight"
EXPERT = LAYER + "mlp.experts.2.up_proj"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"
NESTING = 200_000
BF16_NAN = 0x7FC0


def tiny(name: str, linears: str, experts: str) -> ToySpec:
    """Returns the smallest checkpoint that has every kind of tensor."""
    sizes = fields("kimi_k2", vocab_size=64, hidden_size=64, num_hidden_layers=2,
                   intermediate_size=64, moe_intermediate_size=32, n_routed_experts=4,
                   q_lora_rank=32, num_attention_heads=2)
    return ToySpec(name, linears, sizes, experts=experts)


BASES = {"int4": tiny("int4", "BF16", "INT4"), "fp8": tiny("fp8", "FP8", "")}


def broken_containers() -> list[Broken]:
    """Files that are not sound safetensors."""
    nested = b'{"x":' + b"[" * NESTING + b"]" * NESTING + b"}"
    return [
        Broken("file_truncated", (SECOND,), raw(SECOND, lambda blob: blob[:-1000])),
        Broken("file_empty", (SECOND,), raw(SECOND, lambda _: b"")),
        Broken("file_of_four_bytes", (SECOND,), raw(SECOND, lambda blob: blob[:4])),
        Broken("data_after_the_last_tensor", (SECOND,), raw(SECOND, lambda blob: blob + bytes(64))),
        Broken("data_gap", (FIRST,), gap_before_data),
        Broken("data_overlap", (SECOND,), shift_data(NORM, -64)),
        Broken("data_past_the_end", (SECOND, NORM),
               header(NORM, data_offsets=[2**40, 2**40 + 128])),
        Broken("data_range_reversed", (SECOND, NORM), header(NORM, data_offsets=[128, 0])),
        Broken("data_range_negative", (SECOND, NORM), header(NORM, data_offsets=[-128, 0])),
        Broken("data_range_too_short", (SECOND, OUTPUT), header(OUTPUT, shape=[64, 64])),
        Broken("shape_overflows", (SECOND, NORM), header(NORM, shape=[2**32, 2**32, 2**32])),
        Broken("shape_negative", (SECOND, NORM), header(NORM, shape=[-64])),
        Broken("dtype_unknown", (SECOND, NORM), header(NORM, dtype="BF17")),
        Broken("header_length_huge", (FIRST,), header_length(2**62)),
        Broken("header_length_zero", (FIRST,), header_length(0)),
        Broken("header_length_past_the_end", (FIRST,), header_length(90_000_000)),
        Broken("header_not_json", (FIRST,), header_text(b'{"model.norm.weight": {')),
        Broken("header_not_an_object", (FIRST,), header_text(b"[1, 2, 3]")),
        Broken("header_deeply_nested", (FIRST,), header_text(nested)),
        Broken("header_duplicate_key", (SECOND, NORM), duplicate_key(NORM)),
    ]


def broken_folders() -> list[Broken]:
    """Shards and index that do not fit each other."""
    absent = "model-00009-of-00002.safetensors"
    return [
        Broken("shard_missing", (SECOND,), remove(SECOND)),
        Broken("index_names_absent_file", (absent,), index_entry(NORM, absent)),
        Broken("index_names_wrong_shard", (NORM,), index_entry(NORM, FIRST)),
        Broken("index_names_absent_tensor", (LAYER + "extra",),
               index_entry(LAYER + "extra", SECOND)),
        Broken("index_leaves_the_folder", ("../",),
               index_renames(FIRST, "../index_leaves_the_folder/" + FIRST)),
        Broken("index_not_json", (INDEX_FILE,), text(INDEX_FILE, "{")),
        Broken("index_without_map", (INDEX_FILE, "weight_map"), text(INDEX_FILE, "{}")),
        Broken("tensor_in_two_shards", (NORM,), add_tensor(NORM, FIRST, listed=False)),
        Broken("tensor_missing", (OUTPUT,), drop_tensor(OUTPUT)),
        Broken("tensor_unknown", (LAYER + "self_attn.sinks",),
               add_tensor(LAYER + "self_attn.sinks", FIRST)),
    ]


def broken_tensors() -> list[Broken]:
    """Tensors of the wrong type, shape or content."""
    scale = EXPERT + ".weight_scale"
    fp8_scale = EXPERT + ".weight_scale_inv"
    fp8_weight = EXPERT + ".weight"
    return [
        Broken("dtype_wrong", (QUERY, "I32"), tensor(QUERY, lambda old: native("I32", old.data))),
        Broken("shape_wrong", (OUTPUT,), tensor(OUTPUT, lambda old: bf16(np.zeros((32, 64))))),
        Broken("head_too_short", (HEAD,), tensor(HEAD, lambda old: bf16(np.zeros((63, 64))))),
        Broken("int4_scale_missing", (EXPERT, "weight_scale"), drop_tensor(scale)),
        Broken("int4_scale_shape", (scale,), tensor(scale, lambda old: bf16(np.zeros((32, 1))))),
        Broken("int4_shape_disagrees", (EXPERT, "weight_shape"),
               values(EXPERT + ".weight_shape", lambda old: old[::-1]), data_only=True),
        Broken("int4_scale_nan", (scale,),
               values(scale, lambda old: with_first(old, BF16_NAN)), data_only=True),
        Broken("fp8_scale_nan", (fp8_scale,),
               values(fp8_scale, lambda old: with_first(old, np.nan)), "fp8", data_only=True),
        Broken("fp8_scale_missing", (EXPERT, "weight_scale_inv"), drop_tensor(fp8_scale), "fp8"),
        Broken("fp8_scale_shape", (fp8_scale,),
               tensor(fp8_scale, lambda old: native("F32", np.ones((2, 1)))), "fp8"),
        Broken("fp8_shape_wrong", (fp8_weight,),
               tensor(fp8_weight, lambda old: native("F8_E4M3", old.data.T)), "fp8"),
    ]


def broken_configs() -> list[Broken]:
    """A config.json that is no JSON, or whose numbers are absurd or contradict each other."""
    quantization = ("quantization_config",)
    weights = quantization + ("config_groups", "group_0", "weights")
    return [
        Broken("config_missing", ("config.json",), remove("config.json")),
        Broken("config_not_json", ("config.json",), text("config.json", "{,}")),
        Broken("config_not_an_object", ("config.json",), text("config.json", "7")),
        Broken("config_deeply_nested", ("config.json",),
               text("config.json", "[" * NESTING + "]" * NESTING)),
        Broken("config_field_missing", ("kv_lora_rank",), config(kv_lora_rank=...)),
        Broken("config_text_for_number", ("hidden_size",), config(hidden_size="64")),
        Broken("config_fraction", ("hidden_size",), config(hidden_size=64.5)),
        Broken("config_negative", ("hidden_size",), config(hidden_size=-64)),
        Broken("config_zero", ("num_attention_heads",), config(num_attention_heads=0)),
        Broken("config_huge", ("num_hidden_layers",), config(num_hidden_layers=10**9)),
        Broken("config_beyond_64_bits", ("vocab_size",), config(vocab_size=10**30)),
        Broken("eps_negative", ("rms_norm_eps",), config(rms_norm_eps=-1.0)),
        Broken("rope_dim_odd", ("qk_rope_head_dim",), config(qk_rope_head_dim=7)),
        Broken("rope_type_unknown", ("longrope",),
               nested_config(("rope_scaling", "type"), "longrope")),
        Broken("yarn_factor_zero", ("factor",), nested_config(("rope_scaling", "factor"), 0)),
        Broken("groups_do_not_divide", ("n_group",), config(n_group=3)),
        Broken("groups_kept_too_many", ("topk_group",), config(n_group=2, topk_group=3)),
        Broken("experts_too_few", ("num_experts_per_tok",), config(num_experts_per_tok=5)),
        Broken("scoring_unknown", ("scoring_func", "tanh"), config(scoring_func="tanh")),
        Broken("architecture_kimi_k3", ("KimiK3ForConditionalGeneration",),
               config(architectures=["KimiK3ForConditionalGeneration"], model_type="kimi_k3")),
        Broken("architecture_llama", ("LlamaForCausalLM",),
               config(architectures=["LlamaForCausalLM"], model_type="llama")),
        Broken("architecture_missing", ("architectures",), config(architectures=[])),
        Broken("quantization_unknown", ("awq",),
               nested_config(quantization + ("quant_method",), "awq")),
        Broken("group_size_odd", ("group_size", "48"),
               nested_config(weights + ("group_size",), 48)),
        Broken("bits_unknown", ("num_bits", "3"), nested_config(weights + ("num_bits",), 3)),
    ]


def with_first(values_: np.ndarray, first: float) -> np.ndarray:
    """Replaces the first element."""
    values_.flat[0] = first
    return values_


def all_broken() -> list[Broken]:
    """Every variant."""
    return broken_containers() + broken_folders() + broken_tensors() + broken_configs()


def write_broken(variant: Broken, out: pathlib.Path) -> None:
    """Writes one broken folder, replacing an older one."""
    folder = out / variant.name
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(BASES[variant.base], folder)
    variant.edit(folder)
    marker = ("@data",) if variant.data_only else ()
    (folder / "expect.txt").write_text("\n".join(marker + variant.expect) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    for variant in all_broken():
        write_broken(variant, arguments.out)
    for base in BASES.values():
        folder = arguments.out / f"sound_{base.name}"
        shutil.rmtree(folder, ignore_errors=True)
        write_checkpoint(base, folder)
    print(f"{len(all_broken())} broken checkpoints, {len(BASES)} sound ones")


if __name__ == "__main__":
    main()
