"""Who is let in, and what can be read on the cables. Network namespaces; needs root and tcpdump."""

import base64
import os
import pathlib
import random
import re
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import netns
from pool import Node, Pool
from serving import EMBER, wait_until

PROMPT = "Zanzibar quokka marmalade: tell me about a violet lighthouse."


class Capture:
    """tcpdump on every cable, from the switch's side."""

    def __init__(self, n_hosts):
        self.folder = tempfile.TemporaryDirectory()
        switch = os.environ["CONCLAVE_NETNS"] + "sw"
        self.files = [pathlib.Path(self.folder.name) / f"port{i}.pcap" for i in range(n_hosts)]
        self.dumps = [
            subprocess.Popen(
                ["ip", "netns", "exec", switch, "tcpdump", "-i", f"port{i}", "-s", "0", "-U", "-w",
                 str(file), "-Z", "root"],
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            for i, file in enumerate(self.files)
        ]
        for dump in self.dumps:  # "listening on ..."
            dump.stderr.readline()

    def end(self):
        time.sleep(0.3)  # the last packets' way into the file
        for dump in self.dumps:
            dump.terminate()
            dump.wait(10)
            dump.stderr.close()
        data = [file.read_bytes() for file in self.files]
        self.folder.cleanup()
        return data


def weight_canaries():
    """Runs of bytes that the embedding's file has: sent to no node, but their like would be."""
    rng = random.Random(7)
    for file in sorted(EMBER.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as stream:
            for _ in range(40):
                stream.seek(rng.randrange(size // 10, size - 64))
                yield stream.read(24)


def key_canaries(state):
    pem = (pathlib.Path(state) / "identity.pem").read_text()
    for line in pem.splitlines():
        if line and not line.startswith("-"):
            yield line.encode()[:40]
    body = re.search(r"BEGIN PRIVATE KEY-----(.*?)-----END", pem, re.S)[1]
    yield base64.b64decode(body)[-32:]


def residual_canary(capture):
    """Whether float32 activations are readable: many words in a row that look like small floats."""
    for data in capture:
        run = 0
        for offset in range(0, len(data) - 4, 4):
            exponent = (struct.unpack_from("<I", data, offset)[0] >> 23) & 0xFF
            run = run + 1 if 90 <= exponent <= 140 else 0
            if run == 64:
                return True
    return False


class OnTheWire(unittest.TestCase):
    def ask(self, *flags):
        """Pool over namespaces, a prompt, and what the cables carried."""
        capture = Capture(3)
        shared = ("--no-shared-memory", *flags)
        with Pool(2, "--shares", "1,1,1", *shared, node_arguments=[shared, shared],
                  namespaces=True, node_models=None) as pool:  # fmt: skip
            answer = pool.head.chat(PROMPT, temperature=0, max_tokens=40)[1]
            text = answer["choices"][0]["message"]["content"]
            keys = [k for s in [pool.state] + [n.state for n in pool.nodes] for k in key_canaries(s)]
        return capture.end(), text, keys

    def test_nothing_is_readable(self):
        cables, text, keys = self.ask()
        self.assertGreater(min(map(len, cables)), 100_000, "the cables carried something")
        canaries = [PROMPT.encode(), PROMPT[:24].encode(), b"violet lighthouse", text.encode()[:32]]
        canaries += list(weight_canaries()) + keys
        for canary in canaries:
            for port, data in enumerate(cables):
                self.assertNotIn(canary, data, f"on the cable of host {port}")
        self.assertFalse(residual_canary(cables), "activations in clear")

    def test_the_search_finds_what_a_private_link_shows(self):
        cables, _, _ = self.ask("--private-link")
        self.assertTrue(residual_canary(cables))


class AtTheDoor(unittest.TestCase):
    def ports(self, pool):
        """Every port that the pool's processes listen on, by host."""
        found = []
        for index in range(3):
            lines = netns.run("ip", "netns", "exec", netns.name_of(index), "ss", "-Htln")
            for line in lines.splitlines():
                address = line.split()[3]
                if not address.startswith("127.") and not address.startswith("[::1]"):
                    found.append((netns.address_of(index), int(address.rsplit(":", 1)[1])))
        return found

    def test_garbage_disturbs_nothing(self):
        with Pool(2, "--shares", "1,1,1", "--no-shared-memory",
                  node_arguments=[("--no-shared-memory",)] * 2, namespaces=True) as pool:  # fmt: skip
            expected = pool.head.chat(PROMPT, temperature=0, max_tokens=60)[1]["choices"]
            epoch = pool.status()["epoch"]
            rng = random.Random(1)
            ports = self.ports(pool)
            self.assertGreaterEqual(len(ports), 4, ports)  # the pool's and three ranks'
            for round_ in range(3):
                for address in ports:
                    for size in (0, 1, 48, 5000):
                        with socket.create_connection(address, timeout=5) as connection:
                            try:
                                connection.sendall(rng.randbytes(size))
                            except OSError:
                                pass  # it hung up first: fine
                answer = pool.head.chat(PROMPT, temperature=0, max_tokens=60)[1]["choices"]
                self.assertEqual(answer, expected, f"round {round_}")
            self.assertEqual(pool.status()["epoch"], epoch)
            self.assertIn("connection refused", pool.head.read_log())

    def test_an_unpaired_machine_is_refused(self):
        with Pool(1, "--shares", "1,1", namespaces=True) as pool:
            # A node of another pool that is told this head's address.
            stranger = Node("stranger", join=pool.pair(), namespace=netns.name_of(2))
            wait_until(lambda: len(pool.status()["nodes"]) == 3, 10, "it is paired")
            pool.conclave("pool", "remove", "stranger")
            wait_until(lambda: "gone" in stranger.read_log(), 10, "it hears of it")
            before = len(pool.status()["nodes"])
            time.sleep(1.5)  # it calls again meanwhile
            status = pool.status()
            self.assertEqual(len(status["nodes"]), before)
            self.assertEqual(status["nodes"][2]["state"], "removed")
            stranger.end()


if __name__ == "__main__":
    netns.in_namespace(3)
    unittest.main()
