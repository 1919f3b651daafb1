"""`conclave serve` over its API: the real program, the built-in model, loopback only.

    python3 tests/e2e/test_serve.py          # uses build/release/conclave, or CONCLAVE_BINARY
"""

import json
import signal
import socket
import threading
import time
import unittest

from serving import Server, alive, chat_body, collect, wait_until

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class ServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--requests", 64)

    @classmethod
    def tearDownClass(cls):
        worker = cls.server.worker()
        assert cls.server.stop() == 0, cls.server.read_log()
        assert not alive(worker), "the worker outlived the server"
        cls.server.kill()

    def good(self, *prompt, **fields):
        status, answer = self.server.chat(*prompt, **fields)
        self.assertEqual(status, 200, answer)
        return answer

    def bad(self, status, **fields):
        found, answer = self.server.chat(**fields)
        self.assertEqual(found, status, answer)
        self.assertEqual(set(answer["error"]), {"message", "type", "param", "code"})
        return answer["error"]

    # --- answers ------------------------------------------------------------------------------

    def test_stream_and_whole_answer_are_the_same_text(self):
        for sampling in ({"temperature": 0}, {"temperature": 0.8, "seed": 7, "top_p": 0.9}):
            with self.subTest(sampling):
                whole = self.good("Tell me about the sea.", max_tokens=60, **sampling)
                answer = collect(
                    self.server.stream("Tell me about the sea.", max_tokens=60, **sampling)
                )
                choice = whole["choices"][0]
                self.assertEqual(choice["message"]["content"], answer.content)
                self.assertEqual(choice["finish_reason"], answer.finish)
                self.assertTrue(answer.content)

    def test_seeds(self):
        texts = {
            seed: self.good("Hello", max_tokens=40, temperature=1.0, seed=seed)["choices"][0][
                "message"
            ]["content"]
            for seed in (1, 2, 3)
        }
        again = self.good("Hello", max_tokens=40, temperature=1.0, seed=2)
        self.assertEqual(again["choices"][0]["message"]["content"], texts[2])
        self.assertGreater(len(set(texts.values())), 1)

    def test_usage_and_finish_reasons(self):
        cut = self.good("Tell me a story.", max_tokens=5, temperature=0)
        self.assertEqual(cut["choices"][0]["finish_reason"], "length")
        self.assertEqual(cut["usage"]["completion_tokens"], 5)
        usage = cut["usage"]
        self.assertEqual(
            usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"]
        )
        ended = self.good("Hi", temperature=0, max_tokens=-1)
        self.assertEqual(ended["choices"][0]["finish_reason"], "stop")
        answer = collect(
            self.server.stream("Hi", temperature=0, stream_options={"include_usage": True})
        )
        self.assertEqual(answer.usage, ended["usage"])
        self.assertNotIn("<|im_end|>", answer.content)

    def test_stream_shape(self):
        stream = self.server.stream("Hi", max_tokens=8, temperature=0)
        self.assertEqual(stream.status, 200)
        self.assertTrue(stream.response.getheader("Content-Type").startswith("text/event-stream"))
        chunks = list(stream)
        stream.close()
        self.assertTrue(stream.done)
        self.assertEqual(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""})
        self.assertEqual(len({(c["id"], c["created"], c["model"]) for c in chunks}), 1)
        self.assertEqual(chunks[-1]["choices"][0]["delta"], {})
        self.assertIsNotNone(chunks[-1]["choices"][0]["finish_reason"])
        for chunk in chunks[:-1]:
            self.assertIsNone(chunk["choices"][0]["finish_reason"])

    def test_stop_strings_are_never_shown(self):
        whole = self.good("Tell me a story about a fox.", max_tokens=80, temperature=0)
        text = whole["choices"][0]["message"]["content"]
        # Inside the answer, straddling tokens, met first at its own place.
        stop = text[30:38]
        cut = text[: text.index(stop)]
        for stops in (stop, [stop, "never in it"]):
            answer = self.good(
                "Tell me a story about a fox.", max_tokens=80, temperature=0, stop=stops
            )
            self.assertEqual(answer["choices"][0]["message"]["content"], cut)
            self.assertEqual(answer["choices"][0]["finish_reason"], "stop")
            shown = collect(
                self.server.stream(
                    "Tell me a story about a fox.", max_tokens=80, temperature=0, stop=stops
                )
            )
            self.assertEqual(shown.content, cut)
        self.assert_idle()

    def test_logprobs(self):
        answer = self.good(
            "Hi", max_tokens=6, temperature=0, logprobs=True, top_logprobs=3, ignore_eos=True
        )
        entries = answer["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(entries), 6)
        text = b"".join(bytes(entry["bytes"]) for entry in entries).decode()
        self.assertEqual(text, answer["choices"][0]["message"]["content"])
        for entry in entries:
            self.assertEqual(len(entry["top_logprobs"]), 3)
            self.assertLessEqual(entry["logprob"], 0)
            best = entry["top_logprobs"][0]
            self.assertEqual(best["bytes"], entry["bytes"], "greedy takes the best")
            self.assertAlmostEqual(best["logprob"], entry["logprob"], places=5)
        self.assertIsNone(self.good("Hi", max_tokens=2)["choices"][0]["logprobs"])

    def test_logit_bias(self):
        def say(**fields):
            answer = self.good("Hi", max_tokens=3, temperature=0, ignore_eos=True, **fields)
            return answer["choices"][0]["message"]["content"]

        forced = say(logit_bias={"300": 100})
        self.assertEqual(forced, forced[: len(forced) // 3] * 3)
        self.assertNotEqual(forced, say())
        self.assertNotEqual(forced, say(logit_bias={"301": 100}))

    def test_several_choices(self):
        whole = self.good("Tell me a story.", max_tokens=30, n=3, temperature=1.0, seed=5)
        texts = [choice["message"]["content"] for choice in whole["choices"]]
        self.assertEqual([choice["index"] for choice in whole["choices"]], [0, 1, 2])
        self.assertEqual(len(set(texts)), 3)
        stream = self.server.stream("Tell me a story.", max_tokens=30, n=3, temperature=1.0, seed=5)
        chunks = list(stream)
        stream.close()
        for index, text in enumerate(texts):
            self.assertEqual(collect(chunks, index).content, text)

    def test_json_schema(self):
        schema = {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 20},
                "age": {"type": "integer", "minimum": 0, "maximum": 120},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            },
            "required": ["name", "age", "tags"],
            "additionalProperties": False,
        }
        for seed in range(5):
            answer = self.good(
                "Describe a person as JSON.",
                max_tokens=300,
                temperature=1.0,
                seed=seed,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "person", "strict": True, "schema": schema},
                },
            )
            self.assertEqual(answer["choices"][0]["finish_reason"], "stop")
            value = json.loads(answer["choices"][0]["message"]["content"])
            self.assertEqual(set(value), {"name", "age", "tags"})
            self.assertTrue(0 <= value["age"] <= 120 and len(value["tags"]) <= 3)

    def test_json_object_is_an_object(self):
        answer = self.good(
            "Give me JSON.",
            max_tokens=400,
            temperature=0.7,
            seed=3,
            response_format={"type": "json_object"},
            logit_bias={},
        )
        if answer["choices"][0]["finish_reason"] == "stop":
            self.assertIsInstance(json.loads(answer["choices"][0]["message"]["content"]), dict)
        else:
            self.assertTrue(answer["choices"][0]["message"]["content"].lstrip().startswith("{"))

    def test_tool_calls(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        for choice in ("required", named):
            fields = dict(
                tools=[WEATHER],
                tool_choice=choice,
                parallel_tool_calls=False,
                max_tokens=200,
                temperature=0,
            )
            answer = self.good("What is the weather in Paris?", **fields)
            self.assertEqual(answer["choices"][0]["finish_reason"], "tool_calls")
            (call,) = answer["choices"][0]["message"]["tool_calls"]
            self.assertEqual(call["id"], "functions.get_weather:0")
            self.assertEqual(call["function"]["name"], "get_weather")
            self.assertIn("city", json.loads(call["function"]["arguments"]))
            shown = collect(self.server.stream("What is the weather in Paris?", **fields))
            self.assertEqual(shown.finish, "tool_calls")
            self.assertEqual(shown.calls[0]["arguments"], call["function"]["arguments"])
        # The next turn, with an id of another server's making.
        self.good(
            [
                {"role": "user", "content": "What is the weather in Paris?"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_abc",
                            "type": "function",
                            "function": {"name": "get_weather", "arguments": "{}"},
                        }
                    ],
                },
                {"role": "tool", "tool_call_id": "call_abc", "content": "sunny"},
            ],
            tools=[WEATHER],
            max_tokens=20,
        )
        for without in (dict(tools=[WEATHER], tool_choice="none"), {}):
            none = self.good("What is the weather in Paris?", temperature=0, **without)
            self.assertNotIn("tool_calls", none["choices"][0]["message"])
            self.assertTrue(none["choices"][0]["message"]["content"])

    def test_special_strings_of_a_user_stay_text(self):
        plain = self.good("a <|im_end|> b", max_tokens=1)
        self.assertGreater(plain["usage"]["prompt_tokens"], 10)

    # --- errors -------------------------------------------------------------------------------

    def test_errors_name_the_field(self):
        self.assertEqual(self.bad(400, temperature="hot")["param"], "temperature")
        self.assertEqual(self.bad(400, messages=[])["param"], "messages")
        self.assertEqual(self.bad(400, n=0)["param"], "n")
        self.assertEqual(
            self.bad(400, tool_choice="required", tools=[])["param"], "tool_choice"
        )
        schema = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
        self.assertEqual(self.bad(400, response_format=schema)["param"], "response_format")
        self.assertEqual(self.bad(400, guided_regex="(")["param"], "guided_regex")
        self.assertEqual(
            self.bad(400, messages=[{"role": "user"}])["param"], "messages[0].content"
        )

    def test_a_regex_shapes_the_answer(self):
        for fields in (
            {"guided_regex": "[0-9]{4}-[0-9]{2}"},
            {"structured_outputs": {"regex": "[0-9]{4}-[0-9]{2}"}},
        ):
            answer = self.good("When?", temperature=0, max_tokens=40, **fields)
            content = answer["choices"][0]["message"]["content"]
            self.assertRegex(content, r"\A[0-9]{4}-[0-9]{2}\Z")

    def test_context_overflow_has_its_code_and_the_numbers(self):
        error = self.bad(400, prompt="word " * 5000)
        self.assertEqual(error["code"], "context_length_exceeded")
        self.assertIn("4096", error["message"])
        started = time.monotonic()
        huge = self.bad(400, prompt="word " * 6_000_000)
        self.assertEqual(huge["code"], "context_length_exceeded")
        self.assertLess(time.monotonic() - started, 5)
        # More than fits is as much as fits, not an error: agents ask for 32,000.
        self.good("Hi", max_tokens=32000, temperature=0)

    def test_bad_bodies(self):
        for body in ("", "{", "[]", '{"messages": "\\ud800"}', "[" * 5000):
            status, _, answer = self.server.request("POST", "/v1/chat/completions", body)
            self.assertEqual(status, 400, answer)
            self.assertIn("message", json.loads(answer)["error"])

    # --- HTTP ---------------------------------------------------------------------------------

    def test_paths_and_methods(self):
        for path in ("/v1/models", "/models", "/v1/models/", "/v1/v1/models?x=1"):
            status, _, body = self.server.get(path)
            self.assertEqual(status, 200, path)
            self.assertEqual(json.loads(body)["data"][0]["id"], "ember")
        self.assertEqual(self.server.get("/v1/models/ember")[0], 200)
        status, _, body = self.server.get("/v1/models/gpt-9")
        self.assertEqual((status, json.loads(body)["error"]["code"]), (404, "model_not_found"))
        self.assertEqual(self.server.get("/v1/nothing")[0], 404)
        status, headers, _ = self.server.get("/v1/chat/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST"))
        self.assertEqual(self.server.request("POST", "/health")[0], 405)
        for path in ("/", "/health", "/v1/models"):
            status, headers, body = self.server.request("HEAD", path)
            self.assertEqual((status, body), (200, b""), path)

    def test_hosts_and_origins(self):
        cases = [
            ({"Host": "evil.com"}, 403, None),
            ({"Host": "localhost:1"}, 200, None),
            ({"Host": "[::1]:8080"}, 200, None),
            ({"Origin": "https://evil.com"}, 403, None),
            ({"Origin": "null"}, 403, None),
            ({"Origin": "http://localhost:3000"}, 200, "http://localhost:3000"),
            ({"Origin": "vscode-webview://x"}, 200, None),
        ]
        for headers, status, allowed in cases:
            found, answer, _ = self.server.get("/v1/models", headers=headers)
            self.assertEqual(found, status, headers)
            self.assertEqual(answer.get("Access-Control-Allow-Origin"), allowed, headers)
        found, answer, _ = self.server.request(
            "OPTIONS", "/v1/chat/completions", headers={"Origin": "http://127.0.0.1:5173"}
        )
        self.assertEqual(found, 204)
        self.assertIn("POST", answer["Access-Control-Allow-Methods"])

    def test_expect_continue(self):
        body = json.dumps(chat_body("Hi", max_tokens=1)).encode()
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Expect: 100-continue\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=20) as client:
            client.sendall(head)
            self.assertEqual(client.recv(1024), b"HTTP/1.1 100 Continue\r\n\r\n")
            client.sendall(body)
            self.assertTrue(client.recv(1024).startswith(b"HTTP/1.1 200 "))

    def test_oversized_bodies_are_refused_before_they_are_sent(self):
        answer = self.server.raw(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 100000000\r\n\r\n"
        )
        self.assertTrue(answer.startswith(b"HTTP/1.1 413 "), answer[:100])
        self.assertIn(b'"error"', answer)
        encoded = self.server.request(
            "POST", "/v1/chat/completions", b"x", headers={"Content-Encoding": "gzip"}
        )
        self.assertEqual(encoded[0], 415)

    def test_request_ids_come_back(self):
        _, headers, _ = self.server.get("/health", headers={"X-Request-Id": "abc-1"})
        self.assertEqual(headers["X-Request-Id"], "abc-1")

    # --- many at once -------------------------------------------------------------------------

    def assert_idle(self):
        wait_until(
            lambda: json.loads(self.server.get("/health")[2]).get("requests") == 0,
            10,
            "no open requests",
        )

    def test_parallel_streams_are_as_if_alone(self):
        prompts = [f"Tell me about number {i}." for i in range(20)]
        fields = dict(max_tokens=50, temperature=0.7, seed=11)
        alone = [self.good(p, **fields)["choices"][0]["message"]["content"] for p in prompts[:4]]
        answers = [None] * len(prompts)

        def run(index):
            stream = self.server.stream(prompts[index], **fields)
            answers[index] = collect(stream)
            self.assertTrue(stream.done)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        for index, answer in enumerate(answers):
            self.assertIsNotNone(answer, index)
            self.assertIn(answer.finish, ("stop", "length"))
        self.assertEqual([answer.content for answer in answers[:4]], alone)

    def test_a_client_that_leaves_frees_its_slot(self):
        for prompt, wait_for_token in (("Tell me a story.", True), ("word " * 3500, False)):
            stream = self.server.stream(prompt, ignore_eos=True, temperature=0)
            if wait_for_token:
                for _, _chunk in zip(range(5), stream):
                    pass
            stream.close()
            self.assert_idle()

    def test_more_than_the_limit_is_429(self):
        streams = [
            self.server.stream("Tell me a story.", ignore_eos=True, temperature=0, n=16)
            for _ in range(4)
        ]
        error = self.bad(429)
        self.assertIn("limit", error["message"])
        status, headers, _ = self.server.request(
            "POST", "/v1/chat/completions", chat_body("Hi")
        )
        self.assertEqual((status, "Retry-After" in headers), (429, True))
        for stream in streams:
            stream.close()
        self.assert_idle()
        self.good("Hi", max_tokens=1)

    def test_slow_reader_does_not_hold_up_others(self):
        slow = self.server.stream("Tell me a story.", ignore_eos=True, max_tokens=2000)
        started = time.monotonic()
        self.good("Hi", max_tokens=5)
        self.assertLess(time.monotonic() - started, 20)
        slow.close()
        self.assert_idle()

    def test_interrupting_a_whole_answer(self):
        body = json.dumps(chat_body("Tell me a story.", ignore_eos=True)).encode()
        with socket.create_connection(("127.0.0.1", self.server.port)) as client:
            client.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            wait_until(
                lambda: json.loads(self.server.get("/health")[2])["requests"] == 1, 10, "running"
            )
        self.assert_idle()


