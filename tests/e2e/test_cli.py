"""End-to-end tests of the `conclave` program: real processes, the built-in model, no network.

    python3 tests/e2e/test_cli.py            # uses build/release/conclave
    CONCLAVE_BINARY=... python3 tests/e2e/test_cli.py
"""

import json
import math
import os
import pathlib
import pty
import select
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EMBER = ROOT / "models" / "ember"


def find_binary():
    named = os.environ.get("CONCLAVE_BINARY")
    if named:
        return named
    for place in ("build/release/conclave", "build/release/src/apps/conclave"):
        if (ROOT / place).exists():
            return str(ROOT / place)
    raise SystemExit("build/release/conclave is missing: run ./dev build")


BINARY = find_binary()


def clean_environment(**more):
    """The caller's CONCLAVE_* variables and configuration must not change a test."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CONCLAVE_")}
    environment.update(HOME="/nonexistent", XDG_CONFIG_HOME="/nonexistent", **more)
    return environment


def conclave(*arguments, stdin="", timeout=300, cwd=ROOT, **environment):
    return subprocess.run(
        [BINARY, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
        env=clean_environment(**environment),
    )


class CliTest(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="conclave-cli-"))
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)

    def write(self, name, content):
        path = self.dir / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def ok(self, *arguments, **keywords):
        result = conclave(*arguments, **keywords)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def fails(self, code, *arguments, says, **keywords):
        """The program ends with `code` and exactly one line that holds the words of `says`."""
        result = conclave(*arguments, **keywords)
        self.assertEqual(result.returncode, code, result.stdout + result.stderr)
        lines = result.stderr.splitlines()
        self.assertEqual(len(lines), 1, result.stderr)
        self.assertTrue(lines[0].startswith("conclave: "), lines[0])
        for words in [says] if isinstance(says, str) else says:
            self.assertIn(words, lines[0])


class Usage(CliTest):
    def test_help_names_commands_and_exit_codes(self):
        text = self.ok("--help").stdout
        for word in ("run", "serve", "model", "logits", "perplexity", "bench", "Exit codes", "130"):
            self.assertIn(word, text)
        self.assertNotIn("worker", text)
        for command in (["run"], ["serve"], ["model", "inspect"], ["model", "synth"], ["logits"],
                        ["perplexity"], ["bench"]):
            self.assertIn("--help", self.ok(*command, "--help").stdout)

    def test_version(self):
        self.assertRegex(self.ok("--version").stdout, r"^conclave \d+\.\d+\.\d+\n$")

    def test_wrong_usage_is_two_and_one_line(self):
        self.fails(2, says="--help")
        self.fails(2, "nothing", says="nothing")
        self.fails(2, "run", "--no-such-flag", says="no-such-flag")
        self.fails(2, "run", "--weights", "int3", says="int3")
        self.fails(2, "run", "--temperature", "warm", says="--temperature")
        self.fails(2, "logits", EMBER, says="--ids")
        self.fails(2, "perplexity", EMBER, says="--text")
        self.fails(2, "perplexity", EMBER, "--ids", "a", "--text", "b", says="--text")
        for command in ("run", "serve", "bench"):
            self.fails(2, command, "--isa", "abacus", says="abacus")
            self.fails(2, command, "--context", "1000000", says="limit")
        self.fails(2, "run", "-p", "", says="prompt is empty")
        self.fails(2, "run", "-p", "x", "--max-tokens", "-1", says=["--max-tokens", "negative"])
        self.fails(2, "run", "-p", "x", "--seed", "-1", says=["--seed", "negative"])
        self.fails(2, "run", "-p", "x", "--stop", "", says=["--stop", "empty"])
        self.fails(2, "model", says="command")
        self.fails(2, "model", "nothing", says="nothing")

    def test_missing_files_are_one_line(self):
        self.fails(1, "run", "-p", "x", "/no/such/model", says="/no/such/model")
        self.fails(1, "model", "inspect", "/no/such/model", says="/no/such/model")
        self.fails(1, "logits", EMBER, "--ids", "/no/ids.json", says="/no/ids.json")
        self.fails(1, "perplexity", EMBER, "--text", "/no/text", says="/no/text")

    def test_closed_output_ends_quietly(self):
        program = subprocess.Popen([BINARY, "--version"], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=clean_environment())
        program.communicate()
        ids = self.write("ids.json", list(range(300, 400)))
        program = subprocess.Popen([BINARY, "logits", str(EMBER), "--ids", str(ids), "--top", "8192"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
                                   env=clean_environment())
        program.stdout.read(10)
        program.stdout.close()
        error = program.stderr.read()
        program.stderr.close()
        self.assertEqual(program.wait(120), 0)
        self.assertEqual(error, b"")

    def test_full_disk_is_an_error(self):
        with open("/dev/full", "w") as full:
            program = subprocess.run([BINARY, "model", "inspect", str(EMBER)], stdout=full,
                                     stderr=subprocess.PIPE, text=True, env=clean_environment())
        self.assertEqual(program.returncode, 1)
        self.assertIn("No space left", program.stderr)


class Configuration(CliTest):
    def inspect_weights(self, *arguments, **environment):
        result = self.ok("model", "inspect", EMBER, "--json", *arguments, **environment)
        return json.loads(result.stdout)["weights"]

    def test_flag_beats_environment_beats_file(self):
        config = self.write("config.toml", 'weights = "int8"\n')
        self.assertEqual(self.inspect_weights(), "native")
        self.assertEqual(self.inspect_weights(CONCLAVE_CONFIG=str(config)), "int8")
        both = dict(CONCLAVE_CONFIG=str(config), CONCLAVE_WEIGHTS="native")
        self.assertEqual(self.inspect_weights(**both), "native")
        self.assertEqual(self.inspect_weights("--weights", "int8", **both), "int8")

    def test_bad_files_are_named(self):
        unknown = self.write("unknown.toml", "thraeds = 2\n")
        self.fails(2, "model", "inspect", EMBER, CONCLAVE_CONFIG=str(unknown),
                   says=["unknown.toml", "thraeds"])
        broken = self.write("broken.toml", "threads = = 2\n")
        self.fails(2, "model", "inspect", EMBER, CONCLAVE_CONFIG=str(broken),
                   says=["broken.toml", "line 1"])
        self.fails(2, "model", "inspect", EMBER, CONCLAVE_THREADS="many", says="CONCLAVE_THREADS")
        self.ok("--help", CONCLAVE_CONFIG=str(broken))


class Run(CliTest):
    ANSWER_KEYS = ["text", "reasoning", "tool_calls", "finish_reason", "prompt_tokens",
                   "completion_tokens", "ttft_s", "tokens_per_second"]

    def ask(self, *arguments, **keywords):
        result = self.ok("run", "--json", "--quiet", *arguments, **keywords)
        return json.loads(result.stdout)

    def test_json_answer(self):
        answer = self.ask("-p", "Hello!", "--temperature", "0", "--max-tokens", "40")
        self.assertEqual(list(answer), self.ANSWER_KEYS)
        self.assertTrue(answer["text"].strip())
        self.assertIn(answer["finish_reason"], ("stop", "length"))
        self.assertGreater(answer["prompt_tokens"], 4)
        self.assertLessEqual(answer["completion_tokens"], 40)
        self.assertGreater(answer["ttft_s"], 0)

    def test_golden_chat_answer(self):
        for case in json.loads((EMBER / "golden.json").read_text()):
            if not case["chat"] or min(case["margins"]) < 1e-2:
                continue
            answer = self.ask("-p", case["prompt"], "--temperature", "0", "--exact",
                              "--max-tokens", str(len(case["greedy"])))
            self.assertEqual(answer["prompt_tokens"], len(case["ids"]))
            self.assertEqual(answer["text"].strip(), case["text"].removesuffix("<|im_end|>").strip())

    def test_pipe_is_plain_and_equals_the_flag(self):
        flags = ["--temperature", "0", "--max-tokens", "24"]
        piped = self.ok("run", *flags, stdin="Tell me a story.")
        given = self.ok("run", *flags, "-p", "Tell me a story.")
        self.assertEqual(piped.stdout, given.stdout)
        self.assertNotIn("\x1b", piped.stdout + piped.stderr)
        self.assertIn("first token", piped.stderr)
        self.assertIn("tok/s", piped.stderr)
        quiet = self.ok("run", *flags, "--quiet", stdin="Tell me a story.")
        self.assertEqual(quiet.stderr, "")

    def test_seed_decides(self):
        flags = ["-p", "Tell me a story.", "--temperature", "1", "--max-tokens", "24"]
        first = self.ask(*flags, "--seed", "1")["text"]
        self.assertEqual(first, self.ask(*flags, "--seed", "1")["text"])
        self.assertNotEqual(first, self.ask(*flags, "--seed", "2")["text"])

    def test_threads_do_not_change_the_answer(self):
        flags = ["-p", "Tell me a story.", "--temperature", "0", "--max-tokens", "24"]
        one = self.ask(*flags, "--threads", "1")["text"]
        self.assertEqual(one, self.ask(*flags, "--threads", "2")["text"])

    def test_stop_string_is_not_shown(self):
        flags = ["-p", "Tell me a story.", "--temperature", "0", "--max-tokens", "40"]
        whole = self.ask(*flags)["text"]
        stop = whole[len(whole) // 2:][:4]
        cut = self.ask(*flags, "--stop", stop)
        self.assertEqual(cut["text"], whole[:whole.index(stop)])
        self.assertEqual(cut["finish_reason"], "stop")
        # Met in the last token that is allowed, it is still a stop.
        last = self.ask(*flags[:-1], str(cut["completion_tokens"]), "--stop", stop)
        self.assertEqual((last["text"], last["finish_reason"]), (cut["text"], "stop"))

    def test_length_is_reported(self):
        answer = self.ask("-p", "Tell me a story.", "--temperature", "0", "--max-tokens", "3")
        self.assertEqual(answer["finish_reason"], "length")
        self.assertEqual(answer["completion_tokens"], 3)

    def test_empty_prompt_and_long_prompt(self):
        self.fails(1, "run", stdin=" \n", says="prompt is empty")
        self.fails(1, "run", "--context", "64", stdin="word " * 500, says="context")

    def test_model_without_tokenizer(self):
        bare = self.dir / "bare"
        bare.mkdir()
        for path in EMBER.iterdir():
            if path.name == "config.json" or ".safetensors" in path.name:
                (bare / path.name).symlink_to(path)
        self.fails(1, "run", bare, "-p", "x", says=["bare", "no tokenizer"])
        ids = self.write("ids.json", [300, 301])
        self.ok("logits", bare, "--ids", ids)


class Terminal:
    """`conclave run` on a pseudo-terminal."""

    def __init__(self, *arguments, **environment):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.execve(BINARY, [BINARY, "run", *arguments],
                      clean_environment(TERM="xterm", **environment))
        self.seen = ""    # all that was read
        self.unread = ""  # read, but behind what until() looked for

    def until(self, words, timeout=60):
        """Reads until `words` appear behind what was taken before, and gives the text up to there."""
        end = time.monotonic() + timeout
        while words not in self.unread:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {words!r} in {self.unread!r}")
            try:
                data = os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                data = ""
            if not data:
                raise AssertionError(f"ended before {words!r}: {self.unread!r}")
            self.seen += data
            self.unread += data
        text, _, self.unread = self.unread.partition(words)
        return text + words

    def send(self, text):
        os.write(self.fd, text.encode())

    def wait(self):
        """The exit code, once the output is drained."""
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Conversation(CliTest):
    def test_commands_and_exit(self):
        terminal = Terminal("--temperature", "0", "--max-tokens", "12", "--threads", "2")
        terminal.until("> ")
        terminal.send("/help\n")
        terminal.until("/save FILE")
        terminal.until("> ")
        terminal.send("Hello!\n")
        self.assertIn("tok/s", terminal.until("\n> ", 120))
        terminal.send("/stats\n")
        self.assertIn("1 answers", terminal.until("\n> "))
        path = self.dir / "chat.json"
        terminal.send(f"/save {path}\n")
        terminal.until("Saved 2 messages")
        terminal.send(f"/save {self.dir}/none/chat.json\n")
        terminal.until("No such file or directory")
        terminal.send(f"/save {self.dir}\n")
        terminal.until("not a regular file")
        terminal.send("/nonsense\n")
        terminal.until("no command")
        terminal.send("/clear\n")
        terminal.until("forgotten")
        terminal.send("/exit\n")
        self.assertEqual(terminal.wait(), 0)
        saved = json.loads(path.read_text())
        self.assertEqual([m["role"] for m in saved["messages"]], ["user", "assistant"])
        self.assertEqual([p.name for p in self.dir.iterdir()], ["chat.json"])

    def test_later_turns_see_earlier_ones(self):
        terminal = Terminal("--temperature", "0", "--max-tokens", "8", "--system", "Be kind.")
        for question in ("Hello!", "And you?"):
            terminal.until("> ")
            terminal.send(question + "\n")
            terminal.until("tok/s", 120)
        terminal.until("> ")
        path = self.dir / "chat.json"
        terminal.send(f"/save {path}\n")
        terminal.until("Saved 5 messages")
        terminal.send("\x04")
        self.assertEqual(terminal.wait(), 0)

    def test_interrupt_stops_the_answer_and_not_the_program(self):
        terminal = Terminal("--temperature", "1.5", "--context", "4096", "--threads", "1",
                            "--min-p", "0", "--exact")
        terminal.until("> ")
        terminal.send("Tell me a very long story about the sea.\n")
        time.sleep(0.5)
        terminal.send("\x03")
        terminal.until("\n> ", 120)
        terminal.send("/help\n")
        terminal.until("/clear")
        terminal.until("> ")
        terminal.send("\x03")
        terminal.until("again")
        terminal.until("> ")
        terminal.send("\x03")
        self.assertEqual(terminal.wait(), 130)

    def test_no_color(self):
        terminal = Terminal("--max-tokens", "4", NO_COLOR="1")
        terminal.until("> ")
        terminal.send("Hello!\n")
        terminal.until("token", 120)
        terminal.until("> ")
        terminal.send("/exit\n")
        self.assertEqual(terminal.wait(), 0)
        self.assertNotIn("\x1b[2m", terminal.seen)

    def test_interrupt_in_a_pipe_ends_with_130(self):
        program = subprocess.Popen(
            [BINARY, "run", "-p", "Tell me a very long story.", "--temperature", "3", "--exact",
             "--threads", "1", "--quiet"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=clean_environment())
        program.stdout.read(1)  # the answer has begun
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=60)
        self.assertIn(program.returncode, (130, 0))


class Inspect(CliTest):
    def test_ember(self):
        text = self.ok("model", "inspect", EMBER).stdout
        for words in ("kimi_k2", "routed experts", "total", "KV cache", "read per token"):
            self.assertIn(words, text)
        report = json.loads(self.ok("model", "inspect", EMBER, "--json").stdout)
        self.assertEqual(report["layers"], 8)
        self.assertEqual(report["experts"], 32)
        self.assertEqual(report["total"]["file_bytes"],
                         sum(part["file_bytes"] for part in report["parts"]))
        self.assertEqual(report["kv_bytes_per_token"], 8 * (128 + 32) * 2)

    def test_int8_keeps_less(self):
        native = json.loads(self.ok("model", "inspect", EMBER, "--json").stdout)
        int8 = json.loads(
            self.ok("model", "inspect", EMBER, "--json", "--weights", "int8").stdout)
        self.assertLess(int8["total"]["read_per_token"], native["total"]["read_per_token"])


class Synth(CliTest):
    def synth(self, *arguments):
        out = self.dir / "model"
        shutil.rmtree(out, ignore_errors=True)
        self.ok("model", "synth", "--out", out, *arguments)
        return out

    def test_all_forms_load_and_answer(self):
        ids = self.write("ids.json", [300, 301, 302, 303])
        small = ["--layers", "2", "--vocab", "1024", "--context", "256"]
        for form in (["--like", "ember", "--experts", "8"],
                     ["--like", "ember", "--experts", "8", "--quant", "int8"],
                     ["--like", "ember", "--experts", "8", "--quant", "bf16", "--dense", "0"]):
            out = self.synth(*form, *small)
            positions = json.loads(
                self.ok("logits", out, "--ids", ids, "--top", "3").stdout)["positions"]
            self.assertEqual(len(positions), 4)
            self.assertTrue(all(abs(x) < 20 for p in positions for x in p["logits"]))
        answer = self.ok("run", out, "-p", "Hello!", "--max-tokens", "5", "--seed", "7", "--quiet",
                         "--json")  # a model of random numbers may end an answer anywhere
        self.assertEqual(json.loads(answer.stdout)["completion_tokens"], 5)

    def test_int8_values_are_lossless(self):
        out = self.synth("--like", "ember", "--layers", "2", "--experts", "8", "--vocab", "1024",
                         "--quant", "int8")
        ids = self.write("ids.json", [300, 301, 302, 303])
        logits = [json.loads(self.ok("logits", out, "--ids", ids, "--top", "5", "--exact",
                                     "--weights", weights).stdout)
                  for weights in ("native", "int8")]
        for a, b in zip(logits[0]["positions"], logits[1]["positions"]):
            self.assertEqual(a["ids"], b["ids"])
            for x, y in zip(a["logits"], b["logits"]):
                self.assertAlmostEqual(x, y, delta=1e-5)

    def test_same_seed_same_files(self):
        form = ["--like", "ember", "--layers", "1", "--dense", "0", "--experts", "4", "--vocab",
                "512"]
        shard = "model-00001-of-00001.safetensors"
        first = (self.synth(*form) / shard).read_bytes()
        self.assertEqual(first, (self.synth(*form) / shard).read_bytes())
        self.assertNotEqual(first, (self.synth(*form, "--seed", "1") / shard).read_bytes())

    def test_errors(self):
        self.fails(2, "model", "synth", "--out", self.dir / "x", says="--like")
        self.fails(2, "model", "synth", "--like", "ember", "--dense", "9", "--out", self.dir / "x",
                   says="--dense")
        self.fails(2, "model", "synth", "--like", "ember", "--seed", "-1", "--out", self.dir / "x",
                   says="--seed")
        self.fails(2, "model", "synth", "--preset", "m9", "--out", self.dir / "x", says="m9")
        self.fails(2, "model", "synth", "--like", "gpt", "--out", self.dir / "x", says="gpt")
        self.write("taken", "x")
        self.fails(1, "model", "synth", "--like", "ember", "--out", self.dir, says="not empty")
        self.fails(1, "model", "synth", "--like", "kimi-k2", "--layers", "1000", "--out",
                   self.dir / "huge", says="free")
        self.assertFalse((self.dir / "huge").exists())


class Logits(CliTest):
    def setUp(self):
        super().setUp()
        self.case = json.loads((EMBER / "golden.json").read_text())[0]
        self.ids = self.write("ids.json", self.case["ids"])

    def positions(self, *arguments):
        result = self.ok("logits", EMBER, "--ids", self.ids, *arguments)
        return json.loads(result.stdout)["positions"]

    def test_golden_top_ten(self):
        positions = self.positions("--top", "10", "--exact")
        self.assertEqual(len(positions), len(self.case["ids"]))
        expected = dict(zip(self.case["top10_ids"], self.case["top10_logits"]))
        got = dict(zip(positions[-1]["ids"], positions[-1]["logits"]))
        for token in set(expected) & set(got):
            self.assertAlmostEqual(got[token], expected[token], delta=0.02)
        self.assertEqual(positions[-1]["ids"][0], self.case["top10_ids"][0])

    def test_all_of_the_vocabulary_best_first(self):
        last = self.positions("--top", "1000000")[-1]
        self.assertEqual(sorted(last["ids"]), list(range(8192)))
        self.assertEqual(last["logits"], sorted(last["logits"], reverse=True))

    def test_chunks_do_not_change_the_choice(self):
        whole = self.positions("--top", "1", "--exact")
        chunked = self.positions("--top", "1", "--exact", "--chunk", "3")
        self.assertEqual([p["ids"] for p in whole], [p["ids"] for p in chunked])

    def test_experts_dump_and_force(self):
        dump = self.dir / "experts.json"
        free = self.positions("--top", "5", "--dump-experts", dump)
        experts = json.loads(dump.read_text())
        self.assertEqual(len(experts), len(self.case["ids"]))
        self.assertTrue(all(len(layers) == 7 for layers in experts))
        self.assertTrue(all(len(set(k)) == 4 for layers in experts for k in layers))
        self.assertEqual(self.positions("--top", "5", "--force-experts", dump), free)
        others = [[[(e + 1) % 32 for e in k] for k in layers] for layers in experts]
        forced = self.write("others.json", others)
        self.assertNotEqual(self.positions("--top", "5", "--force-experts", forced), free)

    def test_errors(self):
        self.fails(1, "logits", EMBER, "--ids", self.write("a.json", [1, 9000]), says="element 1")
        self.fails(1, "logits", EMBER, "--ids", self.write("b.json", "{"), says="b.json")
        self.fails(1, "logits", EMBER, "--ids", self.write("c.json", [1] * 4097), says="4096")
        self.fails(1, "logits", EMBER, "--ids", self.ids, "--force-experts",
                   self.write("d.json", [[[0, 1, 2, 3]]]), says="d.json")
        self.fails(1, "logits", EMBER, "--ids", self.ids, "--dump-experts", "/no/such/x",
                   says="/no/such/x")


class Perplexity(CliTest):
    def test_heldout(self):
        heldout = json.loads((EMBER / "heldout.json").read_text())
        ids = self.write("ids.json", heldout["ids"])
        result = json.loads(self.ok("perplexity", EMBER, "--ids", ids, "--json").stdout)
        self.assertEqual(list(result), ["nll", "perplexity", "tokens", "weights"])
        self.assertEqual(result["tokens"], len(heldout["ids"]) - 1)
        self.assertAlmostEqual(result["nll"], heldout["nll"], delta=0.01)
        self.assertAlmostEqual(result["perplexity"], math.exp(result["nll"]), places=6)

    def test_text_and_exact(self):
        text = self.write("text.txt", "Once upon a time there was a little fox.")
        exact = json.loads(
            self.ok("perplexity", EMBER, "--text", text, "--json", "--exact").stdout)
        fast = json.loads(self.ok("perplexity", EMBER, "--text", text, "--json").stdout)
        self.assertAlmostEqual(exact["nll"], fast["nll"], delta=0.1)
        self.assertIn("perplexity", self.ok("perplexity", EMBER, "--text", text).stdout)

    def test_what_rounding_costs(self):
        heldout = json.loads((EMBER / "heldout.json").read_text())
        ids = self.write("ids.json", heldout["ids"])
        flags = ["--ids", ids, "--weights", "int4", "--compare", "native"]
        result = json.loads(self.ok("perplexity", EMBER, *flags, "--json").stdout)
        self.assertEqual(result["weights"], "int4")
        self.assertEqual(result["compared"]["weights"], "native")
        self.assertAlmostEqual(result["compared"]["nll"], heldout["nll"], delta=0.01)
        cost = result["perplexity"] / result["compared"]["perplexity"] - 1
        self.assertGreater(cost, -0.01)
        self.assertLess(cost, 0.1)
        self.assertIn("int4 costs +", self.ok("perplexity", EMBER, *flags).stdout)
        self.fails(2, "perplexity", EMBER, "--ids", ids, "--compare", "int3", says="--compare")

    def test_errors(self):
        self.fails(1, "perplexity", EMBER, "--ids", self.write("a.json", [5]), says="at least 2")
        self.fails(1, "perplexity", EMBER, "--ids", self.write("b.json", [5] * 5000), says="4096")


class Bench(CliTest):
    def test_json_and_table(self):
        flags = ["--runs", "1", "--prefill", "16", "--decode", "4", "--probe-mb", "16"]
        report = json.loads(self.ok("bench", *flags, "--json", "--threads", "2").stdout)
        self.assertEqual([row["name"] for row in report["results"]], ["prefill 16", "decode"])
        decode = report["results"][1]
        self.assertGreater(decode["tokens_per_second"]["median"], 0)
        self.assertGreater(decode["of_plain"]["median"], 0)
        self.assertEqual(report["threads"], 2)
        table = self.ok("bench", *flags).stdout
        self.assertIn("decode", table)
        self.fails(2, "bench", "--prefill", "x", says="--prefill")
        self.fails(2, "bench", "--prefill", "5000", says="context")


if __name__ == "__main__":
    unittest.main()
