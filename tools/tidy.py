#!/usr/bin/env python3
"""The habits of docs/style.md that a compiler and clang-tidy cannot check. Prints every fix.

An exemption is a line in one of the tables below, with its reason. One that names no file is
reported too, so that the tables stay short.
"""

import pathlib
import re
import sys

from source_text import brace_functions, code_only, python_functions, repository_files

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70

# file or folder/ -> why exceptions must be caught or thrown there.
EXCEPTIONS_ALLOWED = {
    "src/apps/config.cc": "CLI11 reports a value that it cannot convert by throwing",
    "src/apps/main.cc": "CLI11 ends parsing by throwing",
    "src/text/rust_call.h": "the Rust bridge turns a Rust error into an exception",
}
# file or folder/ -> the test that covers it, when it is not the _test.cc beside it.
TESTED_BY = {
    "src/kernels/": "src/kernels/kernels_test.cc",  # one table of operations, every instruction set
    # The backend's parts are tested through its operations, which state the equalities that count.
    "src/backend/probe.cc": "src/backend/backend_test.cc",
    "src/backend/cpu/": "src/backend/backend_test.cc",
    # One file a family, one test with their published configurations side by side.
    "src/model/family_deepseek.cc": "src/model/config_test.cc",
    "src/model/family_glm4_moe.cc": "src/model/family_test.cc",
    "src/model/family_gpt_oss.cc": "src/model/family_test.cc",
    "src/model/family_mixtral.cc": "src/model/family_test.cc",
    "src/model/family_qwen3_moe.cc": "src/model/family_test.cc",
    # What goes over HTTP needs a server: tests/e2e/test_pull.py is a hostile one.
    "src/hub/http.cc": "tests/e2e/test_pull.py",
    "src/hub/pull.cc": "tests/e2e/test_pull.py",
    "src/hub/folder.cc": "src/hub/store_test.cc",
    "src/apps/model_command.cc": "tests/e2e/test_pull.py",
    "src/apps/model_store.cc": "tests/e2e/test_pull.py",
    # Reached through place().
    "src/plan/place_pipeline.cc": "src/plan/place_test.cc",
    "src/plan/place_slices.cc": "src/plan/place_test.cc",
    # The head's parts are one class, tested through its events.
    "src/cluster/head_epochs.cc": "src/cluster/head_test.cc",
    "src/cluster/head_nodes.cc": "src/cluster/head_test.cc",
    "src/cluster/head_requests.cc": "src/cluster/head_test.cc",
    "src/cluster/head_status.cc": "src/cluster/head_test.cc",
    "src/cluster/layout_message.cc": "src/cluster/layout_test.cc",
    # Processes need processes.
    "src/cluster/cpu_host.cc": "tests/e2e/test_pool.py",
    "src/cluster/cpu_host_weights.cc": "tests/e2e/test_pool_weights.py",
    "src/cluster/node_agent.cc": "tests/e2e/test_pool.py",
    "src/cluster/doctor_json.cc": "src/cluster/doctor_test.cc",
    "src/cluster/link_json.cc": "src/cluster/pool_json_test.cc",
    "src/cluster/pool_doctor.cc": "tests/e2e/test_pool_doctor.py",
    "src/cluster/pool_door.cc": "tests/e2e/test_pool.py",
    "src/cluster/pool_json.cc": "tests/e2e/test_pool.py",
    "src/cluster/worker_host.cc": "src/cluster/agent_test.cc",
    "src/cluster/worker_main.cc": "tests/e2e/test_worker_kills.py",
    "src/cluster/weight_skeleton.cc": "src/cluster/weight_fetch_test.cc",
    "src/server/serve.cc": "tests/e2e/test_serve.py",
    # The commands of the program are tested as processes.
    "src/apps/bench_command.cc": "tests/e2e/test_cli.py",
    "src/apps/doctor_command.cc": "tests/e2e/test_pool_doctor.py",
    "src/apps/logging.cc": "tests/e2e/test_cli.py",
    "src/apps/node_command.cc": "tests/e2e/test_pool.py",
    "src/apps/pool_command.cc": "tests/e2e/test_pool.py",
    "src/apps/inspect_command.cc": "tests/e2e/test_cli.py",
    "src/apps/loaded_model.cc": "tests/e2e/test_cli.py",
    "src/apps/logits_command.cc": "tests/e2e/test_cli.py",
    "src/apps/main.cc": "tests/e2e/test_cli.py",
    "src/apps/plan_command.cc": "tests/e2e/test_plan.py",
    "src/apps/probe_command.cc": "tests/e2e/test_plan.py",
    "src/apps/perplexity_command.cc": "tests/e2e/test_cli.py",
    "src/apps/repl.cc": "tests/e2e/test_cli.py",
    "src/apps/run_command.cc": "tests/e2e/test_cli.py",
    "src/apps/serve_command.cc": "tests/e2e/test_cli.py",
    "src/apps/synth_command.cc": "tests/e2e/test_cli.py",
    "src/text/tool_grammar.cc": "src/text/grammar_test.cc",
}
# (file, call) -> why.
CALLS_ALLOWED = {}

