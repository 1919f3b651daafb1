"""Links between machines, and what `conclave doctor` says of them. Network namespaces; needs root."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest
from unittest import mock

import netns
from pool import Pool
from serving import Server, clean_environment, find_binary, wait_until

NAMES = ["head", "node-a", "node-b"]
BULK_PORT = 7444
PAIRS = {(a, b) for a in NAMES for b in NAMES if a != b}


def doctor(pool):
    done = pool.conclave("doctor", "--json", check=False)
    report = json.loads(done.stdout)
    report["status"] = done.returncode
    report["texts"] = [f["text"] for f in report["findings"] if f["kind"] == "wrong"]
    return report


def in_host(index, *command, check=True):
    netns.run("ip", "netns", "exec", netns.name_of(index), *command, check=check)


class Doctor(unittest.TestCase):
    def pool(self):
        nodes = [("--bulk-port", str(BULK_PORT), "--no-shared-memory")] * 2
        return Pool(2, "--shares", "1,1,1", "--no-shared-memory", node_arguments=nodes,
                    namespaces=True, node_models=None)  # fmt: skip

    def check_links(self, links):
        self.assertEqual({(link["from"], link["to"]) for link in links}, PAIRS)
        for link in links:
            self.assertNotIn("error", link)
            self.assertGreater(link["rtt_us"], 1)
            self.assertGreater(link["bandwidth_gb_s"], 0.001)
            self.assertEqual(link["interface"], "eth0")
            self.assertEqual(link["path_mtu"], 1500)

    def test_a_good_pool(self):
        with self.pool() as pool:
            # Nobody asks: they are measured because machines came.
            links = wait_until(
                lambda: len(pool.status()["links"]) == len(PAIRS) and pool.status()["links"],
                30, "all links are measured",
            )  # fmt: skip
            self.check_links(links)
            text = pool.conclave("pool").stdout
            self.assertRegex(text, r"\n  node-b +\d.*GB/s +\d.*GB/s\n")
            report = doctor(pool)
            self.assertEqual(report["texts"], [])
            self.assertEqual(report["status"], 0)
            self.check_links(report["links"])
            self.assertTrue(all(link["seconds_ago"] < 20 for link in report["links"]))
            self.assertEqual([m["name"] for m in report["machines"]], NAMES)
            self.assertTrue(all(m["memory_bytes"] > 0 for m in report["machines"]))
            self.assertIn("nothing is wrong", pool.conclave("doctor").stdout)

    def test_what_is_wrong_is_named(self):
        with self.pool() as pool:
            drop = f"add rule inet doctor in ip saddr {netns.address_of(1)} tcp dport {BULK_PORT} drop"
            in_host(2, "nft", "add table inet doctor")
            in_host(2, "nft", "add chain inet doctor in { type filter hook input priority 0; }")
            in_host(2, "nft", drop)
            netns.run("ip", "-n", netns.name_of(1), "link", "set", "eth0", "mtu", "1400")
            # The head's connection with the small packets' machine may have to come back first.
            report = wait_until(
                lambda: (r := doctor(pool)) and any("1400" in t for t in r["texts"]) and r,
                60, "the small MTU is found",
            )  # fmt: skip
            self.assertEqual(report["status"], 1)
            reach = [t for t in report["texts"] if "cannot call" in t]
            self.assertEqual(len(reach), 1, report["texts"])
            self.assertIn(f"node-a cannot call node-b at {netns.address_of(2)}:{BULK_PORT}", reach[0])
            self.assertIn("the other way works", reach[0])
            self.assertTrue(any("eth0 of node-a has MTU 1400" in t for t in report["texts"]))
            text = pool.conclave("doctor", check=False).stdout
            self.assertIn("unreachable", text)
            self.assertIn("firewall of node-b", text)

            in_host(2, "nft", "delete table inet doctor")
            netns.run("ip", "-n", netns.name_of(1), "link", "set", "eth0", "mtu", "1500")
            os.chmod(pathlib.Path(pool.state) / "identity.pem", 0o644)
            report = wait_until(
                lambda: (r := doctor(pool)) and len(r["texts"]) == 1 and r, 30, "all but the key"
            )
            self.assertIn("head: identity.pem has permissions 0644", report["texts"][0])

    def test_a_machine_that_is_gone(self):
        with self.pool() as pool:
            pool.node("node-b").kill()
            wait_until(lambda: pool.state_of("node-b") == "gone", 10, "it is noticed")
            report = doctor(pool)
            self.assertEqual(report["status"], 1)
            self.assertEqual(report["texts"], ["node-b is gone"])
            self.assertEqual(len(report["links"]), 2)


class Found(unittest.TestCase):
    def test_a_head_on_another_port_is_found(self):
        """With a library of our own: its network is a folder."""
        with tempfile.TemporaryDirectory() as folder:
            network = pathlib.Path(folder) / "network"
            network.mkdir()
            source = pathlib.Path(__file__).with_name("fake_dns_sd.c")
            library = pathlib.Path(folder) / "libdns_sd.so.1"
            netns.run("cc", "-shared", "-fPIC", "-o", library, source)
            fake = {
                "LD_LIBRARY_PATH": folder,
                "FAKE_DNS_SD_DIR": str(network),
                "FAKE_DNS_SD_HOST": netns.address_of(0),
            }
            with mock.patch.dict(os.environ, fake):
                self.move_the_head(network)

    def move_the_head(self, network):
        with Pool(1, "--shares", "1,1", namespaces=True) as pool:
            announced = (network / "head").read_bytes()
            advice = [f["text"] for f in doctor(pool)["findings"] if f["kind"] == "advice"]
            self.assertFalse(any("DNS-SD" in text for text in advice), advice)
            pool.head.kill()
            wait_until(lambda: "is gone" in pool.nodes[0].read_log(), 10, "the node hears of it")
            pool.head = Server(
                "--pool", "--pool-host", netns.address_of(0), "--pool-port", "0", "--state",
                pool.state, "--name", "head", "--nodes", "2", "--shares", "1,1",
                "--bandwidth", "20", "--threads", "1", ready=False,
            )  # fmt: skip
            self.assertNotEqual((network / "head").read_bytes(), announced)
            pool.wait_running(2, 30)


class Alone(unittest.TestCase):
    def test_two_agents_of_one_machine(self):
        with Pool(1, "--shares", "1,1") as pool:
            report = doctor(pool)
            self.assertEqual(report["texts"], [])
            self.assertEqual([link["interface"] for link in report["links"]], ["lo", "lo"])

    def test_a_machine_without_a_head(self):
        with tempfile.TemporaryDirectory() as state:
            command = [find_binary(), "doctor", "--json", "--state", state]
            os.chmod(state, 0o755)
            done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
            self.assertEqual(done.returncode, 1, done.stderr)
            report = json.loads(done.stdout)
            self.assertIn("permissions 0755", report["findings"][0]["text"])
            os.chmod(state, 0o700)
            done = subprocess.run(command, capture_output=True, text=True, env=clean_environment())
            self.assertEqual(done.returncode, 0, done.stdout)
            self.assertEqual(json.loads(done.stdout)["links"], [])


if __name__ == "__main__":
    netns.in_namespace(3)
    unittest.main()
