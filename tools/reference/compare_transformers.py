"""Compares checkpoints with transformers' own modules: a second, foreign oracle.

Usage: python3 compare_transformers.py FOLDER... [--device cuda]
       python3 compare_transformers.py FOLDER --ids IDS.json --logits-json SAVED.json

A folder with expected.json (make_toys.py) is compared with its expected.f32, one with golden.json
(models/ember) with the golden top-10 logits and the held-out text. With --logits-json, what
`conclave logits FOLDER --ids IDS.json --top 999999 --exact` printed is compared instead, so the
program itself need not be built on this machine. The exit status is non-zero if anything differs.

Needs PyTorch and transformers 5 (or 4, which differs on three toys), from PyPI:
  python3 -m venv venv && venv/bin/pip install numpy torch transformers
Not part of the automatic tests: it installs some gigabytes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import sys
from typing import Any, Sequence

import numpy as np
import torch
import transformers

from checkpoint import Checkpoint
from conclave_cli import Report, logits_matrix, relative_errors
from model import mean_nll

ERROR_MAX = 1e-4
GOLDEN_ERROR_MAX = 1e-3
NLL_ERROR_MAX = 1e-4
EXPERT = re.compile(r"model\.layers\.(\d+)\.(?:mlp|block_sparse_moe)\.experts\."
                    r"(?:(\d+)\.)?(\w+?)(?:\.weight)?")
EXPERT_PARTS = {"gate_proj": 0, "up_proj": 1, "down_proj": 2, "w1": 0, "w3": 1, "w2": 2}
# What transformers 4 computes otherwise than the published models; version 5 agrees.
V4_DIFFERENCES = {
    "deepseek_v3_group_mask": "it masks losing groups with 0 instead of minus infinity",
    "deepseek_v2": "it leaves YaRN's amplitude out of the softmax scale",
    "deepseek_v2_lite": "it leaves YaRN's amplitude out of the softmax scale",
}
IS_V4 = int(transformers.__version__.split(".")[0]) < 5


def hf_fields(folder: pathlib.Path) -> dict[str, Any]:
    """Returns the text fields of config.json as keyword arguments of this transformers version."""
    config = json.loads((folder / "config.json").read_text())
    fields = {**config, **config.get("text_config", {})}
    for name in ("quantization_config", "architectures", "text_config", "vision_config",
                 "auto_map", "transformers_version", "model_type"):
        fields.pop(name, None)
    rope = fields.get("rope_parameters")
    if rope and IS_V4:
        del fields["rope_parameters"]
        fields["rope_theta"] = rope["rope_theta"]
        fields["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    return fields


def hf_classes(folder: pathlib.Path) -> tuple[type, type]:
    """Returns the config and the model class of a folder."""
    config = json.loads((folder / "config.json").read_text())
    name = {"deepseek_v2": "DeepseekV2", "qwen3_moe": "Qwen3Moe", "mixtral": "Mixtral",
            "glm4_moe": "Glm4Moe", "gpt_oss": "GptOss"}.get(config["model_type"], "DeepseekV3")
    return getattr(transformers, name + "Config"), getattr(transformers, name + "ForCausalLM")


def parameter(checkpoint: Checkpoint, name: str, shape: Sequence[int]) -> np.ndarray:
    """Returns the float64 values of one entry of the module's state."""
    match = EXPERT.fullmatch(name)
    if ".mlp.experts." in name and checkpoint.has(name.removesuffix("_bias") + "_blocks"):
        layer = int(name.split(".")[2])
        index = ["gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias"].index(
            name.split(".")[-1])
        parts = [checkpoint.mxfp4_expert(layer, expert)[index] for expert in range(shape[0])]
        return np.stack([part.T for part in parts])  # transformers keeps [in, out]
    if match is None:
        if name.endswith(("bias", "sinks")):
            return checkpoint.values(name)
        if name.endswith(".mlp.gate.weight") and not checkpoint.has(name):
            name = name.replace(".mlp.", ".block_sparse_moe.")  # transformers 5 renames Mixtral's
        return checkpoint.matrix(name.removesuffix(".weight"))
    layer, expert, part = int(match[1]), match[2], match[3]
    if expert is not None:
        return checkpoint.expert(layer, int(expert))[EXPERT_PARTS[part]]
    experts = [checkpoint.expert(layer, index) for index in range(shape[0])]
    if part == "gate_up_proj":
        return np.stack([np.concatenate([gate, up]) for gate, up, _ in experts])
    return np.stack([down for _, _, down in experts])


