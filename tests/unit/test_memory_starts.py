"""What a process remembers of calls in lines."""

from openlimit.stores.memory_starts import Over


def test_releases_that_are_repeated_take_no_memory() -> None:
    """However often, and whatever else of their run is released between."""
    over = Over(10)
    for i in range(1000):
        over.keep("b", [f"run{i % 3:03x}", "other", f"run{i % 2:03x}"], i)
    assert all(over.has("b", name, 1000) for name in ("run000", "run001", "run002", "other"))
    assert not any(over.has("b", name, 1000) for name in ("run003", "un0", "run00", "00"))
    [(_, ended), _] = over._ended.items()
    assert len(ended._endings) == 9
