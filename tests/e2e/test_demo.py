"""The demo that the README promises: it shows the whole answer although a machine is killed."""

import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

from serving import EMBER, ROOT, clean_environment, find_binary


class Demo(unittest.TestCase):
    def test_the_answer_survives_the_kill(self):
        with tempfile.TemporaryDirectory() as folder:
            picture = pathlib.Path(folder) / "demo.svg"
            done = subprocess.run(
                [sys.executable, ROOT / "tools/demo_pool.py", find_binary(), EMBER, "--svg", picture],
                capture_output=True, text=True, cwd=ROOT, env=clean_environment(), timeout=120,
            )  # fmt: skip
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertIn("word for word: yes", done.stdout)
            self.assertIn("killed", done.stdout)
            self.assertEqual(xml.etree.ElementTree.parse(picture).getroot().tag[-3:], "svg")


if __name__ == "__main__":
    unittest.main()
