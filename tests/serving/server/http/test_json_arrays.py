"""Arrays of numbers that are parsed piece by piece: what `json.loads` makes of them, and refused where it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequest
from serving.server.http import json_arrays


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    """A few numbers each, so that whatever happens where pieces meet happens here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_arrays, "_PIECE_BYTES", 5)
        patch.setattr(json_arrays, "_PAUSE_S", 0)
        yield


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def _nested(shape: list[int], values: list) -> list:
    return np.array(values, object).reshape(shape).tolist()


def _raw(text: str, datatype: str, shape: list[int]) -> bytes:
    document = json_arrays.parse(text.encode())
    return document["data"].to_raw(datatype, shape, "data", max_values=1 << 20)


@st.composite
def _arrays(draw: st.DrawFn) -> tuple[str, list[int], list[int]]:
    shape = draw(SHAPES)
    values = draw(st.lists(st.integers(0, 255), min_size=math.prod(shape), max_size=math.prod(shape)))
    made = values if draw(st.booleans()) else _nested(shape, values)
    text = json.dumps({"data": made}, indent=draw(st.sampled_from([None, 1])))
    return text, shape, values


@given(_arrays())
def test_an_array_becomes_its_values_nested_or_flat(made: tuple) -> None:
    text, shape, values = made
    assert _raw(text, "UINT8", shape) == bytes(values)
    assert _raw(text, "FP32", shape) == np.array(values, "<f4").tobytes()


@given(SHAPES, st.data())
def test_floats_are_those_that_were_sent(shape: list[int], data: st.DataObject) -> None:
    size = math.prod(shape)
    values = data.draw(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=size, max_size=size)
    )
    text = json.dumps({"data": _nested(shape, values)})
    assert _raw(text, "FP32", shape) == np.array(values, "<f4").tobytes()


@settings(max_examples=700)
@given(_arrays(), st.data())
def test_no_damaged_array_is_taken_for_another(made: tuple, data: st.DataObject) -> None:
    """Whatever is changed: it is refused, or what `json.loads` and numpy make of it is what comes out."""
    text, shape, _ = made
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(9, len(text) - 1))
        new = data.draw(st.sampled_from([*'[],0123456789.-+eE {}":', "", "NaN", "true", "null", '"data":[', "\n"]))
        text = text[:at] + new + text[at + data.draw(st.integers(0, 1)) :]
    try:
        raw = _raw(text, "UINT8", shape)
    except (
        InvalidRequest,
        AttributeError,
        KeyError,
        TypeError,
    ):  # the last three: it is not an object with data any more
        return
    found = json.loads(text)["data"]
    flat = np.array(found).ravel() if found else np.array([])
    if any(isinstance(value, list) for value in found):
        assert list(np.shape(found)) == shape
    assert raw == bytes(flat.tolist())


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        ("[1[], 2[]]", [2, 1]),
        ("[[]1, []2]", [2, 1]),
        ("[[1, 2][, 3, 4]]", [2, 2]),
        ("[   10,]", [1]),
        ("[   10,   ]", [1]),
        ("[,   10]", [1]),
        ("[   10,   ,20]", [2]),
        ("[   10 20]", [2]),
        ("[true, 2]", [2]),
        ("[1, false]", [2]),
        ("[1.0, 2]", [2]),
        ("[1e0, 2]", [2]),
        ("[null, 2]", [2]),
        ("[NaN, 2]", [2]),
        ("[-1, 2]", [2]),
        ("[256, 2]", [2]),
        ("[01, 2]", [2]),
        ("[+1, 2]", [2]),
        ("[1, 2]]", [2]),
        ("[[1, 2]", [2]),
        ("[[1], [2, 3]]", [2, 1]),
        ("[[1, 2]]", [2]),
        ("[[1], [2]]", [1, 2]),
        ("[[1], 2]", [2]),
        ("[[]]", [1, 0]),
        (f"[{'9' * 5000}, 2]", [2]),
        (f"[{10**400}, 2]", [2]),
        ("[" * 2000 + "]" * 2000, [1] * 2000),
        ("[" * 100_000, [1]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_not_an_array_of_bytes_is_refused(array: str, shape: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        _raw(f'{{"data": {array}}}', "UINT8", shape)


@pytest.mark.parametrize("array", ["[   10,]", "[true]", "[null]", "[NaN]", f"[{10**400}]", "[1e]"])
def test_what_is_not_an_array_of_floats_is_refused(array: str) -> None:
    with pytest.raises(InvalidRequest):
        _raw(f'{{"data": {array}}}', "FP32", [1])


@pytest.mark.parametrize(
    "text",
    [
        '{"data": [1], "x": NaN}',
        '{"data": [1], "data": [2], "x": -Infinity}',
        '{"x": NaN}',
        "[NaN]",
        '{"x": "data": [1]}',
        '{"data": [1',
        '{"data": [1, 2}',
        '{"data": ["a"]}',
        '{"data": [{"a": 1}]}',
        '{"data": [1], }',
        '{"data" [1]}',
        '{"data": [1]} {"data": [2]}',
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        json_arrays.parse(text.encode())


def test_the_word_may_stand_elsewhere() -> None:
    text = json.dumps({"id": 'my "data": [1]', 'x"data"': [1, "a"], "data": {"data": "data"}, "values": ["data", [2]]})
    assert json_arrays.parse(text.encode()) == json.loads(text)


def test_only_numbers_may_be_long() -> None:
    """Only they are parsed in pieces."""
    long = json.dumps({"x": [0] * 200_000})
    with pytest.raises(InvalidRequest, match="without the numbers"):
        json_arrays.parse(long.encode())
    with pytest.raises(InvalidRequest, match="without the numbers"):
        json_arrays.parse(b'{"data"' * 100_000)
    assert json_arrays.parse(long.replace('"x"', '"data"').encode())["data"].to_raw(
        "UINT8", [9], "", max_values=1 << 20
    ) == bytes(200_000)
