"""One machine with the model's files is enough: the others get their slices from it."""

import pathlib
import re
import unittest

from pool import Pool
from serving import EMBER, Server, wait_until

QUESTION = "Tell me about the sea."


def text_of(server):
    status, answer = server.chat(QUESTION, temperature=0, max_tokens=40)
    assert status == 200, answer
    return answer["choices"][0]["message"]["content"]


def bytes_on_disk(folder):
    """Blocks, not lengths: skeletons are sparse."""
    files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    return sum(path.stat().st_blocks * 512 for path in files)


def packed_files(node):
    return sorted(pathlib.Path(node.state, "weights").glob("*/*.packed"))


def sources_in(log):
    """Ports from which weights came."""
    return set(re.findall(r"weights come from=[^ ]*:(\d+)", log))


class Weights(unittest.TestCase):
    def test_nodes_without_files_answer_like_one_machine(self):
        server = Server("--exact", "--threads", "1")
        try:
            alone = text_of(server)
        finally:
            server.kill()
        with Pool(2, "--exact", "--shares", "1,1,1", node_models=None) as pool:
            status = pool.wait_running(3)
            self.assertEqual(text_of(pool.head), alone)
            self.assertEqual([n["files"] for n in status["nodes"]], [True, False, False])
            self.assertIn("only head has the model's files", status["warning"])
            self.assertIn("only head has", pool.conclave("pool").stdout)
            model = sum(path.stat().st_size for path in EMBER.glob("*.safetensors"))
            for node in pool.nodes:
                self.assertEqual(packed_files(node), [])
                self.assertLess(bytes_on_disk(pathlib.Path(node.state, "weights")), model / 4)

    def test_who_has_the_files_gives_them_in_the_heads_place(self):
        with Pool(2, "--shares", "1,1,1", node_models=None,
                  node_arguments=[("--models", EMBER), ()]) as pool:  # fmt: skip
            status = pool.wait_running(3)
            files = {n["name"]: n["files"] for n in status["nodes"]}
            self.assertEqual(files, {"head": True, "node-a": True, "node-b": False})
            self.assertNotIn("warning", status)
            log = pool.node("node-b").read_log()
            head_port = re.search(r"connected to the head at [^ ]*:(\d+)", log)[1]
            self.assertTrue(sources_in(log), log)
            self.assertNotIn(head_port, sources_in(log))
            self.assertEqual(sources_in(pool.node("node-a").read_log()), set())

    def test_a_restarted_node_takes_its_weights_from_its_disk(self):
        with Pool(1, "--shares", "1,1", node_models=None, node_arguments=[("--cache",)]) as pool:
            node = pool.nodes[0]
            before = text_of(pool.head)
            # What every machine needs, and its slice; nobody takes over the head's.
            wait_until(lambda: len(packed_files(node)) == 2, 20, "the weights are on disk")
            log = self.restart(pool, node)
            self.assertEqual(sources_in(log), set())
            self.assertEqual(log.count("weights from disk"), 2, log)
            self.assertEqual(text_of(pool.head), before)

            spoilt = packed_files(node)[1]
            with open(spoilt, "r+b") as file:
                file.seek(100_000)
                byte = file.read(1)
                file.seek(100_000)
                file.write(bytes([byte[0] ^ 1]))
            log = self.restart(pool, node)
            self.assertIn(f"{spoilt}: is damaged", log)
            self.assertEqual(len(sources_in(log)), 1, log)
            self.assertEqual(log.count("weights from disk"), 1, log)
            self.assertEqual(text_of(pool.head), before)
            wait_until(lambda: len(packed_files(node)) == 2, 20, "it is on disk again")
            self.assertEqual(self.restart(pool, node).count("weights from disk"), 2)

    def restart(self, pool, node):
        """What the node then logs until it runs."""
        node.kill()
        wait_until(lambda: pool.status()["nodes"][1]["state"] == "gone", 10, "it is missed")
        seen = len(node.read_log())
        node.start()
        pool.wait_running(2)
        wait_until(
            lambda: pool.status()["nodes"][1]["virtual_ranks_computed"] > 0, 20, "it takes part"
        )
        return node.read_log()[seen:]


if __name__ == "__main__":
    unittest.main()
