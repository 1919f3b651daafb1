#!/usr/bin/env python3
"""Seeds one violation of each kind and expects check_layers to report it, and nothing else."""

import pathlib
import tempfile
import unittest

import check_layers

LAYERS = "base\nkernels wire\nengine collective plan\ncluster\n"


class CheckLayersTest(unittest.TestCase):
    def problems(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {"src/LAYERS": LAYERS, **files}.items():
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check_layers.check(root)

    def assert_one(self, files, where, what):
        problems = self.problems(files)
        self.assertEqual(len(problems), 1, problems)
        self.assertTrue(problems[0].startswith(where), problems)
        self.assertIn(what, problems[0])

    def test_clean_tree_passes(self):
        files = {
            "src/engine/engine.cc": '#include "engine/step.h"\n#include "kernels/kernels.h"\n'
            '#include "base/clock.h"\n#include <thread>\n',
        }
        self.assertEqual(self.problems(files), [])

    def test_upward_include(self):
        files = {"src/kernels/a.cc": '#include <span>\n#include "engine/engine.h"\n'}
        self.assert_one(files, "src/kernels/a.cc:2:", "not below")

    def test_sideways_include(self):
        files = {"src/kernels/a.h": '#include "wire/wire.h"\n'}
        self.assert_one(files, "src/kernels/a.h:1:", "not below")

    def test_private_header(self):
        files = {"src/engine/a.cc": '#include "kernels/avx2/gemm.h"\n'}
        self.assert_one(files, "src/engine/a.cc:1:", "private header")

    def test_a_test_may_use_the_test_model_of_a_lower_module(self):
        line = '#include "engine/integer_backend.h"\n'
        self.assertEqual(self.problems({"src/cluster/a_test.cc": line}), [])
        self.assertEqual(self.problems({"src/cluster/test_a.h": line}), [])
        self.assert_one({"src/cluster/a.cc": line}, "src/cluster/a.cc:1:", "private header")
        self.assert_one({"src/kernels/a_test.cc": line}, "src/kernels/a_test.cc:1:", "not below")

    def test_generated_private_header(self):
        files = {"src/engine/a.cc": '#include "wire/worker.pb.h"\n'}
        self.assert_one(files, "src/engine/a.cc:1:", "private header")

    def test_base_has_many_public_headers(self):
        self.assertEqual(self.problems({"src/engine/a.cc": '#include "base/rng.h"\n'}), [])

    def test_module_without_a_layer(self):
        self.assert_one({"src/extra/a.cc": "int a;\n"}, "src/extra/a.cc:", "not in src/LAYERS")

    def test_include_of_a_module_without_a_layer(self):
        files = {"src/engine/a.cc": '#include "extra/extra.h"\n'}
        self.assert_one(files, "src/engine/a.cc:1:", "not in src/LAYERS")

    def test_sans_io_includes(self):
        for name in ("cluster/token_log.cc", "engine/scheduler.h", "collective/x.cc", "plan/x.cc"):
            for header in ("thread", "mutex", "random", "boost/asio/io_context.hpp"):
                with self.subTest(name=name, header=header):
                    files = {f"src/{name}": f"#include <{header}>\n"}
                    self.assert_one(files, f"src/{name}:1:", "sans-I/O")

    def test_sans_io_names(self):
        for name in ("std::chrono::steady_clock::now()", "conclave::RealClock clock;"):
            with self.subTest(name=name):
                files = {"src/cluster/token_log.cc": f"auto x = {name};\n"}
                self.assert_one(files, "src/cluster/token_log.cc:1:", "sans-I/O")

    def test_sans_io_does_not_bind_others(self):
        files = {
            "src/cluster/agent.cc": "#include <thread>\n",
            "src/engine/scheduler_test.cc": "#include <random>\n",
            "src/cluster/token_log.h": "// no steady_clock::now here\n#include <chrono>\n",
        }
        self.assertEqual(self.problems(files), [])


if __name__ == "__main__":
    unittest.main()
