"""The rules about units."""

from collections.abc import Sequence

from openlimit.units import include_parts


def test_input_and_output_are_tokens() -> None:
    """Calls that give no more than those cost them as tokens too."""
    for costs, tokens in (
        ({"tokens": [7, 20], "input_tokens": [9, 9]}, [9, 20]),
        ({"tokens": [0, 20], "input_tokens": [9, 9], "output_tokens": [2, 2]}, [11, 20]),
        ({"tokens": [7], "output_tokens": [8], "images": [9]}, [8]),
    ):
        columns: dict[str, Sequence[int]] = {**costs}
        include_parts(columns)
        assert columns == {**costs, "tokens": tokens}
