"""Checks the reference itself against worked values of the formats and of the mathematics.

Usage: python3 test_reference.py
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import unittest
from typing import Any

import numpy as np

import model
import number_formats
import safetensors_io
from model_config import ModelConfig, Yarn, parse_config
from recast_toys import all_recasts
from toy_specs import all_specs, config_json, fields


def kimi_config(**changes: Any) -> ModelConfig:
    """Returns a small Kimi configuration with fields of the parsed form replaced."""
    return dataclasses.replace(parse_config(fields("kimi_k2")), **changes)


class NumberFormats(unittest.TestCase):
    """Stored bits and their values."""

    def test_int4_word_is_lowest_nibble_first(self) -> None:
        word = number_formats.pack_int4(np.arange(8)[None, :] - 8)
        self.assertEqual(word.view(np.uint32)[0, 0], 0x76543210)
        self.assertEqual(number_formats.unpack_int4(word, 8)[0].tolist(), list(range(-8, 0)))

    def test_fp8_values(self) -> None:
        codes = np.array([0x00, 0x01, 0x08, 0x38, 0x7E, 0xB8, 0xFE], dtype=np.uint8)
        values = [0.0, 2.0**-9, 2.0**-6, 1.0, 448.0, -1.0, -448.0]
        self.assertEqual(number_formats.fp8_to_float(codes).tolist(), values)
        self.assertTrue(np.isnan(number_formats.fp8_table()[[0x7F, 0xFF]]).all())

    def test_fp8_codes_survive_a_round_trip(self) -> None:
        codes = np.array([c for c in range(256) if c & 0x7F != 0x7F], dtype=np.uint8)
        again = number_formats.float_to_fp8(number_formats.fp8_to_float(codes))
        self.assertEqual(again.tolist(), codes.tolist())

    def test_fp8_scale_of_a_partial_block(self) -> None:
        codes = np.full((130, 129), 0x38, dtype=np.uint8)
        scales = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
        matrix = number_formats.dequantize_fp8(codes, scales)
        corners = [matrix[127, 127], matrix[127, 128], matrix[128, 127], matrix[129, 128]]
        self.assertEqual(corners, [1.0, 2.0, 3.0, 4.0])

    def test_bf16_rounds_to_even(self) -> None:
        values = np.array([1.0, 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -2.5])
        rounded = number_formats.bf16_to_float(number_formats.float_to_bf16(values))
        self.assertEqual(rounded.tolist(), [1.0, 1.0, 1.0 + 2.0**-6, -2.5])


class Containers(unittest.TestCase):
    """safetensors files."""

    def test_round_trip_and_order(self) -> None:
        tensors = {"b": safetensors_io.native("F32", np.ones((2, 3))),
                   "a": safetensors_io.bf16(np.ones(4)),
                   "c": safetensors_io.native("I64", np.array([7]))}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "x.safetensors"
            self.assertEqual(safetensors_io.write_file(path, tensors), 24 + 8 + 8)
            entries, start = safetensors_io.read_header(path)
            again = safetensors_io.read_file(path)
        self.assertEqual(list(entries), ["c", "b", "a"])
        self.assertEqual(start % 8, 0)
        for name, tensor in tensors.items():
            self.assertEqual(again[name].dtype, tensor.dtype)
            np.testing.assert_array_equal(again[name].data, tensor.data)


class Rotary(unittest.TestCase):
    """YaRN frequencies and scales of published checkpoints."""

    def check(self, theta: float, yarn: Yarn, expected: dict[int, float]) -> None:
        """Compares some frequencies of a 64-wide rotary part."""
        frequencies = model.rope_frequencies(kimi_config(qk_rope=64, rope_theta=theta, yarn=yarn))
        for index, value in expected.items():
            self.assertAlmostEqual(frequencies[index] / value, 1.0, places=7)

    def test_kimi_k2_instruct(self) -> None:
        self.check(5e4, Yarn(32.0, 4096, 1.0, 1.0, 1.0, 1.0),
                   {0: 1.0, 8: .0668740305, 19: .00162175991, 20: 3.61404677e-5, 31: 8.76441291e-7})

    def test_kimi_k25(self) -> None:
        self.check(5e4, Yarn(64.0, 4096, 32.0, 1.0, 1.0, 1.0),
                   {8: .0668740305, 9: .043776656, 14: .00446584875, 19: .000158374991,
                    20: 1.80702339e-5})

    def test_deepseek_v3(self) -> None:
        self.check(1e4, Yarn(40.0, 4096, 32.0, 1.0, 1.0, 1.0),
                   {9: .0749894209, 14: .0124479559, 20: .000790569415, 31: 3.33380358e-6})

    def test_softmax_scales(self) -> None:
        for factor, mscale, expected in ((32.0, 1.0, .1308607998), (64.0, 1.0, .1446796258),
                                         (40.0, 1.0, .1352337789), (40.0, .707, .1147213868)):
            yarn = Yarn(factor, 4096, 32.0, 1.0, mscale, mscale)
            config = kimi_config(qk_nope=128, qk_rope=64, yarn=yarn)
            self.assertAlmostEqual(model.softmax_scale(config), expected, places=9)

    def test_multiplier_without_mscale(self) -> None:
        yarn = Yarn(32.0, 4096, 32.0, 1.0, None, None)
        self.assertAlmostEqual(model.rope_multiplier(yarn), 1.3465736, places=7)


class Router(unittest.TestCase):
    """Choice and weights of experts."""

    def test_bias_chooses_but_does_not_weigh(self) -> None:
        config = kimi_config(experts=4, experts_per_token=2, routed_scale=2.827)
        routing = model.route(config, np.array([[4.0, 3.0, 2.0, 1.0]]),
                              np.array([-10.0, 0.0, 0.0, 10.0]))
        self.assertEqual(routing.experts.tolist(), [[3, 1]])
        scores = 1.0 / (1.0 + np.exp([-1.0, -3.0]))
        np.testing.assert_allclose(routing.weights[0], scores / scores.sum() * 2.827, rtol=1e-12)

    def test_losing_groups_are_out_even_if_kept_scores_are_negative(self) -> None:
        config = kimi_config(experts=4, experts_per_token=2, groups=2, groups_kept=1)
        bias = np.array([-1.0, -2.0, -1.1, -3.0])
        routing = model.route(config, np.zeros((1, 4)), bias)
        self.assertEqual(routing.experts.tolist(), [[0, 1]])

    def test_forced_experts_get_their_own_weights(self) -> None:
        config = kimi_config(experts=4, experts_per_token=2, groups=1, groups_kept=1)
        routing = model.route(config, np.array([[3.0, 2.0, 1.0, 0.0]]), np.zeros(4),
                              np.array([[3, 2]]))
        self.assertEqual(routing.experts.tolist(), [[3, 2]])
        scores = 1.0 / (1.0 + np.exp([0.0, -1.0]))
        np.testing.assert_allclose(routing.weights[0], scores / scores.sum() * 2.827, rtol=1e-12)


class Rounding(unittest.TestCase):
    """Activations of the fast path."""

    def test_each_group_of_32_has_its_scale(self) -> None:
        x = np.concatenate([np.linspace(-127.0, 127.0, 32), [254.0, 3.0, -1.0, 0.9]])[None, :]
        rounded = model.round_to_int8(x)[0]
        np.testing.assert_array_equal(rounded[:32], np.rint(x[0, :32]))
        np.testing.assert_array_equal(rounded[32:], [254.0, 4.0, 0.0, 0.0])  # halves to even

    def test_zeros_stay(self) -> None:
        np.testing.assert_array_equal(model.round_to_int8(np.zeros((2, 40))), np.zeros((2, 40)))

    def test_what_meets_whole_numbers_is_rounded(self) -> None:
        recast = next(one for one in all_recasts() if one.name == "gguf_mixed")
        prefix = "model.layers.1.mlp."
        self.assertTrue(recast.rounds(prefix + "experts.up_proj"))
        self.assertFalse(recast.rounds(prefix + "experts.gate_proj"))
        self.assertFalse(recast.rounds(prefix + "shared_experts.up_proj"))


class Configs(unittest.TestCase):
    """Spellings of config.json."""

    def test_defaults_of_the_model_type(self) -> None:
        config = parse_config(fields("deepseek_v3", topk_method=..., scoring_func=...))
        self.assertEqual((config.topk_method, config.scoring), ("noaux_tc", "sigmoid"))

    def test_every_toy_parses(self) -> None:
        for spec in all_specs():
            config = parse_config(config_json(spec))
            self.assertEqual(config.hidden_size, spec.fields["hidden_size"], spec.name)


if __name__ == "__main__":
    unittest.main()
