"""End-to-end tests of `conclave plan` and `conclave probe`: real processes, no network.

    python3 tests/e2e/test_plan.py            # uses build/release/conclave
"""

import json
import unittest
import xml.dom.minidom

from test_cli import EMBER, ROOT, CliTest, conclave

FOUR = ROOT / "data" / "clusters" / "four-m3-ultra-tb5.toml"


class PlanTest(CliTest):
    def write(self, text):
        path = self.dir / "cluster.toml"
        path.write_text(text)
        return path

    def test_report_of_a_cluster_file(self):
        done = conclave("plan", FOUR)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("strategy", "share", "tokens per second", "roofline", "survives", "would help"):
            self.assertIn(word, done.stdout)
        self.assertLessEqual(max(map(len, done.stdout.splitlines())), 100)

    def test_every_example_is_planned(self):
        examples = sorted((ROOT / "data" / "clusters").glob("*.toml"))
        self.assertGreater(len(examples), 3)
        done = conclave("plan", "--compare", *examples)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_json_adds_up(self):
        done = conclave("plan", FOUR, "--json")
        plan = json.loads(done.stdout)
        shares = [rank["share"] for rank in plan["placement"]["ranks"]]
        self.assertAlmostEqual(sum(shares), 1.0, places=9)
        self.assertGreater(plan["prediction"]["tokens_per_second"], 20)

    def test_seed_table(self):
        done = conclave("plan", "--seed-table")
        self.assertEqual(done.returncode, 0, done.stderr)
        for name in ("6 x M2 Ultra", "4 x M3 Ultra", "1 x H100", "8 x A100"):
            self.assertEqual(done.stdout.count(f"\n{name}"), 2 if name != "1 x H100" else 3, name)

    def test_sweep_what_if_and_drawings(self):
        drawing = self.dir / "sweep.svg"
        done = conclave("plan", FOUR, "--sweep", "nodes=1..4", "--svg", drawing)
        self.assertEqual(done.returncode, 0, done.stderr)
        xml.dom.minidom.parse(str(drawing))
        done = conclave("plan", FOUR, "--what-if", "link=10gbe")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = conclave("plan", FOUR, "--svg", self.dir / "cluster.svg")
        self.assertEqual(done.returncode, 0, done.stderr)
        xml.dom.minidom.parse(str(self.dir / "cluster.svg"))

    def test_events_agree(self):
        done = conclave("plan", FOUR, "--events", "--json")
        plan = json.loads(done.stdout)
        self.assertEqual(done.returncode, 0, done.stderr)
        events = plan["events"]["tokens_per_second"]
        self.assertLess(abs(events / plan["prediction"]["tokens_per_second"] - 1), 0.2)

    def test_a_slow_stack_is_flagged(self):
        done = conclave("plan", FOUR, "--measured", "8")
        self.assertIn("software", done.stdout)
        plan = json.loads(conclave("plan", FOUR, "--measured", "8", "--json").stdout)
        self.assertTrue(plan["explanation"]["software_bound"])
        plan = json.loads(conclave("plan", FOUR, "--measured", "25", "--json").stdout)
        self.assertFalse(plan["explanation"]["software_bound"])

    def test_nonsense_is_one_clear_line(self):
        bad = [
            ("model='kimi-k2'\n[[machine]]\nuse='m3-ultra-512'\nmemory_gb=-1\n", "memory_gb"),
            ("model='kimi-k2'\n[[machine]]\nuse='m9-ultra'\n", "m9-ultra"),
            ("model='gpt-9'\n[[machine]]\nuse='m3-ultra-512'\n", "gpt-9"),
            ("model='kimi-k2'\n[[machine]]\nuse='m3-ultra-512'\ncount=2\n", "link"),
            ("model='kimi-k2'\ntopology='star'\n[[machine]]\nuse='m3-ultra-512'\n", "star"),
            ("model='kimi-k2'\nbandwith=3\n[[machine]]\nuse='m3-ultra-512'\n", "bandwith"),
            ("not toml", "line 1"),
            ("", "model: missing"),
            ("[[machine]]\nuse='m3-ultra-512'\n", "model: missing"),
            ("model='kimi-k2'\n", "[[machine]]"),
        ]
        for text, named in bad:
            with self.subTest(text=text):
                done = conclave("plan", self.write(text))
                self.assertEqual(done.returncode, 2)
                self.assertEqual(done.stdout, "")
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
                self.assertIn(named, done.stderr)

    def test_limits_of_flags_are_one_clear_line(self):
        bad = [
            (("--what-if", "nodes=20000000"), "100000"),
            (("--sweep", "nodes=1..999999999"), "100000"),
            (("--sweep", "batch=1..999999999999"), "1000000"),
            (("--sweep", "context=1,99999999999999999999999"), "16777216"),
            (("--measured", "inf"), "inf"),
            (("--measured", "-3"), "-3"),
            (("--svg", ""), "--svg"),
        ]
        for flags, named in bad:
            with self.subTest(flags=flags):
                done = conclave("plan", FOUR, *flags)
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
                self.assertLess(len(done.stderr), 120)
                self.assertIn(named, done.stderr)
        done = conclave("plan", "--machines", "m3-ultra-512*1000000000")
        self.assertEqual(done.returncode, 2)
        self.assertIn("at most 100000 machines", done.stderr)

    def test_a_list_with_blanks_and_what_it_assumes(self):
        done = conclave("plan", "--machines", "m3-ultra-512*3, m4-max-128", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        assumed = " ".join(json.loads(done.stdout)["assumed"])
        for flag in ("--model", "--quant", "others:", "--link", "--topology", "--software"):
            self.assertIn(flag, assumed)

    def test_what_does_not_fit(self):
        done = conclave("plan", "--machines", "h100-80", "--model", "kimi-k2-thinking")
        self.assertEqual(done.returncode, 1)
        self.assertIn("missing", done.stdout + done.stderr)


class ProbeTest(CliTest):
    def test_an_entry_that_plan_reads(self):
        entry = self.dir / "here.toml"
        done = conclave("probe", "--threads", "1", "--memory-mb", "64", "--name", "here", "--out", entry)
        self.assertEqual(done.returncode, 0, done.stderr)
        name = next(l for l in entry.read_text().splitlines() if l.startswith("name")).split('"')[1]
        done = conclave("plan", "--catalogue", entry, "--machines", name, "--model", EMBER, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(json.loads(done.stdout)["prediction"]["tokens_per_second"], 10)

    def test_wrong_arguments(self):
        self.assertEqual(conclave("probe", "--isa", "mmx").returncode, 2)
        self.assertEqual(conclave("probe", "--threads", "0").returncode, 2)
        done = conclave("probe", "--threads", "100000")
        self.assertEqual(done.returncode, 2)
        self.assertIn("this machine runs", done.stderr)
        done = conclave("probe", "--threads", "1", "--memory-mb", "64", "--out", "/nonexistent/x")
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
