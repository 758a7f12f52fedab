"""What keeps a call's place in its line."""

import pytest

from openlimit.bucket.limit import SECOND
from openlimit_server.engine.ids import Signer
from openlimit_server.engine.tickets import Place, place_of, ticket_of

WHOSE, NOW = b"a model, a key and labels", 1_800_000_000 * SECOND
PLACE = Place("0123456789abcdef000", NOW - 5 * SECOND, 10 * SECOND)


def signer(*secrets: bytes) -> Signer:
    """Of policies that limit requests."""
    return Signer(secrets or [b"secret"], ["requests"])


def test_a_ticket_keeps_its_place_until_its_start_may_be_forgotten() -> None:
    """It says the place, fits where a request_id does, and is of no use when it is too old."""
    ticket = ticket_of(PLACE, WHOSE, signer(), NOW)
    assert len(ticket) <= 64
    assert place_of(ticket, WHOSE, signer(), NOW) == PLACE
    assert place_of(ticket, WHOSE, signer(), NOW + 10 * SECOND) == PLACE
    assert place_of(ticket, WHOSE, signer(), NOW + 10 * SECOND + 1) is None


def test_an_altered_ticket_is_none() -> None:
    """Whatever is changed in it, at whatever place."""
    ticket = ticket_of(PLACE, WHOSE, signer(), NOW)
    for i, was in enumerate(ticket):
        for other in ("0", "1", "f", ".", "é", ""):
            if other != was:
                altered = f"{ticket[:i]}{other}{ticket[i + 1 :]}"
                assert place_of(altered, WHOSE, signer(), NOW) is None


@pytest.mark.parametrize(
    ("whose", "other"),
    [
        (b"another key", signer()),
        (b"", signer()),
        (WHOSE, signer(b"another secret")),
        (WHOSE, Signer([b"secret"], ["tokens"])),
    ],
)
def test_another_callers_ticket_is_none(whose: bytes, other: Signer) -> None:
    """It is for one model, key and labels, at servers that share a secret and a policy."""
    ticket = ticket_of(PLACE, WHOSE, signer(), NOW)
    assert place_of(ticket, whose, other, NOW) is None


def test_a_ticket_outlives_a_change_of_the_secret() -> None:
    """What the secret before has signed stays valid."""
    ticket = ticket_of(PLACE, WHOSE, signer(b"before"), NOW)
    assert place_of(ticket, WHOSE, signer(b"now", b"before"), NOW) == PLACE
