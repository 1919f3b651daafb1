"""A running `conclave serve` and a client for it, for the tests beside this file."""

import http.client
import json
import os
import pathlib
import re
import select
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBER = ROOT / "models" / "ember"


def find_binary():
    named = os.environ.get("CONCLAVE_BINARY")
    if named:
        return named
    place = ROOT / "build/release/conclave"
    if place.exists():
        return str(place)
    raise SystemExit("build/release/conclave is missing: run ./dev build")


def clean_environment():
    """The caller's CONCLAVE_* variables and configuration must not change a test."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONCLAVE_")}
    environment.update(HOME="/nonexistent", XDG_CONFIG_HOME="/nonexistent")
    return environment


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_worker(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().split(b"\0")[1:2] == [b"worker"]
    except (FileNotFoundError, ProcessLookupError):
        return False


class Server:
    """Started in the constructor. stop() ends it, kill() cleans up; both may be called."""

    def __init__(self, *arguments, model=EMBER, port=0, ready=True):
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [find_binary(), "serve", str(model), "--port", str(port), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=ROOT,
            env=clean_environment(),
        )
        try:
            self.port = self._read_port()
            if ready:
                self.wait_ready()
        except BaseException:
            self.kill()
            raise

    def _read_port(self):
        if not select.select([self.process.stdout], [], [], 60)[0]:
            self.kill()
            raise AssertionError("no address on standard output within 60 s")
        line = self.process.stdout.readline()
        found = re.search(r"http://[^ ]*:(\d+)", line)
        if not found:
            self.process.wait(30)
            log = self.read_log()
            self.kill()
            raise AssertionError(f"no address in {line!r}; log: {log}")
        return int(found[1])

    def read_log(self):
        self.log.seek(0)
        return self.log.read()

    @property
    def pid(self):
        return self.process.pid

    def wait_ready(self, seconds=60):
        wait_until(lambda: self.get("/health")[0] == 200, seconds, "the model is ready")

    def workers(self):
        """Children by their command line: a sanitizer's helper is a child too."""
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
            return [int(pid) for pid in file.read().split() if is_worker(pid)]

    def worker(self):
        """The pid of the running worker; waits for it after a restart."""
        return wait_until(
            lambda: next((pid for pid in self.workers() if alive(pid)), None), 30, "a worker"
        )

    def memory_kib(self):
        """Private memory: weights in shared memory do not count."""
        with open(f"/proc/{self.pid}/status") as file:
            return int(re.search(r"RssAnon:\s+(\d+)", file.read())[1])

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def stop(self, seconds=20):
        """Ends it as a service manager would; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self.process.stdout.close()
        self.log.close()

    # --- requests -----------------------------------------------------------------------------

    def request(self, method, path, body=None, headers=None, timeout=120):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def chat(self, prompt="Tell me a story.", **fields):
        """A whole answer: (status, JSON)."""
        status, _, body = self.request("POST", "/v1/chat/completions", chat_body(prompt, **fields))
        return status, json.loads(body)

    def stream(self, prompt="Tell me a story.", **fields):
        return Stream(self.port, chat_body(prompt, stream=True, **fields))

    def raw(self, data, timeout=20):
        """Sends bytes on a new connection and reads to the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
            return received


def chat_body(prompt, **fields):
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return {"model": "ember", "messages": messages, **fields}


class Stream:
    """Server-sent events of one answer; iterate for the chunks, then look at `done`."""

    def __init__(self, port, body, timeout=120):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body))
        self.response = self.connection.getresponse()
        self.status = self.response.status
        self.done = False

    def __iter__(self):
        for line in self.response:
            line = line.rstrip(b"\n")
            if not line.startswith(b"data: "):
                continue
            if line == b"data: [DONE]":
                self.done = True
                continue
            yield json.loads(line[len(b"data: ") :])

    def close(self):
        # The response holds the socket open too.
        self.response.close()
        self.connection.close()


class Answer:
    """The chunks of one choice, put together as a client does."""

    def __init__(self):
        self.content = ""
        self.reasoning = ""
        self.finish = None
        self.tokens = []  # byte lists, where logprobs were asked for
        self.calls = []
        self.usage = None

    def add(self, chunk, choice=0):
        if chunk.get("usage"):
            self.usage = chunk["usage"]
        for entry in chunk["choices"]:
            if entry["index"] != choice:
                continue
            delta = entry["delta"]
            self.content += delta.get("content") or ""
            self.reasoning += delta.get("reasoning_content") or ""
            for token in (entry.get("logprobs") or {}).get("content", []):
                self.tokens.append(tuple(token["bytes"]))
            for call in delta.get("tool_calls", []):
                while len(self.calls) <= call["index"]:
                    self.calls.append({"id": None, "name": "", "arguments": ""})
                place = self.calls[call["index"]]
                if "id" in call:
                    assert place["id"] is None, "a call's id comes once"
                    place["id"] = call["id"]
                    place["name"] = call["function"]["name"]
                place["arguments"] += call["function"]["arguments"]
            if entry["finish_reason"]:
                assert self.finish is None, "finished twice"
                self.finish = entry["finish_reason"]


def collect(stream, choice=0):
    answer = Answer()
    for chunk in stream:
        answer.add(chunk, choice)
    if isinstance(stream, Stream):
        stream.close()
    return answer
