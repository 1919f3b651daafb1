#!/usr/bin/env python3
"""Renders tests/golden/templates/cases.json with Jinja2, set up as transformers does.

The same file is what the C++ test expects of minijinja, so both must agree.
Needs Jinja2. `--write` replaces the expected texts; look at the difference before keeping it.
"""

import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden" / "templates"


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def main():
    path = FOLDER / "cases.json"
    cases = json.loads(path.read_text())
    env = environment()
    failures = 0
    for case in cases:
        template = env.from_string((FOLDER / case["template"]).read_text())
        text = template.render(
            messages=case["messages"],
            tools=case.get("tools"),
            add_generation_prompt=case.get("add_generation_prompt", True),
            **case.get("named_tokens", {}),
            **case.get("kwargs", {}),
        )
        if "--write" in sys.argv:
            case["expected"] = text
        elif text != case["expected"]:
            failures += 1
            print(f"{case['name']}:\n  expected {case['expected']!r}\n  rendered {text!r}")
    if "--write" in sys.argv:
        path.write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n")
    print(f"{len(cases)} cases, {failures} differ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
