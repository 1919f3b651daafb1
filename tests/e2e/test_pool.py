"""Several machines as one: the same answers as one machine, whatever the division."""

import json
import pathlib
import socket
import unittest

from pool import Node, Pool
from serving import EMBER, Answer, Server, collect, wait_until

LOGPROB_ERROR_MAX = 1e-3
MARGIN_MIN = 1e-3

# machines, shares, strategy
DIVISIONS = [
    (1, "1", "slice"),
    (2, "1,1", "slice"),
    (3, "2,1,1", "slice"),
    (3, "0,1,1", "slice"),
    (5, "1,0,2,1,0", "slice"),
    (2, "3,1", "slice-ra"),
    (3, "1,0,1", "slice-ra"),
    (3, "2,1,1", "expert"),
    (2, "0,1", "expert"),
    (3, "1,1,1", "pipeline"),
    (3, "0,1,2", "pipeline"),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def golden_chats():
    entries = json.loads((EMBER / "golden.json").read_text())
    return [entry for entry in entries if entry["chat"]]


def answer_of(server, entry):
    """The text up to the end token, and every token's log-probabilities."""
    stream = server.stream(entry["prompt"], temperature=0, max_tokens=len(entry["greedy"]),
                           logprobs=True, top_logprobs=5)  # fmt: skip
    text, logprobs = "", []
    for chunk in stream:
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            for token in (choice.get("logprobs") or {}).get("content", []):
                logprobs.append([token["logprob"], *(t["logprob"] for t in token["top_logprobs"])])
    stream.close()
    return text, logprobs


def golden_text(entry):
    """The golden text as far as its margins say that it is the only right one."""
    if min(entry["margins"]) < MARGIN_MIN:
        return None
    return entry["text"].removesuffix("<|im_end|>")


class Divisions(unittest.TestCase):
    def setUp(self):
        server = Server("--exact", "--threads", "1")
        try:
            self.alone = [answer_of(server, entry) for entry in golden_chats()]
        finally:
            server.kill()

    def test_every_division_gives_the_answers_of_one_machine(self):
        for machines, shares, strategy in DIVISIONS:
            with self.subTest(machines=machines, shares=shares, strategy=strategy):
                with Pool(machines - 1, "--exact", "--shares", shares, "--strategy",
                          strategy) as pool:  # fmt: skip
                    self.check(pool, machines)

    def check(self, pool, machines):
        status = pool.status()
        self.assertEqual(status["phase"], "running", status)
        self.assertEqual(len(status["nodes"]), machines)
        for entry, (text, logprobs) in zip(golden_chats(), self.alone):
            found_text, found = answer_of(pool.head, entry)
            self.assertEqual(found_text, text, entry["prompt"])
            if golden_text(entry) is not None:
                self.assertEqual(found_text, golden_text(entry), entry["prompt"])
            self.assertEqual(len(found), len(logprobs))
            worst = max(abs(a - b) for x, y in zip(found, logprobs) for a, b in zip(x, y))
            self.assertLess(worst, LOGPROB_ERROR_MAX, entry["prompt"])


class Life(unittest.TestCase):
    def test_a_lost_stage_of_a_pipeline_is_read_again(self):
        with Pool(2, "--shares", "1,1,1", "--strategy", "pipeline") as pool:
            fields = dict(temperature=0, max_tokens=120, ignore_eos=True, logprobs=True)
            undisturbed = collect(pool.head.stream("Tell me about the sea.", **fields))
            answer = Answer()
            for chunk in pool.head.stream("Tell me about the sea.", **fields):
                answer.add(chunk)
                if len(answer.tokens) == 20 and pool.node("node-a").process.poll() is None:
                    pool.node("node-a").kill()
            self.assertEqual(answer.finish, "length")
            self.assertEqual(answer.tokens, undisturbed.tokens)

    def test_a_lost_node_is_taken_over_and_comes_back(self):
        with Pool(2, "--shares", "1,1,1") as pool:
            before = pool.head.chat("Tell me about the sea.", temperature=0, max_tokens=40)
            lost = pool.node("node-a")
            lost.kill()
            wait_until(lambda: pool.state_of("node-a") == "gone", 10, "it is missed")
            after = pool.head.chat("Tell me about the sea.", temperature=0, max_tokens=40)
            self.assertEqual(after[1]["choices"], before[1]["choices"])
            lost.start()
            pool.wait_running(3)
            again = pool.head.chat("Tell me about the sea.", temperature=0, max_tokens=40)
            self.assertEqual(again[1]["choices"], before[1]["choices"])

    def test_experts_that_are_chosen_often_get_copies(self):
        with Pool(2, "--exact", "--shares", "1,1,1", "--strategy", "expert", "--hot-experts", "6",
                  pool_port=free_port()) as pool:  # fmt: skip
            self.assertEqual(pool.status()["expert_replicas"], 0, "nothing is counted yet")
            before = [answer_of(pool.head, entry) for entry in golden_chats()]
            files = pathlib.Path(pool.state)
            wait_until(lambda: list(files.glob("experts-*")), 20, "choices are kept on disk")
            pool.restart_head()
            self.assertEqual(pool.status()["expert_replicas"], 6 * 7)
            self.assertIn("copies of experts", pool.conclave("pool").stdout)
            self.check_answers(pool, before)
            pool.node("node-a").kill()  # others compute what it had, copies included
            wait_until(lambda: pool.state_of("node-a") == "gone", 10, "it is missed")
            self.assertEqual(pool.status()["expert_replicas"], 6 * 7, "backups do")
            self.check_answers(pool, before)

    def check_answers(self, pool, wanted):
        for entry, (text, logprobs) in zip(golden_chats(), wanted):
            found_text, found = answer_of(pool.head, entry)
            self.assertEqual(found_text, text, entry["prompt"])
            worst = max(abs(a - b) for x, y in zip(found, logprobs) for a, b in zip(x, y))
            self.assertLess(worst, LOGPROB_ERROR_MAX, entry["prompt"])

    def test_drain_and_remove(self):
        with Pool(2, "--shares", "1,1,1") as pool:
            pool.conclave("pool", "drain", "node-a")
            drained = wait_until(
                lambda: [n for n in pool.status()["nodes"]
                         if n["name"] == "node-a" and n["virtual_ranks_computed"] == 0],
                10, "its work is given away",
            )  # fmt: skip
            self.assertEqual(drained[0]["state"], "drained")
            self.assertEqual(pool.head.chat("Who are you?", max_tokens=8)[0], 200)
            pool.conclave("pool", "remove", "node-b")
            wait_until(lambda: pool.state_of("node-b") == "removed", 2, "it is let go")
            refused = pool.conclave("pool", "remove", "nobody", check=False)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("nobody", refused.stderr)

    def test_codes_are_good_for_one_machine(self):
        with Pool(0) as pool:
            code = pool.pair()
            first = Node("first", join=code)
            second = Node("second", join=code)
            try:
                wait_until(lambda: len(pool.status()["nodes"]) == 2, 10, "one of them is in")
                names = {first: "first", second: "second"}
                loser = wait_until(
                    lambda: next((n for n in names if n.process.poll() is not None), None), 10,
                    "the other is refused",
                )  # fmt: skip
                self.assertIn("used", loser.read_log())
            finally:
                first.end()
                second.end()
            wrong = Node("wrong", join=code[:-4] + "ABCD")
            try:
                wrong.process.wait(10)
                self.assertEqual(wrong.process.returncode, 1)
            finally:
                wrong.end()


if __name__ == "__main__":
    unittest.main()
