#!/usr/bin/env python3
"""Seeds one fault of each kind and expects tidy to report it, and nothing else."""

import pathlib
import tempfile
import unittest
from unittest import mock

import source_text
import tidy

CLEAN_HEADER = "// What a thing is.\n#pragma once\n\nint thing();\n"
CLEAN_SOURCE = '#include "engine/a.h"\n\nint thing() { return 1; }\n'
ROW = "| 1 | `engine/a.cc` | `thing` | in -> out |\n"


def long_function(lines):
    return "int thing() {\n" + "  step();\n" * (lines - 2) + "}\n"


class TidyTest(unittest.TestCase):
    def setUp(self):
        for table in ("EXCEPTIONS_ALLOWED", "TESTED_BY", "CALLS_ALLOWED"):
            patch = mock.patch.object(tidy, table, {})
            patch.start()
            self.addCleanup(patch.stop)

    def problems(self, files):
        tree = {
            "src/engine/a.h": CLEAN_HEADER,
            "src/engine/a.cc": CLEAN_SOURCE,
            "src/engine/a_test.cc": "TEST(A, B) {}\n",
            "ARCHITECTURE.md": ROW,
            "dev": "#!/bin/bash\ncmd_test() {\n}\n",
            **files,
        }
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in tree.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return tidy.check(root)

    def assert_one(self, files, where, what):
        problems = self.problems(files)
        self.assertEqual(len(problems), 1, problems)
        self.assertTrue(problems[0].startswith(where), problems)
        self.assertIn(what, problems[0])
        self.assertIn(";" if "link to" not in what else "link", problems[0], "prints no fix")

    def test_clean_tree_passes(self):
        self.assertEqual(self.problems({}), [])

    def test_long_file(self):
        text = CLEAN_SOURCE + "int x;\n" * 700
        self.assert_one({"src/engine/a.cc": text}, "src/engine/a.cc:1:", "lines, at most 700")

    def test_long_function(self):
        self.assertEqual(self.problems({"src/engine/a.cc": long_function(70)}), [])
        text = "int x;\n" + long_function(71)
        self.assert_one({"src/engine/a.cc": text}, "src/engine/a.cc:2:", "thing has 71 lines")

    def test_long_function_with_a_reason(self):
        text = "// Long because: one table of cases.\n" + long_function(80)
        self.assertEqual(self.problems({"src/engine/a.cc": text}), [])

    def test_long_functions_in_rust_and_python(self):
        rust = "fn thing() {\n" + "    step();\n" * 70 + "}\n"
        self.assert_one({"crates/text/src/lib.rs": rust}, "crates/text/src/lib.rs:1:", "thing has")
        python = "def thing():\n" + "    step()\n" * 71
        self.assert_one({"tools/a.py": python}, "tools/a.py:1:", "thing has 72 lines")

    def test_exceptions(self):
        for word in ("throw 1;", "try {} catch (...) {}"):
            problems = self.problems({"src/engine/a.cc": f"int thing() {{ {word} }}\n"})
            self.assertTrue(problems and "return a Result" in problems[0], problems)

    def test_words_in_comments_and_strings_do_not_count(self):
        text = '// try to rand()\nint thing() { return f("throw printf(1)"); }\n'
        self.assertEqual(self.problems({"src/engine/a.cc": text}), [])

    def test_allowed_exceptions(self):
        source = {"src/engine/a.cc": "int thing() { throw 1; }\n"}
        for entry in ("src/engine/a.cc", "src/engine/"):
            with mock.patch.object(tidy, "EXCEPTIONS_ALLOWED", {entry: "a library throws"}):
                self.assertEqual(self.problems(source), [])

    def test_banned_calls(self):
        calls = ("rand()", "std::rand()", "::sleep(1)", "std::stoi(s)", "printf(s)", "atoi(s)",
                 "std::fprintf(f, s)", "std::this_thread::sleep_for(d)",
                 "std::chrono::system_clock::now()")
        for call in calls:
            with self.subTest(call=call):
                files = {"src/engine/a.cc": f"int thing() {{ {call}; }}\n"}
                self.assert_one(files, "src/engine/a.cc:1:", "(); ")

    def test_calls_that_only_look_banned(self):
        for call in ("x.rand()", "my::rand()", "operand(1)", "std::snprintf(b, n, s)"):
            with self.subTest(call=call):
                text = f"int thing() {{ {call}; }}\n"
                self.assertEqual(self.problems({"src/engine/a.cc": text}), [])

    def test_fixme(self):
        text = CLEAN_SOURCE + "// FIX" "ME: later\n"
        self.assert_one({"src/engine/a.cc": text}, "src/engine/a.cc:4:", "FIX" "ME")

    def test_missing_test(self):
        files = {"src/engine/b.cc": "int b();\n"}
        self.assert_one(files, "src/engine/b.cc:1:", "no src/engine/b_test.cc")
        test = {"src/engine/more_test.cc": '#include "engine/b.h"\nTEST(A, C) {}\n'}
        self.assertEqual(self.problems({**files, **test}), [])

    def test_exemptions_must_be_true(self):
        with mock.patch.object(tidy, "TESTED_BY", {"src/engine/b.cc": "src/engine/a_test.cc"}):
            self.assert_one({}, "tools/tidy.py", "TESTED_BY names 'src/engine/b.cc'")
            self.assertEqual(self.problems({"src/engine/b.cc": "int b();\n"}), [])
        with mock.patch.object(tidy, "TESTED_BY", {"src/engine/a.cc": "src/engine/c_test.cc"}):
            problems = self.problems({})
            self.assertEqual(len(problems), 1)
            self.assertIn("does not exist", problems[0])

    def test_disabled_test(self):
        text = "TEST(A, DISABLED_B) {}\n"
        self.assert_one({"src/engine/a_test.cc": text}, "src/engine/a_test.cc:1:", "disabled")

    def test_pragma_once(self):
        self.assert_one({"src/engine/a.h": "int thing();\n"}, "src/engine/a.h:1:", "#pragma once")

    def test_table_names_what_exists(self):
        gone = "| 2 | `engine/gone.cc` | `thing` | x |\n"
        self.assert_one({"ARCHITECTURE.md": ROW + gone}, "ARCHITECTURE.md:2:", "no file")
        gone = "| 2 | `engine/a.cc` | `A::other` | x |\n"
        self.assert_one({"ARCHITECTURE.md": ROW + gone}, "ARCHITECTURE.md:2:", "no 'A::other'")
        only_called = "| 2 | `engine/a_test.cc` | `thing` | x |\n"
        files = {"src/engine/a_test.cc": "TEST(A, B) {\n  thing();\n}\n"}
        files["ARCHITECTURE.md"] = ROW + only_called
        self.assert_one(files, "ARCHITECTURE.md:2:", "no 'thing'")
        self.assert_one({"ARCHITECTURE.md": "Words.\n"}, "ARCHITECTURE.md:1:", "no table")

    def test_machine_paths_and_registries(self):
        path = "/" + "root/thing"
        self.assert_one({"docs/a.md": f"See {path}.\n"}, "docs/a.md:1:", "path of one machine")
        host = "pypi" + ".org"
        self.assert_one({"docs/a.md": f"From {host}.\n"}, "docs/a.md:1:", "address")
        ordinary = "https://example.org/home/x and ~/work/x and net/root/x\n"
        self.assertEqual(self.problems({"docs/a.md": ordinary}), [])

    def test_documents(self):
        self.assertEqual(self.problems({"docs/a.md": "`./dev test` [a](../ARCHITECTURE.md)\n"}), [])
        self.assert_one({"docs/a.md": "\n`./dev nothing`\n"}, "docs/a.md:2:", "no command")
        self.assert_one({"docs/a.md": "[a](gone.md)\n"}, "docs/a.md:1:", "link to 'gone.md'")


