#!/usr/bin/env python3
"""count_tests.py JUNIT FOLDER: prints `passed failed skipped` of one ctest run.

JUNIT is what `ctest --output-junit` wrote, FOLDER holds what GoogleTest programs wrote under
GTEST_OUTPUT=xml:FOLDER/. A GoogleTest program counts by its cases; one that ended badly all the
same (a crash, a leak at exit) counts as one failure more. Counts nothing that did not run.
"""

import collections
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def state(case):
    """How one <testcase> of ctest or GoogleTest ended."""
    if case.find("failure") is not None or case.get("status") == "fail":
        return "failed"
    skipped = case.find("skipped")
    if case.get("status") == "notrun" and not skipped.get("message", "").startswith("SKIP_"):
        return "failed"  # its program does not exist
    if skipped is not None or case.get("status") == "disabled":
        return "skipped"
    return "passed"


def count(junit, folder):
    """Counter of passed, failed and skipped."""
    if not junit.is_file():
        return collections.Counter()
    counts = collections.Counter(state(c) for c in ElementTree.parse(junit).iter("testcase"))
    for report in folder.glob("*.xml"):
        cases = collections.Counter(state(c) for c in ElementTree.parse(report).iter("testcase"))
        whole = "failed" if cases["failed"] else "passed"  # how ctest saw this program
        if counts[whole]:
            counts[whole] -= 1
        counts += cases
    return counts


def main():
    counts = count(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
    print(counts["passed"], counts["failed"], counts["skipped"])


if __name__ == "__main__":
    main()
