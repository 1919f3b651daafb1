#!/usr/bin/env python3
"""demo_pool.py BINARY MODEL [--svg FILE]: three machines, one model, and one machine less.

Starts a head and two nodes as processes of their own, each allowed less memory than the model
needs, asks for a story through the head, kills one node in the middle, and shows that the answer
is the one of an undisturbed run, with a timeline of what happened.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import demo_timeline
import local_server

QUESTION = "Tell me a short story about a fox and the moon."
MEMORY = "36MB"
DELAY_US = 3000
TOKENS = 150
KILL_AT = 45
VICTIM = "node-b"
LOG = pathlib.Path("build/logs/demo-pool.log")


class Look:
    def __init__(self, stream):
        self.color = stream.isatty() and "NO_COLOR" not in os.environ

    def paint(self, text, code):
        return f"\033[{code}m{text}\033[0m" if self.color else text

    def dim(self, text):
        return self.paint(text, "2")

    def red(self, text):
        return self.paint(text, "1;31")

    def bold(self, text):
        return self.paint(text, "1")


class Machines:
    """The three agents. Everything that they write goes into the log."""

    def __init__(self, binary, model, log):
        self.binary, self.log = binary, log
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="conclave-demo-"))
        self.port = local_server.free_port()
        self.processes = {}
        self.start("head", "serve", model, "--port", self.port, "--pool", "--pool-host",
                   "127.0.0.1", "--pool-port", 0, "--nodes", 3, "--context", 1024)  # fmt: skip
        self.wait(lambda: self.try_ask("pair", "--json") is not None, "the head")
        for name in ("node-a", VICTIM):
            code = json.loads(self.ask("pair", "--json"))["code"]
            self.start(name, "node", "--join", code, "--models", model)
        self.wait(lambda: self.pool()["phase"] == "running", "three machines together")

    def start(self, name, *arguments):
        command = [self.binary, *map(str, arguments), "--name", name, "--memory", MEMORY,
                   "--state", str(self.folder / name), "--threads", "1", "--bandwidth", "20",
                   "--delay-us", str(DELAY_US)]  # fmt: skip
        self.processes[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )

    def try_ask(self, *arguments):
        done = subprocess.run([self.binary, *arguments, "--state", str(self.folder / "head")],
                              capture_output=True, text=True)  # fmt: skip
        return done.stdout if done.returncode == 0 else None

    def ask(self, *arguments):
        answer = self.try_ask(*arguments)
        if answer is None:
            raise RuntimeError(f"conclave {' '.join(arguments)} failed; see {LOG}")
        return answer

    def pool(self):
        return json.loads(self.ask("pool", "--json"))

    def wait(self, ready, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {seconds} s; see {LOG}")
            for name, process in self.processes.items():
                if process.poll() not in (None, -signal.SIGKILL):
                    raise RuntimeError(f"{name} ended by itself; see {LOG}")
            time.sleep(0.05)

    def kill(self, name):
        """The whole machine at once: its agent takes its worker along."""
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()

    def end(self):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def tell_story(machines, look, kill_at=None):
    """Streams the story; returns its text and the times of its tokens, from the first chunk."""
    request = {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0,
               "max_tokens": TOKENS, "ignore_eos": True}  # fmt: skip
    begun, text, times, killed = time.monotonic(), "", [], None
    for chunk in local_server.stream_chat(machines.port, request):
        for choice in chunk.get("choices", []):
            piece = choice.get("delta", {}).get("content")
            if not piece:
                continue
            text += piece
            times.append(time.monotonic() - begun)
            if look:
                print(piece, end="", flush=True)
            if len(times) == kill_at:
                machines.kill(VICTIM)
                killed = time.monotonic() - begun
                if look:
                    print(look.red(f" ⟪SIGKILL {VICTIM}⟫"), end="", flush=True)
    if look:
        print()
    return text, times, killed


def machine_lines(pool):
    for node in pool["nodes"]:
        yield (f"    {node['name']:8s} computes {node['share_percent']:4.0f} %   holds "
               f"{node['weight_bytes'] / 1e6:5.1f} MB of weights   may take {MEMORY}")  # fmt: skip


def run(binary, model, svg):
    look = Look(sys.stdout)
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        print(f"    three machines on this computer, {MEMORY} each; the model does not fit into one")
        machines = Machines(binary, model, log)
        try:
            pool = machines.pool()
            print("\n".join(machine_lines(pool)))
            print(f"    survives the loss of {pool['losses_survived']} machine")
            print(look.dim(f"    every message arrives {DELAY_US / 1000:.0f} ms late here, so that "
                           "you can read along; without that it is many times as fast"))  # fmt: skip
            undisturbed, _, _ = tell_story(machines, None)
            print(f"\n    {look.bold(QUESTION)}\n", flush=True)
            text, times, killed = tell_story(machines, look, KILL_AT)
            after = machines.pool()
        finally:
            machines.end()
    run_facts = demo_timeline.Facts(times, killed, VICTIM, pool, after)
    print()
    print(demo_timeline.as_text(run_facts, look))
    if svg:
        pathlib.Path(svg).write_text(demo_timeline.as_svg(run_facts))
    same = text == undisturbed
    print(f"\n    the same answer as without the loss, word for word: {'yes' if same else 'NO'}")
    return 0 if same else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("model")
    parser.add_argument("--svg", help="also draw the timeline into this file")
    options = parser.parse_args()
    try:
        return run(options.binary, options.model, options.svg)
    except (RuntimeError, OSError) as error:
        print(f"    {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