CODE = (".h", ".cc", ".rs", ".py")
BANNED_CALLS = (
    (r"s?rand", "use base/rng.h: a counter-based number that a test can repeat"),
    (r"u?sleep|nanosleep|(?:this_thread::)?sleep_(?:for|until)", "wait for the event itself"),
    (r"sto(?:i|l|ul|ll|ull|f|d|ld)|ato(?:i|l|ll|f)", "use std::from_chars: it cannot throw"),
    (r"[fsv]?printf|vfprintf|vsprintf", "use fmt::print or fmt::format"),
    (r"(?:std::)?(?:chrono::)?system_clock::now", "take a Clock from base/clock.h"),
)
BANNED = [
    (re.compile(rf"(?<![\w.:>])(?:std::|::)?({names})\s*\("), fix) for names, fix in BANNED_CALLS
]
TABLE_ROW = re.compile(r"^\|\s*\d+\s*\|\s*`([^`]+)`\s*\|\s*`([^`]+)`")
MACHINE_PATH = re.compile(r"(?<![\w./:~$}-])/(?:work|root|home|Users)/\w")
REGISTRY = re.compile(
    r"\b(?:crates\.io(?!-index)|pypi\.org|pythonhosted\.org|registry\.npmjs\.org|deb\.debian\.org|"
    r"proxy\.golang\.org|repo\d?\.maven\.)"
)
UNCHECKED_TEXT = re.compile(r"(.*/)?LICENSE$|models/.*\.(json|model|safetensors)$")


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def covered(table, name):
    """The entry of `table` for file `name`: its own, or that of a folder above it."""
    folders = [f"{parent}/" for parent in pathlib.PurePosixPath(name).parents]
    return next((table[key] for key in [name, *folders] if key in table), None)


def check_lengths(name, text, code):
    lines = text.splitlines()
    if len(lines) > FILE_LINES_MAX:
        yield f"{name}:1: {len(lines)} lines, at most {FILE_LINES_MAX}; split the file by purpose"
    suffix = pathlib.PurePosixPath(name).suffix
    functions = python_functions(text) if suffix == ".py" else brace_functions(code, suffix)
    for function in functions:
        if function.lines <= FUNCTION_LINES_MAX:
            continue
        around = lines[max(0, function.first_line - 4) : function.last_line]
        if not any("Long because: " in line for line in around):
            yield (
                f"{name}:{function.first_line}: {function.name} has {function.lines} lines, at "
                f"most {FUNCTION_LINES_MAX}; move leaves out, or say '// Long because: ...'"
            )


def check_code(name, text, code):
    """Exceptions, banned calls, disabled tests and #pragma once of one C++ file."""
    if not covered(EXCEPTIONS_ALLOWED, name):
        for match in re.finditer(r"\b(throw|try|catch)\b", code):
            where = f"{name}:{line_of(code, match.start())}"
            yield f"{where}: '{match[1]}'; return a Result (base/result.h) instead"
    in_base = name.startswith("src/base/")
    for pattern, fix in BANNED:
        for match in pattern.finditer(code):
            if not in_base and (name, match[1]) not in CALLS_ALLOWED:
                yield f"{name}:{line_of(code, match.start())}: {match[1]}(); {fix}"
    for match in re.finditer(r"\bDISABLED_\w+", code):
        where = f"{name}:{line_of(code, match.start())}"
        yield f"{where}: disabled test; mend it or delete it"
    if name.endswith(".h") and not code_starts_with_pragma_once(text):
        yield f"{name}:1: no #pragma once before the code; add it below the opening comment"


def code_starts_with_pragma_once(text):
    comment_free = re.sub(r"\A(?:\s|//[^\n]*|/\*(?:.|\n)*?\*/)*", "", text)
    return comment_free.startswith("#pragma once")


def check_fixme(name, text):
    for match in re.finditer(r"\bFIX" r"ME\b", text):
        where = f"{name}:{line_of(text, match.start())}"
        yield f"{where}: {match[0]}; mend it now, or file it and write TODO(someday)"


