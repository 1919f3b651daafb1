"""Every family of models on several machines: the answers of one machine, also after a loss.

The models are the toys of tools/reference with a tokenizer of bytes beside them.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

from pool import Pool
from serving import ROOT, Answer, Server, collect

LOGPROB_ERROR_MAX = 1e-3
PROMPT = "Tell me a short story about a fox."
REFERENCE = ROOT / "tools" / "reference"

# toy, machines, shares, strategy
DIVISIONS = [
    ("deepseek_v2_lite", 2, "1,1", "slice"),
    ("deepseek_v2", 3, "2,1,1", "slice"),
    ("moonlight", 3, "1,1,1", "slice"),
    ("qwen3_moe", 2, "1,1", "slice"),
    ("qwen3_moe_mixed", 3, "1,2,1", "slice"),
    ("qwen3_moe", 3, "2,1,1", "slice-ra"),
    ("mixtral", 2, "3,1", "slice"),
    ("mixtral", 3, "1,1,1", "slice"),
    ("glm4_moe", 2, "1,1", "slice"),
    ("glm4_moe_air", 3, "0,1,1", "slice"),
    ("glm4_moe", 3, "1,1,1", "pipeline"),
    ("gpt_oss", 2, "1,1", "slice"),
    ("gpt_oss", 3, "2,1,1", "slice"),
    ("gpt_oss", 2, "1,1", "slice-ra"),
    ("gpt_oss", 3, "1,1,1", "expert"),
    ("gpt_oss", 3, "1,1,1", "pipeline"),
    # The formats of other programs; 5 of 8 units of a width of 256 end within their blocks.
    ("gguf_q4_k_m", 3, "2,1,1", "slice"),
    ("gguf_v2_lite", 2, "5,3", "slice"),
    ("gguf_mixed", 2, "3,1", "slice"),
    ("gguf_gpt_oss", 3, "1,1,1", "expert"),
    ("gguf_mixtral", 3, "1,1,1", "pipeline"),
    ("mlx_v3", 2, "5,3", "slice"),
    ("mlx_qwen3", 3, "1,2,1", "slice"),
    ("packed_g128", 2, "5,3", "slice"),
]
RECAST = ("gguf_", "mlx_", "packed_")


def byte_tokenizer():
    """A tokenizer.json of 256 bytes, id = byte."""
    vocab, other = {}, 256
    for byte in range(256):
        own = 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174
        vocab[chr(byte if own else other)] = byte
        other += not own
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}  # fmt: skip
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}  # fmt: skip


class Families(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        for name in sorted({division[0] for division in DIVISIONS}):
            subprocess.run(
                [sys.executable, REFERENCE / cls.maker(name), cls.folder, "--only", name],
                check=True, capture_output=True, timeout=300)  # fmt: skip
            toy = cls.folder / name
            if name.startswith("gguf_"):
                continue  # has its own
            (toy / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
            (toy / "chat_template.jinja").write_text(
                "{% for message in messages %}{{ message.content }}{% endfor %}")

    @staticmethod
    def maker(name):
        return "recast_toys.py" if name.startswith(RECAST) else "make_toys.py"

    def answer(self, server, tokens=24):
        """The ids' text and every token's log-probabilities."""
        stream = server.stream(PROMPT, temperature=0, max_tokens=tokens, logprobs=True,
                               top_logprobs=5)  # fmt: skip
        pieces, logprobs = [], []
        for chunk in stream:
            for choice in chunk["choices"]:
                for token in (choice.get("logprobs") or {}).get("content", []):
                    pieces.append(token["bytes"])
                    logprobs.append(
                        [token["logprob"], *(t["logprob"] for t in token["top_logprobs"])])
        stream.close()
        return pieces, logprobs

    def alone(self, toy, *flags):
        server = Server("--threads", "1", *flags, model=self.folder / toy)
        try:
            return self.answer(server)
        finally:
            server.kill()

    def test_every_family_gives_the_answers_of_one_machine(self):
        expected = {}
        for toy, machines, shares, strategy in DIVISIONS:
            with self.subTest(toy=toy, shares=shares, strategy=strategy):
                if toy not in expected:
                    expected[toy] = self.alone(toy, "--exact")
                with Pool(machines - 1, "--exact", "--shares", shares, "--strategy", strategy,
                          model=self.folder / toy, node_models=self.folder / toy) as pool:
                    pieces, logprobs = self.answer(pool.head)
                self.assertGreater(len(pieces), 0)
                self.assertEqual(pieces, expected[toy][0])
                worst = max(abs(a - b) for x, y in zip(logprobs, expected[toy][1])
                            for a, b in zip(x, y))
                self.assertLess(worst, LOGPROB_ERROR_MAX)

    def test_machines_without_the_gguf_file_get_their_slices(self):
        toy = "gguf_q4_k_m"
        expected = self.alone(toy, "--exact")
        with Pool(2, "--exact", "--shares", "2,1,1", model=self.folder / toy) as pool:
            pieces, _ = self.answer(pool.head)
        self.assertGreater(len(pieces), 0)
        self.assertEqual(pieces, expected[0])

    def test_grouped_attention_survives_a_machine_without_prefill(self):
        fields = dict(temperature=0, max_tokens=600, ignore_eos=True, logprobs=True)
        for toy in ("qwen3_moe", "gpt_oss"):
            folder = self.folder / toy
            with self.subTest(toy=toy):
                with Pool(2, "--shares", "1,1,1", model=folder, node_models=folder) as pool:
                    undisturbed = collect(pool.head.stream(PROMPT, **fields))
                    answer = Answer()
                    for chunk in pool.head.stream(PROMPT, **fields):
                        answer.add(chunk)
                        if len(answer.tokens) >= 20 and pool.node("node-a").process.poll() is None:
                            pool.node("node-a").kill()
                    self.assertEqual(answer.finish, "length")
                    self.assertEqual(answer.tokens, undisturbed.tokens)
                    self.assertEqual(pool.state_of("node-a"), "gone")


if __name__ == "__main__":
    unittest.main()