class FunctionsTest(unittest.TestCase):
    def names(self, text, suffix=".cc"):
        code = source_text.code_only(text, suffix)
        found = source_text.brace_functions(code, suffix)
        return [(f.name, f.first_line, f.last_line) for f in found]

    def test_cpp_shapes(self):
        text = """namespace a {
class B {
 public:
  B(int x) : x_{x}, y_(2) {
    go();
  }
  bool operator()(int x) const {
    return x == '{';
  }
};
template <class T = int>
T f(T x = {}) {
  auto g = [&] { return x; };
  return g();
}
constexpr int kTable[] = {
    1, 2};
enum class E { kOne };
TEST(Suite, Name) {
  if (1'000 > 2) { EXPECT_TRUE(true); }
}
}  // namespace a
"""
        expected = [("B", 4, 6), ("operator", 7, 9), ("f", 11, 15), ("TEST", 19, 21)]
        self.assertEqual(self.names(text), expected)

    def test_rust_shapes(self):
        text = """use a::{b, c};
struct S { x: i32 }
impl S {
    fn f<'a>(&'a self) -> char {
        '{'
    }
}
pub fn g() {
    let s = r#"}"#;
}
"""
        self.assertEqual(self.names(text, ".rs"), [("f", 4, 6), ("g", 8, 10)])


if __name__ == "__main__":
    unittest.main()
