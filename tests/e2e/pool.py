"""A head with nodes, each with its own processes and state folder, for the tests beside this file."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import netns
from serving import EMBER, ROOT, Server, alive, clean_environment, find_binary, is_worker, wait_until


class Node:
    """One `conclave node`. kill(), stop(), freeze() and thaw() take "agent", "worker" or "node"."""

    def __init__(self, name, *arguments, join=None, state=None, models=EMBER, namespace=None):
        self.name = name
        self.arguments = [*arguments]
        self.own_state = state is None
        self.state = state or tempfile.mkdtemp(prefix=f"conclave-{name}-")
        self.models = models
        self.namespace = namespace
        self.process = None
        self.log = tempfile.TemporaryFile("w+")
        self.start(join)

    def start(self, join=None):
        command = [find_binary(), "node", "--name", self.name, "--state", self.state,
                   "--bandwidth", "20", "--threads", "1", "--log-level", "info"]  # fmt: skip
        if join:
            command += ["--join", join]
        if self.models:
            command += ["--models", str(self.models)]
        command += [str(a) for a in self.arguments]
        if self.namespace:
            command = ["ip", "netns", "exec", self.namespace, *command]
        self.process = subprocess.Popen(
            command, stdout=self.log, stderr=self.log, cwd=ROOT, env=clean_environment()
        )

    def read_log(self):
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def workers(self):
        try:
            with open(f"/proc/{self.process.pid}/task/{self.process.pid}/children") as file:
                return [int(pid) for pid in file.read().split() if is_worker(pid)]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def pids(self, which):
        if which == "agent":
            return [self.process.pid]  # `ip netns exec` becomes the program
        if which == "worker":
            return self.workers()
        return [self.process.pid, *self.workers()]

    def signal(self, which, number):
        for pid in self.pids(which):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        if number == signal.SIGKILL and which != "worker":
            self.process.wait(10)

    def kill(self, which="node"):
        self.signal(which, signal.SIGKILL)

    def freeze(self, which="node"):
        self.signal(which, signal.SIGSTOP)

    def thaw(self, which="node"):
        self.signal(which, signal.SIGCONT)

    def end(self):
        if self.process.poll() is None:
            self.thaw()
            self.kill()
        self.log.close()
        if self.own_state:
            shutil.rmtree(self.state, ignore_errors=True)


class Pool:
    """`conclave serve --pool` and its nodes; use it as a context manager."""

    def __init__(self, nodes, *serve_arguments, node_arguments=(), model=EMBER, node_models=EMBER,
                 head_arguments=("--bandwidth", "20", "--threads", "1"), namespaces=False,
                 wait=True, pool_port=0):  # fmt: skip
        self.pool_port = pool_port
        self.namespaces = namespaces
        self.wait = wait
        self.state = tempfile.mkdtemp(prefix="conclave-head-")
        self.nodes = []
        self.head = None
        try:
            self._start(nodes, serve_arguments, node_arguments, model, node_models, head_arguments)
        except BaseException:
            self.end()
            raise

    def _start(self, n_nodes, serve_arguments, node_arguments, model, node_models, head_arguments):
        names = [f"node-{chr(ord('a') + i)}" for i in range(n_nodes)]
        self.start_head = lambda: Server(
            "--pool", "--pool-host", netns.address_of(0) if self.namespaces else "127.0.0.1",
            "--pool-port", self.pool_port, "--state", self.state,
            "--name", "head", "--nodes", n_nodes + 1, *head_arguments, *serve_arguments,
            model=model, ready=False,
        )  # fmt: skip
        self.head = self.start_head()
        for i, name in enumerate(names):
            arguments = node_arguments[i] if i < len(node_arguments) else ()
            self.nodes.append(
                Node(name, *arguments, join=self.pair(), models=node_models,
                     namespace=netns.name_of(i + 1) if self.namespaces else None)
            )  # fmt: skip
        if self.wait:
            self.head.wait_ready(120)
            self.wait_running(n_nodes + 1, 60)

    def conclave(self, *arguments, check=True):
        done = subprocess.run(
            [find_binary(), *map(str, arguments), "--state", self.state],
            capture_output=True, text=True, env=clean_environment(), timeout=30,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"conclave {arguments}: {done.stderr}")
        return done

    def restart_head(self):
        """Needs a pool_port: nodes come back to the address that they know."""
        self.head.stop()
        self.head.kill()
        self.head = self.start_head()
        self.head.wait_ready(120)
        self.wait_running(len(self.nodes) + 1, 60)

    def pair(self):
        # The admin socket is there as soon as the address has been printed.
        return json.loads(self.conclave("pair", "--json").stdout)["code"]

    def status(self):
        return json.loads(self.conclave("pool", "--json").stdout)

    def state_of(self, name):
        return next(n["state"] for n in self.status()["nodes"] if n["name"] == name)

    def wait_running(self, machines, seconds=30):
        def running():
            status = self.status()
            ready = [n for n in status["nodes"] if n["alive"] and n["state"] == "ready"]
            return status["phase"] == "running" and len(ready) == machines and status

        return wait_until(running, seconds, f"{machines} machines run")

    def node(self, name):
        return next(n for n in self.nodes if n.name == name)

    def logs(self):
        text = "--- head\n" + (self.head.read_log() if self.head else "")
        for node in self.nodes:
            text += f"--- {node.name}\n" + node.read_log()
        return text

    def end(self):
        for node in self.nodes:
            node.end()
        if self.head:
            self.head.kill()
        shutil.rmtree(self.state, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            print(self.logs())
        self.end()
