#!/usr/bin/env python3
"""demo_http.py BINARY MODEL QUESTION: asks `conclave serve` once over HTTP, as a client would."""

import pathlib
import sys
import time

import local_server


def ask(port, question):
    """Prints the answer as it comes; returns its number of tokens and seconds after the first."""
    request = {"messages": [{"role": "user", "content": question}], "max_tokens": 200}
    n_tokens, first, last = 0, None, None
    for chunk in local_server.stream_chat(port, request):
        for choice in chunk.get("choices", []):
            text = choice.get("delta", {}).get("content")
            if text:
                last = time.monotonic()
                first = first or last
                print(text, end="", flush=True)
        n_tokens = (chunk.get("usage") or {}).get("completion_tokens", n_tokens)
    print()
    return n_tokens, (last or 0.0) - (first or 0.0)


def main():
    binary, model, question = sys.argv[1:]
    log_path = pathlib.Path("build/logs/demo-serve.log")
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log, local_server.serving(binary, model, log) as (_, port):
        print(f"    $ conclave serve {model} --port {port} &")
        print(f"    POST http://127.0.0.1:{port}/v1/chat/completions: {question}\n", flush=True)
        n_tokens, elapsed = ask(port, question)
    if n_tokens == 0:
        sys.exit(f"no answer; the server's log is in {log_path}")
    speed = f", {(n_tokens - 1) / elapsed:.0f} tok/s" if elapsed > 0 else ""
    print(f"\n[{n_tokens} tokens over HTTP{speed}]")


if __name__ == "__main__":
    main()
