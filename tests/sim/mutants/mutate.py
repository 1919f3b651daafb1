#!/usr/bin/env python3
"""mutate.py PATCH SOURCE OUTPUT: writes SOURCE with the hunks of PATCH to OUTPUT.

A hunk's place is found by its text, which must occur exactly once: line numbers drift. Where it
does not, the mutant has lost its meaning and must be mended or deleted.
"""

import pathlib
import sys


def read_hunks(patch):
    """The (old, new) texts of a unified diff's hunks."""
    hunks = []
    for line in patch.splitlines():
        if line.startswith("@@"):
            hunks.append(([], []))
        elif hunks:
            old, new = hunks[-1]
            if line[:1] in ("", " ", "-"):
                old.append(line[1:])
            if line[:1] in ("", " ", "+"):
                new.append(line[1:])
    return [("\n".join(old) + "\n", "\n".join(new) + "\n") for old, new in hunks]


def main():
    patch, source, output = map(pathlib.Path, sys.argv[1:])
    text = source.read_text()
    hunks = read_hunks(patch.read_text())
    if not hunks:
        sys.exit(f"{patch}: no hunk")
    for old, new in hunks:
        if text.count(old) != 1:
            sys.exit(f"{patch}: found {text.count(old)} times in {source}, must be once:\n{old}")
        text = text.replace(old, new)
    output.write_text(text)


if __name__ == "__main__":
    main()
