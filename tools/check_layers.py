#!/usr/bin/env python3
"""Fails when a source file includes what its place in src/LAYERS does not allow.

Three rules, each printed with its fix:
  1. A module includes only modules of lower lines of src/LAYERS.
  2. Another module is entered only through its public header, src/<m>/<m>.h (base: any header).
     Tests may use the test models of lower modules.
  3. Sans-I/O files take time, chance and the network as arguments: they neither include nor name
     threads, sockets, clocks or random sources.
"""

import pathlib
import re
import sys

INCLUDE = re.compile(r'\s*#\s*include\s+([<"])([^>"]+)[>"]')

# Paths under src/ whose code is on_event(now, event) -> actions. Tests beside them are free.
SANS_IO = re.compile(r"(cluster/token_log|engine/scheduler|collective/|plan/)")
SANS_IO_HEADERS = re.compile(
    r"(boost/asio.*|boost/beast.*|thread|stop_token|mutex|shared_mutex|condition_variable|future|"
    r"semaphore|latch|barrier|random|ctime|pthread\.h|unistd\.h|poll\.h|time\.h|sys/.*|netinet/.*|"
    r"arpa/.*|base/thread_pool\.h)$"
)
SANS_IO_NAMES = re.compile(
    r"\b(steady_clock::now|system_clock::now|high_resolution_clock|RealClock|random_device|"
    r"clock_gettime|std::thread|std::jthread)\b"
)

TEST_MODELS = re.compile(r"/((integer|fake)_backend|test_model|test_checkpoint|test_gguf)\.h$")


def read_levels(root):
    levels = {}
    for rank, line in enumerate((root / "src/LAYERS").read_text().splitlines()):
        for module in line.split("#")[0].split():
            levels[module] = rank
    return levels


def include_problem(levels, here, included, is_test):
    """Says what is wrong with a quoted include of `included` from module `here`, or None."""
    there = included.split("/")[0]
    if there == here or "/" not in included:
        return None
    if there not in levels:
        return f"module '{there}' is not in src/LAYERS; add it to the line where it belongs"
    if levels[there] >= levels[here]:
        return (
            f"'{there}' is not below '{here}'; move the shared part to a lower module, "
            "or pass it in from above"
        )
    if is_test and TEST_MODELS.search(included):
        return None
    if there != "base" and included != f"{there}/{there}.h":
        return (
            f"a private header of '{there}'; include \"{there}/{there}.h\" and, if need be, "
            "declare there what you use"
        )
    return None


def is_sans_io(relative):
    return SANS_IO.match(str(relative)) and not relative.stem.endswith("_test")


def check_file(path, relative, levels):
    here = relative.parts[0]
    sans_io = is_sans_io(relative)
    is_test = relative.stem.endswith("_test") or relative.stem.startswith("test_")
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if match:
            kind, included = match.groups()
            problem = include_problem(levels, here, included, is_test) if kind == '"' else None
            if sans_io and SANS_IO_HEADERS.match(included):
                problem = f"<{included}> in a sans-I/O file; take the value as an argument instead"
            if problem:
                yield f"src/{relative}:{number}: {problem}"
        elif sans_io and (name := SANS_IO_NAMES.search(line.split("//")[0])):
            yield (
                f"src/{relative}:{number}: {name[0]} in a sans-I/O file; "
                "take the time or the number as an argument instead"
            )


def check(root):
    """All problems of the tree under `root`, one line each."""
    levels = read_levels(root)
    problems = []
    for path in sorted((root / "src").rglob("*")):
        relative = path.relative_to(root / "src")
        if path.suffix not in (".h", ".cc") or len(relative.parts) < 2:
            continue
        if relative.parts[0] not in levels:
            problems.append(
                f"src/{relative}: module '{relative.parts[0]}' is not in src/LAYERS; "
                "add it to the line where it belongs"
            )
            continue
        problems.extend(check_file(path, relative, levels))
    return problems


def main():
    problems = check(pathlib.Path(__file__).resolve().parent.parent)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