class HfModel:
    """transformers' module with a folder's dequantised weights, in float32."""

    def __init__(self, folder: pathlib.Path, device: str) -> None:
        config_class, model_class = hf_classes(folder)
        config = config_class(**hf_fields(folder), attn_implementation="eager")
        self._module = model_class(config).to(torch.float32).eval()
        self._device = device
        checkpoint = Checkpoint(folder)
        state = {}
        for name, old in self._module.state_dict().items():
            values = parameter(checkpoint, name, old.shape)
            state[name] = torch.from_numpy(values.astype(np.float32))
        self._module.load_state_dict(state)
        self._module.to(device)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the logits [positions, vocab]."""
        with torch.no_grad():
            output = self._module(torch.tensor([list(ids)], device=self._device), use_cache=False)
        return output.logits[0].double().cpu().numpy()


def compare_expected(report: Report, folder: pathlib.Path, model: HfModel) -> None:
    """Compares with the stored results of the float64 reference."""
    expected = json.loads((folder / "expected.json").read_text())
    stored = np.fromfile(folder / expected["logits"], dtype="<f4").astype(np.float64)
    logits = model.logits(expected["ids"])
    errors = relative_errors(logits, stored.reshape(logits.shape))
    if IS_V4 and folder.name in V4_DIFFERENCES:
        print(f"     {folder.name}: {errors.max():.3g}, transformers 4 differs: "
              f"{V4_DIFFERENCES[folder.name]}")
        return
    report.below(f"{folder.name}, reference", float(errors.max()), ERROR_MAX)


def compare_golden(report: Report, folder: pathlib.Path, model: HfModel) -> None:
    """Compares with golden.json and heldout.json."""
    worst = 0.0
    for golden in json.loads((folder / "golden.json").read_text()):
        row = model.logits(golden["ids"])[-1]
        worst = max(worst, float(np.abs(row[golden["top10_ids"]] - golden["top10_logits"]).max()))
    report.below(f"{folder.name}, golden top-10 logits", worst, GOLDEN_ERROR_MAX)
    heldout = json.loads((folder / "heldout.json").read_text())
    nll = mean_nll(model.logits(heldout["ids"]), heldout["ids"])
    report.below(f"{folder.name}, held-out nll {nll:.6f}", abs(nll - heldout["nll"]), NLL_ERROR_MAX)


def compare_saved(report: Report, model: HfModel, ids_file: pathlib.Path,
                  saved: pathlib.Path) -> None:
    """Compares with a saved output of `conclave logits`."""
    content = json.loads(ids_file.read_text())
    ids = content["ids"] if isinstance(content, dict) else content
    errors = relative_errors(logits_matrix(json.loads(saved.read_text()), len(ids)),
                             model.logits(ids))
    report.below(f"{saved.name}, {len(ids)} positions", float(errors.max()), ERROR_MAX)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=pathlib.Path, nargs="+")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ids", type=pathlib.Path)
    parser.add_argument("--logits-json", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.logits_json and (len(arguments.folders) != 1 or not arguments.ids):
        parser.error("--logits-json needs --ids and one folder")
    report = Report()
    for folder in (path.resolve() for path in arguments.folders):
        model = HfModel(folder, arguments.device)
        if arguments.logits_json:
            compare_saved(report, model, arguments.ids, arguments.logits_json)
        elif (folder / "expected.json").exists():
            compare_expected(report, folder, model)
        else:
            compare_golden(report, folder, model)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