def check_tests(root, names):
    """Each src/**/foo.cc has foo_test.cc, or a test of its folder includes foo.h."""
    included = set()
    for name in names:
        if name.startswith("src/") and name.endswith("_test.cc"):
            folder = name.rpartition("/")[0]
            for header in re.findall(r'#include "([^"]+)"', (root / name).read_text()):
                if f"src/{header}".rpartition("/")[0] == folder:
                    included.add(f"src/{header}")
    for name in sorted(names):
        if not name.startswith("src/") or not name.endswith(".cc") or name.endswith("_test.cc"):
            continue
        stem = name[: -len(".cc")]
        if f"{stem}_test.cc" in names or f"{stem}.h" in included or covered(TESTED_BY, name):
            continue
        yield (
            f"{name}:1: no {stem}_test.cc; write it, or name in TESTED_BY of tools/tidy.py "
            "what covers it"
        )


def check_addresses(name, text):
    for number, line in enumerate(text.splitlines(), 1):
        if match := MACHINE_PATH.search(line):
            yield f"{name}:{number}: path of one machine '{match[0]}...'; use a relative path"
        if match := REGISTRY.search(line):
            yield f"{name}:{number}: address '{match[0]}'; name the package alone"


def check_table(root, text):
    """Rows `| 3 | `file` | `function` |` of ARCHITECTURE.md name what exists."""
    rows = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not (row := TABLE_ROW.match(line)):
            continue
        rows += 1
        file, function = row.groups()
        where = f"ARCHITECTURE.md:{number}"
        path = next((p for p in (root / "src" / file, root / file) if p.is_file()), None)
        if path is None:
            yield f"{where}: no file '{file}'; write the row as the code is now"
            continue
        # Definitions stand at the start of a line; calls are indented.
        escaped = re.escape(function)
        defined = rf"^(?=[^\s/#]).*\b{escaped}\s*(?:<[^>]*>)?\(|\bfn {escaped}\b"
        if not re.search(defined, path.read_text(), re.MULTILINE):
            yield f"{where}: no '{function}' defined in {file}; write the row as the code is now"
    if rows == 0:
        yield "ARCHITECTURE.md:1: no table of the path of one token; write it"


def check_document(root, name, text):
    """Commands `./dev X` exist, and so do the files that links name."""
    for match in re.finditer(r"\./dev (\w+)", text):
        if f"\ncmd_{match[1]}()" not in (root / "dev").read_text():
            where = f"{name}:{line_of(text, match.start())}"
            yield f"{where}: no command './dev {match[1]}'; see ./dev help"
    for match in re.finditer(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text):
        if not (root / name).parent.joinpath(match[1]).exists():
            where = f"{name}:{line_of(text, match.start())}"
            yield f"{where}: link to '{match[1]}', which does not exist"


def check_exemptions(names):
    tables = {"EXCEPTIONS_ALLOWED": EXCEPTIONS_ALLOWED, "TESTED_BY": TESTED_BY}
    tables["CALLS_ALLOWED"] = {file for file, _ in CALLS_ALLOWED}
    for table, entries in tables.items():
        for entry in entries:
            if not any(name == entry or name.startswith(entry) for name in names):
                yield f"tools/tidy.py:1: {table} names '{entry}', which is gone; delete the line"
    for entry, test in TESTED_BY.items():
        if test not in names:
            yield f"tools/tidy.py:1: TESTED_BY sends '{entry}' to '{test}', which does not exist"


def check_text(root, name):
    text = (root / name).read_bytes().decode(errors="surrogateescape")
    if "\0" in text[:4096]:
        return
    suffix = pathlib.PurePosixPath(name).suffix
    yield from check_addresses(name, text)
    if suffix in CODE:
        code = code_only(text, suffix)
        yield from check_lengths(name, text, code)
        yield from check_fixme(name, text)
        if suffix in (".h", ".cc"):
            yield from check_code(name, text, code)
    if name == "ARCHITECTURE.md":
        yield from check_table(root, text)
    if suffix == ".md" and not name.startswith("models/"):
        yield from check_document(root, name, text)


def check(root):
    """All problems of the tree under `root`, one line each."""
    names = set(repository_files(root))
    problems = [*check_exemptions(names), *check_tests(root, names)]
    for name in sorted(names):
        if not UNCHECKED_TEXT.match(name):
            problems.extend(check_text(root, name))
    return problems


def main():
    problems = check(pathlib.Path(__file__).resolve().parent.parent)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
