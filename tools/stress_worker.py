#!/usr/bin/env python3
"""stress_worker.py BINARY MODEL KILLS: kills the worker again and again while clients stream.

Passes when every stream ends as it should, each with every token once (the streamed
log-probabilities are as many as the tokens that `usage` counts, and spell the text), the worker
came back each time, and the server kept neither files, children nor memory.
"""

import os
import pathlib
import random
import re
import signal
import sys
import threading
import time

import local_server

N_CLIENTS = 4
MAX_TOKENS = 160
MEMORY_GROWTH_MAX = 48 << 20  # bytes; 50 leaked prompts, logs or buffers would be more
RESTART_LIMIT_S = 30
SPECIAL = re.compile(r"<\|\w+\|>|\[\w+\]")


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.streams = 0
        self.tokens = 0
        self.errors = []
        self.stop = threading.Event()

    def add(self, n_tokens, error):
        with self.lock:
            self.streams += 1
            self.tokens += n_tokens
            if error:
                self.errors.append(error)


def stream_once(port, seed):
    """One answer; returns its number of tokens and what is wrong with it, or None."""
    request = {
        "messages": [{"role": "user", "content": f"Tell me story number {seed}."}],
        "max_tokens": MAX_TOKENS, "temperature": 1.0, "seed": seed, "logprobs": True,
    }
    text, spelled, n_streamed, finish, usage = "", b"", 0, None, None
    for chunk in local_server.stream_chat(port, request):
        for choice in chunk.get("choices", []):
            text += choice.get("delta", {}).get("content") or ""
            for token in (choice.get("logprobs") or {}).get("content") or []:
                n_streamed += 1
                # A special token that the model happens to draw is no text.
                if not SPECIAL.fullmatch(token["token"]):
                    spelled += bytes(token["bytes"] or [])
            finish = choice.get("finish_reason") or finish
        usage = chunk.get("usage") or usage
    n_tokens = (usage or {}).get("completion_tokens", 0)
    if finish not in ("stop", "length"):
        return n_tokens, f"seed {seed}: finish_reason {finish}"
    if n_tokens - n_streamed not in (0, 1) or (finish == "length" and n_tokens != n_streamed):
        return n_tokens, f"seed {seed}: {n_streamed} tokens streamed, usage says {n_tokens}"
    if not spelled.decode(errors="replace").startswith(text):
        return n_tokens, f"seed {seed}: the tokens do not spell the text"
    return n_tokens, None


def client(port, first_seed, tally):
    seed = first_seed
    while not tally.stop.is_set():
        try:
            tally.add(*stream_once(port, seed))
        except (OSError, RuntimeError, ValueError) as error:
            tally.add(0, f"seed {seed}: {error}")
        seed += N_CLIENTS


def children(pid):
    threads = pathlib.Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def footprint(pid):
    """The server's private memory in bytes, and its open files."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    anonymous = next(line for line in status.splitlines() if line.startswith("RssAnon:"))
    return int(anonymous.split()[1]) << 10, len(os.listdir(f"/proc/{pid}/fd"))


def wait_for_worker(pid, old):
    deadline = time.monotonic() + RESTART_LIMIT_S
    while time.monotonic() < deadline:
        fresh = [child for child in children(pid) if child != old]
        if fresh:
            return fresh[0]
        time.sleep(0.02)
    raise RuntimeError(f"no new worker {RESTART_LIMIT_S} s after a kill")


def kill_workers(pid, kills, tally):
    """Ends the worker `kills` times: killed, crashed, or frozen so that the agent must kill it."""
    rng = random.Random(1)
    worker = wait_for_worker(pid, None)
    for _ in range(kills):
        time.sleep(rng.uniform(0.3, 1.5))
        os.kill(worker, rng.choice((signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)))
        worker = wait_for_worker(pid, worker)
        if tally.errors:
            return


def run(binary, model, kills, log):
    """Returns (summary, problems)."""
    tally = Tally()
    with local_server.serving(binary, model, log) as (process, port):
        stream_once(port, 0)  # so that what is allocated once is not taken for a leak
        memory_before, files_before = footprint(process.pid)
        threads = [threading.Thread(target=client, args=(port, i + 1, tally), daemon=True)
                   for i in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            kill_workers(process.pid, kills, tally)
        except (OSError, RuntimeError) as error:
            tally.errors.append(str(error))
        tally.stop.set()
        for thread in threads:
            thread.join(local_server.ANSWER_LIMIT_S)
        time.sleep(1.0)
        problems = list(tally.errors)
        if process.poll() is None:
            memory_after, files_after = footprint(process.pid)
            n_children = len(children(process.pid))
        else:
            return "the server ended", [*problems, f"status {process.returncode}"]
    growth = memory_after - memory_before
    if growth > MEMORY_GROWTH_MAX:
        problems.append(f"the server grew by {growth >> 20} MiB")
    if files_after > files_before:
        problems.append(f"open files grew from {files_before} to {files_after}")
    if n_children != 1:
        problems.append(f"{n_children} children at the end")
    summary = (f"{kills} kills, {tally.streams} streams, {tally.tokens} tokens, "
               f"{len(problems)} problems, memory {growth / (1 << 20):+.1f} MiB")
    return summary, problems


def main():
    binary, model, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
    log_path = pathlib.Path("build/logs/stress-serve.log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        summary, problems = run(binary, model, kills, log)
    for problem in problems[:20]:
        print(problem)
    print(summary)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
