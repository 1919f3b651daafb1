#!/usr/bin/env python3
"""Counts seeded reports."""

import pathlib
import tempfile
import unittest

import count_tests

CTEST = '<testsuite tests="9">{}</testsuite>'
GTEST = "<testsuites><testsuite>{}</testsuite></testsuites>"
RUN = '<testcase name="a" status="run"/>'
FAILED = '<testcase name="b" status="fail"><failure message=""/></testcase>'
NOT_RUN = '<testcase name="c" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/></testcase>'
NO_PROGRAM = '<testcase status="notrun"><skipped message="Unable to find executable"/></testcase>'
CASE = '<testcase name="d" status="run" result="completed"/>'
BAD_CASE = '<testcase name="e" status="run" result="completed"><failure message="x"/></testcase>'
SKIPPED_CASE = '<testcase name="f" status="run" result="skipped"><skipped/></testcase>'


class CountTestsTest(unittest.TestCase):
    def count(self, ctest, *programs):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            if ctest is not None:
                (root / "ctest.xml").write_text(CTEST.format(ctest))
            (root / "cases").mkdir()
            for number, program in enumerate(programs):
                (root / f"cases/{number}.xml").write_text(GTEST.format(program))
            counts = count_tests.count(root / "ctest.xml", root / "cases")
            return counts["passed"], counts["failed"], counts["skipped"]

    def test_plain_tests(self):
        self.assertEqual(self.count(RUN + RUN + FAILED + NOT_RUN), (2, 1, 1))

    def test_a_missing_program_counts_as_failed(self):
        self.assertEqual(self.count(RUN + NO_PROGRAM), (1, 1, 0))

    def test_no_report_counts_nothing(self):
        self.assertEqual(self.count(None), (0, 0, 0))

    def test_programs_count_by_their_cases(self):
        self.assertEqual(self.count(RUN + RUN, CASE * 5 + SKIPPED_CASE), (6, 0, 1))
        self.assertEqual(self.count(RUN + FAILED, CASE * 5, CASE * 3 + BAD_CASE), (8, 1, 0))

    def test_a_program_that_ends_badly_after_its_cases_counts_as_failed(self):
        self.assertEqual(self.count(FAILED, CASE * 5)[1], 1)

    def test_a_program_that_crashed_counts_as_failed(self):
        self.assertEqual(self.count(FAILED + RUN, CASE * 5), (5, 1, 0))


if __name__ == "__main__":
    unittest.main()