class LifeTest(unittest.TestCase):
    def test_a_signal_lets_answers_end(self):
        server = Server()
        self.addCleanup(server.kill)
        worker = server.worker()
        stream = server.stream("Tell me a story.", max_tokens=60, temperature=0, ignore_eos=True)
        chunks = iter(stream)
        next(chunks)
        server.process.send_signal(signal.SIGINT)
        answer = collect(chunks)
        stream.close()
        self.assertEqual(answer.finish, "length")
        self.assertTrue(stream.done)
        self.assertEqual(server.process.wait(20), 0)
        self.assertFalse(alive(worker))

    def test_a_second_signal_ends_at_once(self):
        server = Server()
        self.addCleanup(server.kill)
        stream = server.stream("Tell me a story.", ignore_eos=True)
        next(iter(stream))
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        self.assertEqual(server.process.wait(3), 0)
        stream.close()

    def test_a_killed_server_leaves_no_worker(self):
        server = Server()
        worker = server.worker()
        stream = server.stream("Tell me a story.", ignore_eos=True)
        next(iter(stream))
        server.kill()
        stream.close()
        wait_until(lambda: not alive(worker), 10, "the worker ends with its agent")

    def test_a_port_in_use_is_an_error(self):
        server = Server()
        self.addCleanup(server.kill)
        with self.assertRaisesRegex(AssertionError, "cannot listen on 127.0.0.1 port"):
            Server(port=server.port)


if __name__ == "__main__":
    unittest.main()
