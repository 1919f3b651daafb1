"""Feeds the broken checkpoints of make_broken.py to the engine: each must end in one clear line.

Usage: python3 check_broken.py --conclave PROGRAM --dir DIR

Every run must exit non-zero, not by a signal, with exactly one line "conclave: ..." on standard
error that contains what expect.txt lists. Folders without expect.txt are sound and must load.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys

from conclave_cli import Conclave, Report, RunError

IDS = [1, 2, 3]
SIGNAL_EXIT_MIN = 128  # A shell reports death by a signal as 128 plus its number.
DATA_MARKER = "@data"


def fault(result: subprocess.CompletedProcess[str], expect: list[str]) -> str:
    """Returns what is wrong with the way a run failed; empty if nothing is."""
    lines = result.stderr.splitlines()
    if result.returncode == 0:
        return "accepted"
    if result.returncode < 0 or result.returncode >= SIGNAL_EXIT_MIN:
        return f"crashed, exit {result.returncode}"
    if len(lines) != 1:
        return f"{len(lines)} lines on standard error"
    if not lines[0].startswith("conclave: "):
        return f"message without the program's name: {lines[0]}"
    missing = [part for part in expect if part not in lines[0]]
    return f"message lacks {missing}: {lines[0]}" if missing else ""


def check_folder(conclave: Conclave, folder: pathlib.Path, report: Report) -> None:
    """Runs both commands on one folder."""
    path = folder / "expect.txt"
    expect = path.read_text().splitlines() if path.exists() else []
    data_only = DATA_MARKER in expect
    parts = [part for part in expect if part != DATA_MARKER]
    commands: dict[str, list[str | pathlib.Path]] = {
        "inspect": ["model", "inspect", folder],
        "logits": ["logits", folder, "--ids", conclave.ids_file(IDS), "--top", "1"],
    }
    for name, arguments in commands.items():
        label = f"{folder.name}, {name}"
        try:
            result = conclave.run(*arguments)
        except RunError as error:
            report.check(label, False, str(error))
            continue
        may_pass = not parts or (data_only and name == "inspect")
        if may_pass and result.returncode == 0:
            report.check(label, True, "accepted")
            continue
        wrong = fault(result, parts) if parts else f"refused: {result.stderr.strip()}"
        report.check(label, not wrong, wrong or result.stderr.strip())


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conclave", type=pathlib.Path, required=True)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    report = Report()
    conclave = Conclave(arguments.conclave)
    for folder in sorted(path for path in arguments.dir.iterdir() if path.is_dir()):
        check_folder(conclave, folder, report)
    conclave.close()
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
