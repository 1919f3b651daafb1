"""Kills the worker of `conclave serve` again and again while it answers: every stream ends with
the tokens of an undisturbed run, none missing, none twice, and nothing leaks.

    python3 tests/e2e/test_worker_kills.py [--kills N]     # default 10
"""

import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
import unittest

from serving import EMBER, Server, alive, collect, wait_until

KILLS = 10
N_STREAMS = 8
ANSWER_TOKENS = 120
GROWTH_MAX_KIB = 16 * 1024

PROMPTS = [
    "Tell me a story about a fox.",
    "What do you like to eat?",
    "Tell me about the sea.",
    "Who are you?",
    "Write a short poem about rain.",
    "How was your day?",
    "Tell me a story about a king and his three sons.",
    "Why is the sky blue?",
]

# Greedy and to the full length: a worker that takes over replays the answer so far in decode form,
# so that the token lists must be equal.
FIELDS = dict(
    temperature=0,
    max_tokens=ANSWER_TOKENS,
    ignore_eos=True,
    logprobs=True,
    stream_options={"include_usage": True},
)


class Load:
    """Streams over all prompts, again and again, until stop(); checks every answer."""

    def __init__(self, server, expected):
        self.server = server
        self.expected = expected
        self.tokens_seen = 0
        self.answers = 0
        self.faults = []
        self.lock = threading.Lock()
        self.ending = False
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(N_STREAMS)]
        for thread in self.threads:
            thread.start()

    def run(self, index):
        turn = index
        while not self.ending:
            prompt = PROMPTS[turn % len(PROMPTS)]
            turn += 1
            try:
                self.check(prompt)
            except Exception as error:  # a thread's failure must reach the test
                with self.lock:
                    self.faults.append(f"{prompt}: {error!r}")
                return

    def check(self, prompt):
        stream = self.server.stream(prompt, **FIELDS)
        answer = collect(self.counted(stream))
        stream.close()
        want = self.expected[prompt]
        if not stream.done or answer.finish != "length":
            raise AssertionError(f"lost: done={stream.done} finish={answer.finish}")
        if answer.usage["completion_tokens"] != ANSWER_TOKENS:
            raise AssertionError(f"usage {answer.usage}")
        if answer.tokens != want.tokens or answer.content != want.content:
            at = next(
                (i for i, (a, b) in enumerate(zip(answer.tokens, want.tokens)) if a != b),
                min(len(answer.tokens), len(want.tokens)),
            )
            raise AssertionError(f"differs at token {at} of {len(answer.tokens)}")
        with self.lock:
            self.answers += 1

    def counted(self, stream):
        for chunk in stream:
            with self.lock:
                self.tokens_seen += 1
            yield chunk

    def stop(self):
        self.ending = True
        for thread in self.threads:
            thread.join(120)
            if thread.is_alive():
                self.faults.append("a stream hangs")


class WorkerKills(unittest.TestCase):
    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.kill)

    def restarts(self):
        return json.loads(self.server.get("/health")[2])["restarts"]

    def expected(self):
        return {prompt: collect(self.server.stream(prompt, **FIELDS)) for prompt in PROMPTS}

    def test_no_stream_is_lost_or_changed(self):
        expected = self.expected()
        for answer in expected.values():
            self.assertEqual(len(answer.tokens), ANSWER_TOKENS)
        worker = self.server.worker()
        memory, descriptors = None, None
        load = Load(self.server, expected)
        for kill in range(KILLS):
            seen = load.tokens_seen
            # Tokens of this worker are on their way; where in its step it is, is left to chance.
            wait_until(lambda: load.tokens_seen >= seen + 20 or load.faults, 60, "tokens flow")
            time.sleep(0.003 * (kill % 11))
            self.assertEqual(load.faults, [])
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not alive(worker), 10, "the worker is gone")
            worker = self.server.worker()
            if kill == 2:  # after warming up
                memory, descriptors = self.server.memory_kib(), self.server.descriptors()
        load.stop()
        self.assertEqual(load.faults, [])
        self.assertGreater(load.answers, 0)
        self.assertEqual(self.restarts(), KILLS)
        print(f"{KILLS} kills, {load.answers} answers, {load.tokens_seen} chunks", file=sys.stderr)
        self.check_no_leak(memory, descriptors)
        self.assertEqual(self.server.stop(), 0)
        self.assertFalse(alive(worker))

    def check_no_leak(self, memory, descriptors):
        self.assertEqual(len(self.server.workers()), 1)
        self.assertLess(self.server.memory_kib() - memory, GROWTH_MAX_KIB)
        wait_until(
            lambda: self.server.descriptors() <= descriptors,
            10,
            f"descriptors come back to {descriptors}",
        )

    def test_a_frozen_worker_is_replaced(self):
        prompt = PROMPTS[0]
        want = collect(self.server.stream(prompt, **FIELDS))
        stream = self.server.stream(prompt, **FIELDS)
        worker = self.server.worker()
        chunks = iter(stream)
        first = [next(chunks) for _ in range(5)]
        os.kill(worker, signal.SIGSTOP)
        answer = collect(first + list(chunks))
        stream.close()
        self.assertEqual(answer.tokens, want.tokens)
        self.assertFalse(alive(worker))
        self.assertEqual(self.restarts(), 1)

    def test_an_idle_worker_is_replaced_too(self):
        for _ in range(3):
            worker = self.server.worker()
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: not alive(worker), 10, "the worker is gone")
            status, answer = self.server.chat("Hi", max_tokens=4)
            self.assertEqual(status, 200, answer)

    def test_a_worker_that_is_never_ready_ends_the_server_with_its_reason(self):
        stream = self.server.stream("Tell me a story.", ignore_eos=True, temperature=0)
        chunks = iter(stream)
        next(chunks)
        deadline = time.monotonic() + 60
        while self.server.process.poll() is None and time.monotonic() < deadline:
            for worker in self.server.workers():
                os.kill(worker, signal.SIGKILL)
            time.sleep(0.001)  # less than a worker needs to be ready
        self.assertEqual(self.server.process.wait(10), 1)
        self.assertIn("killed by signal 9", self.server.read_log())
        # The stream was told, and did not look finished.
        rest = list(chunks)
        stream.close()
        self.assertIn("killed by signal 9", rest[-1]["error"]["message"])
        self.assertFalse(stream.done)

    def test_a_corrupt_model_is_an_error_at_the_start(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="conclave-corrupt-"))
        self.addCleanup(shutil.rmtree, folder)
        for file in EMBER.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, folder)
        with self.assertRaisesRegex(AssertionError, "safetensors"):
            Server(model=folder)


if __name__ == "__main__":
    if "--kills" in sys.argv:
        at = sys.argv.index("--kills")
        KILLS = int(sys.argv[at + 1])
        del sys.argv[at : at + 2]
    unittest.main()
