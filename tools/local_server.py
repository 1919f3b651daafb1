"""Starts `conclave serve` on a free port of this machine and talks to it. Standard library only."""

import contextlib
import http.client
import json
import socket
import subprocess
import time

START_LIMIT_S = 120
ANSWER_LIMIT_S = 300


def free_port():
    with contextlib.closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_healthy(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@contextlib.contextmanager
def serving(binary, model, log):
    """A running server as (process, port). Its own output goes to the file `log`."""
    port = free_port()
    command = [binary, "serve", model, "--port", str(port)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_LIMIT_S
        while not is_healthy(port):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the server was not ready after {START_LIMIT_S} s")
            time.sleep(0.1)
        yield process, port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def stream_chat(port, request):
    """Yields the JSON chunks of one streamed chat completion."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_LIMIT_S)
    try:
        body = json.dumps({**request, "stream": True, "stream_options": {"include_usage": True}})
        connection.request("POST", "/v1/chat/completions", body,
                           {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {response.read(2000).decode()}")
        for line in response:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[len(b"data: ") :])
            elif line.strip() == b"data: [DONE]":
                return
        raise RuntimeError("the stream ended without [DONE]")
    finally:
        connection.close()
