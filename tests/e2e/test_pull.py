"""conclave model pull against a hub of our own, honest and hostile."""

import hashlib
import http.server
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("CONCLAVE_BINARY", ROOT / "build/release/conclave")).resolve()
EMBER = ROOT / "models" / "ember"
COMMIT = "c" * 40
TOKEN = "hf_secret"


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Serves files as Hugging Face does; `lie(handler, name)` may answer in its place."""

    def __init__(self, files, lie=None):
        self.files = files
        self.lie = lie
        self.requests = []  # (path, headers)
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                hub.requests.append((self.path, dict(self.headers)))
                try:
                    hub.answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def listing(self):
        siblings = [{"rfilename": ".gitattributes", "size": 1, "blobId": "0" * 40}]
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(),
                                "size": len(content)}
            siblings.append(entry)
        return {"id": "org/model", "sha": COMMIT, "siblings": siblings}

    def answer(self, handler):
        path = handler.path.split("?")[0]
        name = path.rsplit("/", 1)[-1]
        if self.lie is not None and self.lie(handler, name):
            return
        if path.startswith("/api/models/org/model/revision/"):
            send(handler, json.dumps(self.listing()).encode())
        elif path.startswith(f"/org/model/resolve/{COMMIT}/") and name in self.files:
            send_file(handler, self.files[name])
        else:
            handler.send_error(404)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def send(handler, body, status=200, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def offset_of(handler):
    asked = handler.headers.get("Range")
    return int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0


def send_file(handler, content):
    offset = offset_of(handler)
    if offset == 0:
        send(handler, content)
    else:
        send(handler, content[offset:], 206,
             Content_Range=f"bytes {offset}-{len(content) - 1}/{len(content)}")


def break_off(handler, content, size):
    """Answers as send_file does, and hangs up after so many bytes."""
    offset = offset_of(handler)
    handler.send_response(206 if offset else 200)
    if offset:
        handler.send_header("Content-Range", f"bytes {offset}-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content) - offset))
    handler.end_headers()
    handler.wfile.write(content[offset:offset + size])
    handler.connection.close()


class Pull(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.files = {path.name: path.read_bytes() for path in EMBER.iterdir()
                     if path.suffix in (".json", ".model", ".jinja", ".safetensors")
                     and path.name not in ("golden.json", "heldout.json")}
        cls.large = max(cls.files, key=lambda name: len(cls.files[name]))

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.store = self.folder / "models"

    def hub(self, lie=None, files=None):
        hub = Hub(self.files if files is None else files, lie)
        self.addCleanup(hub.close)
        return hub

    def command(self, *arguments, url="http://127.0.0.1:1", **environment):
        ours = {name: value for name, value in os.environ.items()
                if not name.lower().endswith("_proxy") and not name.startswith(("HF_", "CONCLAVE_"))}
        environment = {**ours, "CONCLAVE_MODELS": str(self.store), "HF_ENDPOINT": url,
                       **environment}
        return [PROGRAM, "model", *arguments], environment

    def run_model(self, *arguments, **options):
        command, environment = self.command(*arguments, **options)
        return subprocess.run(command, env=environment, capture_output=True, text=True,
                              timeout=120, check=False)

    def pull(self, hub, *flags, **options):
        if "--tries" not in flags:
            flags = ("--tries", "2", *flags)
        return self.run_model("pull", "org/model", *flags, url=hub.url, **options)

    def model_dir(self):
        return self.store / "org" / "model"

    def assert_nothing_landed(self):
        self.assertFalse(self.model_dir().exists())

    def assert_pulled(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        for name, content in self.files.items():
            self.assertEqual((self.model_dir() / name).read_bytes(), content, name)
        self.assertFalse((self.store / "org" / "model.partial").exists())

    def test_a_model_arrives_whole_and_runs(self):
        hub = self.hub()
        self.assert_pulled(self.pull(hub))
        again = self.pull(hub)
        self.assertEqual(again.returncode, 0)
        self.assertIn("up to date", again.stdout)
        self.assertIn("org/model", self.run_model("list").stdout)
        verified = self.run_model("verify", "org/model")
        self.assertEqual(verified.returncode, 0, verified.stdout)
        _, environment = self.command()
        answer = subprocess.run(
            [PROGRAM, "run", "org/model", "-p", "Hello", "--max-tokens", "4"], env=environment,
            capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(answer.returncode, 0, answer.stderr)
        removed = self.run_model("rm", "org/model")
        self.assertEqual(removed.returncode, 0, removed.stderr)
        self.assert_nothing_landed()
        self.assertEqual(json.loads(self.run_model("list", "--json").stdout), [])

    def test_damage_on_disk_is_found(self):
        self.assert_pulled(self.pull(self.hub()))
        with open(self.model_dir() / self.large, "r+b") as file:
            file.seek(1000)
            file.write(b"????")
        result = self.run_model("verify", "org/model")
        self.assertEqual(result.returncode, 1)
        self.assertIn(self.large, result.stdout)

    def test_goes_on_where_a_connection_broke(self):
        broken = []

        def lie(handler, name):
            if name != self.large or len(broken) >= 3:
                return False
            content, offset = self.files[name], offset_of(handler)
            broken.append(offset)
            break_off(handler, content, 1_000_000)
            return True

        self.assert_pulled(self.pull(self.hub(lie), "--tries", "8"))
        self.assertEqual(broken[0], 0)
        self.assertEqual(sorted(set(broken)), broken, "each try began behind the last")

    def test_a_killed_pull_is_taken_up_again(self):
        def slowly(handler, name):
            if name != self.large:
                return False
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(self.files[name])))
            handler.end_headers()
            handler.wfile.write(self.files[name][:2_000_000])
            handler.wfile.flush()
            time.sleep(60)
            return True

        slow = self.hub(slowly)
        command, environment = self.command("pull", "org/model", url=slow.url)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            partial = self.store / "org" / "model.partial"
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if any(p.stat().st_size >= 2_000_000 for p in partial.glob("*.part")):
                    break
                time.sleep(0.05)
            else:
                self.fail("nothing came")
            second = self.pull(slow)
            self.assertEqual(second.returncode, 1)
            self.assertIn("another conclave", second.stderr)
            process.kill()
        self.assert_nothing_landed()
        self.assertIn("on its way", self.run_model("list").stdout)
        hub = self.hub()
        self.assert_pulled(self.pull(hub))
        ranges = [headers["Range"] for path, headers in hub.requests
                  if path.endswith(self.large) and "Range" in headers]
        self.assertEqual(ranges, ["bytes=2000000-"])

    def test_ctrl_c_keeps_what_came(self):
        def slowly(handler, name):
            if name != self.large:
                return False
            time.sleep(60)
            return True

        command, environment = self.command("pull", "org/model", url=self.hub(slowly).url)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            manifest = self.store / "org" / "model.partial" / "conclave-manifest.json"
            deadline = time.monotonic() + 60
            small = {name for name in self.files if name != self.large}
            while time.monotonic() < deadline:
                if manifest.exists():
                    kept = {f["name"] for f in json.loads(manifest.read_text())["files"]}
                    if kept >= {n for n in small if n.endswith(".json")}:
                        break
                time.sleep(0.05)
            else:
                self.fail("nothing was kept")
            process.send_signal(2)
            _, errors = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, errors)
        self.assertIn("goes on from here", errors)
        self.assert_nothing_landed()
        hub = self.hub()
        self.assert_pulled(self.pull(hub))
        asked = [path.rsplit("/", 1)[-1] for path, _ in hub.requests]
        self.assertNotIn("config.json", asked, "what was checked is not fetched again")

    def test_ctrl_c_while_the_hub_says_nothing(self):
        def silent(handler, name):
            time.sleep(30)
            return True

        command, environment = self.command("pull", "org/model", url=self.hub(silent).url)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as process:
            time.sleep(1)
            process.send_signal(2)
            process.communicate(timeout=10)
        self.assertEqual(process.returncode, 130)

    def test_a_full_disk_keeps_what_came(self):
        limit = 3_000_000

        def full():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        command, environment = self.command("pull", "org/model", url=self.hub().url)
        result = subprocess.run(command, env=environment, capture_output=True, text=True,
                                timeout=120, check=False, preexec_fn=full)
        self.assertEqual(result.returncode, 1)
        self.assertIn("make room", result.stderr)
        parts = list((self.store / "org" / "model.partial").glob("*.part"))
        self.assertTrue(parts)
        self.assertEqual(max(part.stat().st_size for part in parts), limit)
        self.assert_pulled(self.pull(self.hub()))

    def test_slow_bytes_are_given_up(self):
        def slowly(handler, name):
            if name != self.large:
                return False
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(self.files[name])))
            handler.end_headers()
            for _ in range(60):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                time.sleep(0.5)
            return True

        begun = time.monotonic()
        self.fails(slowly, "goes on from here", "--tries", "1", "--stall", "2")
        self.assertLess(time.monotonic() - begun, 20)

    def test_a_lost_or_cut_file_is_fetched_again(self):
        self.assert_pulled(self.pull(self.hub()))
        os.truncate(self.model_dir() / self.large, 1000)
        hub = self.hub()
        again = self.pull(hub)
        self.assert_pulled(again)
        self.assertNotIn("up to date", again.stdout)

    def test_folders_of_others_are_left_alone(self):
        self.model_dir().mkdir(parents=True)
        (self.model_dir() / "config.json").write_text("mine")
        result = self.pull(self.hub())
        self.assertEqual(result.returncode, 1)
        self.assertIn("move it away", result.stderr)
        self.assertEqual(self.run_model("rm", "org/model").returncode, 1)
        self.assertEqual((self.model_dir() / "config.json").read_text(), "mine")
        self.assertEqual(json.loads(self.run_model("list", "--json").stdout), [])

    def fails(self, lie, says, *flags, files=None, **options):
        result = self.pull(self.hub(lie, files), *flags, **options)
        self.assertEqual(result.returncode, 1, result.stdout)
        self.assertIn(says, result.stderr)
        lines = [line for line in result.stderr.splitlines() if not line.startswith("fetching")]
        self.assertEqual(len(lines), 1, result.stderr)
        self.assert_nothing_landed()
        return result

    def test_wrong_bytes_never_land(self):
        def other_bytes(handler, name):
            if name != self.large:
                return False
            send_file(handler, bytes(len(self.files[name])))
            return True

        self.fails(other_bytes, "another hash")

    def test_bytes_damaged_once_are_fetched_again(self):
        lied = []

        def once(handler, name):
            if name != self.large or lied:
                return False
            lied.append(name)
            send_file(handler, bytes(len(self.files[name])))
            return True

        self.assert_pulled(self.pull(self.hub(once)))
        self.assertEqual(len(lied), 1)

    def test_more_bytes_than_promised(self):
        def longer(handler, name):
            if name != "config.json":
                return False
            send(handler, self.files[name] + b" " * 100)
            return True

        self.fails(longer, "more than")

    def test_another_range_than_asked_for(self):
        def lie(handler, name):
            if name != self.large:
                return False
            content = self.files[name]
            if offset_of(handler) == 0:
                break_off(handler, content, 500_000)
            else:  # the first bytes once more, said to be the rest
                send(handler, content[:-500_000], 206,
                     Content_Range=f"bytes 0-{len(content) - 1}/{len(content)}")
            return True

        self.fails(lie, "another part")

    def test_a_server_without_ranges_begins_anew(self):
        calls = []

        def lie(handler, name):
            if name != self.large:
                return False
            calls.append(offset_of(handler))
            content = self.files[name]
            if len(calls) == 1:
                break_off(handler, content, 500_000)
            else:
                send(handler, content)
            return True

        self.assert_pulled(self.pull(self.hub(lie)))
        self.assertEqual(calls, [0, 500_000])

    def test_a_page_in_place_of_a_file_costs_nothing(self):
        """A captive portal answers anything with 200 and its page."""
        calls = []

        def lie(handler, name):
            if name != self.large:
                return False
            calls.append(offset_of(handler))
            content = self.files[name]
            if len(calls) == 1:
                break_off(handler, content, 1_500_000)
            elif len(calls) == 2:
                send(handler, b"<html>log in</html>")
            else:
                send_file(handler, content)
            return True

        self.assert_pulled(self.pull(self.hub(lie), "--tries", "4"))
        self.assertEqual(calls, [0, 1_500_000, 1_500_000])

    def test_redirects_take_large_files_elsewhere_but_not_the_token(self):
        other = self.hub()

        def redirect(handler, name):
            if name != self.large:
                return False
            send(handler, b"", 302, Location=other.url.replace("127.0.0.1", "localhost")
                 + handler.path)
            return True

        hub = self.hub(redirect)
        self.assert_pulled(self.pull(hub, HF_TOKEN=TOKEN))
        self.assertTrue(all(h.get("Authorization") == f"Bearer {TOKEN}" for _, h in hub.requests))
        self.assertTrue(other.requests)
        self.assertTrue(all("Authorization" not in h for _, h in other.requests))

    def test_the_list_must_come_from_the_hub_itself(self):
        other = self.hub()

        def redirect(handler, name):
            if not handler.path.startswith("/api/"):
                return False
            send(handler, b"", 302, Location=other.url + handler.path)
            return True

        self.fails(redirect, "another host")

    def test_redirects_to_files_and_in_circles(self):
        def to_file(handler, name):
            if name != "config.json":
                return False
            send(handler, b"", 302, Location="file:///etc/passwd")
            return True

        self.fails(to_file, "config.json")

        def in_circles(handler, name):
            if name != "config.json":
                return False
            send(handler, b"", 302, Location=handler.path)
            return True

        self.fails(in_circles, "config.json")

    def test_names_that_lead_out(self):
        evil = dict(self.files)
        evil["../../evil.safetensors"] = b"x"
        evil["..\\evil.safetensors"] = b"x"
        result = self.pull(self.hub(files=evil))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(list(self.folder.rglob("*evil*")), [])

    def test_lists_that_are_none(self):
        for body, says in ((b"<html>", "JSON"), (b"{}", "commit"),
                           (b" " * (33 << 20), "longer than")):
            def lie(handler, name, body=body):
                if not handler.path.startswith("/api/"):
                    return False
                send(handler, body)
                return True

            with self.subTest(says=says):
                self.fails(lie, says)

    def test_refusals_say_what_to_do(self):
        for status, says in ((401, "HF_TOKEN"), (404, "no such model")):
            def lie(handler, name, status=status):
                send(handler, b"no", status)
                return True

            with self.subTest(status=status):
                self.fails(lie, says)
        result = self.run_model("pull", "org/model", "--tries", "1")  # nobody listens
        self.assertEqual(result.returncode, 1)
        self.assertIn("127.0.0.1", result.stderr)
        command, environment = self.command()
        unknown = subprocess.run([PROGRAM, "run", "org/nothing", "-p", "x"], env=environment,
                                 capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(unknown.returncode, 1)
        self.assertIn("conclave model pull org/nothing", unknown.stderr)
        for name in ("model", "../x/y", "a/b/c"):
            result = self.run_model("pull", name)
            self.assertEqual(result.returncode, 1)
            self.assertIn("ORG/NAME", result.stderr)

    def test_too_little_room_is_said_before_the_start(self):
        hub = self.hub()
        listing = hub.listing()
        for sibling in listing["siblings"]:
            if "lfs" in sibling:
                sibling["lfs"]["size"] = 1 << 43
        hub.lie = lambda handler, name: (handler.path.startswith("/api/")
                                         and send(handler, json.dumps(listing).encode()) is None)
        result = self.pull(hub)
        self.assertEqual(result.returncode, 1)
        self.assertIn("are free", result.stderr)
        self.assertEqual([path for path, _ in hub.requests if "/resolve/" in path], [])

    def test_add_from_a_folder(self):
        result = self.run_model("add", str(EMBER), "--name", "me/ember")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.run_model("verify", "me/ember").returncode, 0)
        again = self.run_model("add", str(EMBER), "--name", "me/ember")
        self.assertEqual(again.returncode, 1)
        self.assertIn("there already", again.stderr)
        disk = self.folder / "disk"
        shutil.copytree(self.store / "me" / "ember", disk)
        (disk / "._model-00001-of-00004.safetensors").write_bytes(b"left by a Mac")
        self.assertEqual(self.run_model("add", str(disk)).returncode, 0)
        self.assertEqual(self.run_model("verify", "local/disk").returncode, 0)
        with open(disk / self.large, "r+b") as file:
            file.write(b"????")
        damaged = self.run_model("add", str(disk), "--name", "local/two")
        self.assertEqual(damaged.returncode, 1)
        self.assertIn("damaged", damaged.stderr)
        self.assertEqual(self.run_model("rm", "local/disk").returncode, 0)
        listed = json.loads(self.run_model("list", "--json").stdout)
        self.assertEqual([model["model"] for model in listed], ["me/ember"])


if __name__ == "__main__":
    unittest.main()
