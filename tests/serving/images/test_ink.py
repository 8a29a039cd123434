"""What finding ink consists of: connected strokes, printed lines, paper, photos on a page, several digits."""

from __future__ import annotations

import numpy as np
import pytest

from serving.images.ink import find_ink
from serving.images.lines import without_lines
from serving.images.strokes import are_several, connected
from serving.images.surroundings import find_photo


def _drawn(*boxes: tuple[int, int, int, int], shape: tuple[int, int] = (100, 80)) -> np.ndarray:
    """A mask with filled boxes: top, left, bottom, right."""
    mask = np.zeros(shape, bool)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = True
    return mask


SEVEN = _drawn((0, 0, 8, 80), (8, 60, 30, 72), (30, 50, 60, 62), (60, 40, 100, 52))  # cut at its ink
ONE = _drawn((20, 35, 80, 43))
BOX = _drawn((5, 0, 8, 80), (92, 5, 95, 75), (5, 5, 95, 8), (0, 72, 100, 75))


def test_strokes_are_connected_along_rows_columns_and_diagonals() -> None:
    letters = ["##..#", "....#", "#.#..", ".#..#"]
    strokes = connected(np.array([[letter == "#" for letter in row] for row in letters]))
    assert strokes.count == 4
    assert sorted(map(tuple, strokes.boxes().tolist())) == [(0, 0, 1, 2), (0, 4, 2, 5), (2, 0, 4, 3), (3, 4, 4, 5)]
    assert sorted(strokes.masses(np.ones((4, 5)))[1:]) == [1, 2, 2, 3]
    assert connected(np.zeros((3, 4), bool)).count == 0


def test_comb_and_snake_are_one_stroke() -> None:
    comb = np.zeros((64, 64), bool)
    comb[:, ::2] = comb[-1] = True
    snake = np.zeros((64, 64), bool)
    snake[::2] = snake[1::4, -1] = snake[3::4, 0] = True
    assert connected(comb).count == connected(snake).count == 1


@pytest.mark.parametrize("digit", [ONE, _drawn((20, 20, 26, 60), (26, 50, 80, 58))], ids=["one", "seven"])
def test_a_printed_box_is_taken_away_and_the_digit_stays(digit: np.ndarray) -> None:
    rest, sides = without_lines(BOX | digit)
    assert sides == 4
    assert np.array_equal(rest, digit)


def test_a_digit_keeps_its_ink_where_it_crosses_a_line() -> None:
    digit = _drawn((30, 35, 100, 43))
    rest, _ = without_lines(BOX | digit)
    assert (rest & digit).sum() >= 0.98 * digit.sum()
    assert (rest & ~digit).sum() <= 20


def test_a_line_along_one_edge_is_taken_away() -> None:
    for turns in range(4):
        rest, sides = without_lines(np.rot90(_drawn((0, 0, 4, 80)) | ONE, turns))
        assert sides == 1
        assert np.array_equal(rest, np.rot90(ONE, turns))


@pytest.mark.parametrize("digit", [ONE, SEVEN, SEVEN[::-1], _drawn((0, 0, 100, 6))], ids=["one", "7", "foot", "rim"])
def test_strokes_are_no_lines(digit: np.ndarray) -> None:
    rest, sides = without_lines(digit)
    assert sides == 0
    assert np.array_equal(rest, digit)


def test_a_box_without_a_digit_has_no_ink() -> None:
    rest, sides = without_lines(BOX)
    assert sides == 4
    assert not rest.any()


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    "shape", [SEVEN, np.pad(SEVEN, 1), BOX | ONE, np.rot90(np.eye(60, dtype=bool).repeat(4, axis=1)), ONE[20:80, 34:44]]
)
def test_paper_is_told_from_ink(shape: np.ndarray, inverted: bool) -> None:
    assert find_ink(np.where(shape ^ inverted, 20, 230).astype(np.uint8)).dark is not inverted


def test_a_photo_on_a_page_is_found() -> None:
    page = np.full((200, 200), 255, np.uint8)
    page[:, 40:160] = 170
    page[60:140, 90:105] = 40
    rows, columns = find_photo(page)
    assert (rows.start, columns.start) == (2, 42)
    assert (rows.stop, columns.stop) == (198, 158)


@pytest.mark.parametrize("ink", [BOX, ONE, SEVEN, _drawn((10, 10, 90, 70))], ids=["box", "one", "seven", "block"])
def test_ink_is_no_photo(ink: np.ndarray) -> None:
    assert find_photo(np.where(np.pad(ink, 10), 0, 255).astype(np.uint8)) is None


def test_parts_of_a_digit_are_not_several_digits() -> None:
    five = _drawn((0, 20, 8, 70), (14, 15, 50, 25), (45, 25, 55, 60), (55, 52, 90, 62), (88, 15, 98, 60))
    four = _drawn((0, 10, 60, 18), (52, 18, 60, 56), (10, 58, 100, 66))
    eight = _drawn((0, 20, 48, 60), (51, 15, 100, 65))
    dusty = ONE | _drawn((50, 70, 54, 74))
    assert not any(map(are_several, (five, four, eight, dusty, SEVEN, np.zeros((5, 5), bool))))


def test_strokes_side_by_side_or_one_over_another_are_several_digits() -> None:
    ones = _drawn((10, 10, 90, 18), (12, 60, 85, 68))
    assert are_several(ones)
    assert are_several(_drawn((0, 30, 40, 50), (50, 28, 95, 52)))
    assert are_several(np.hstack([SEVEN, np.zeros((100, 10), bool), SEVEN]))


def test_a_drawing_of_many_parts_is_not_several_digits() -> None:
    eyes_and_ears = _drawn((0, 5, 40, 20), (0, 60, 40, 75))
    whiskers = _drawn(*((row, column, row + 4, column + 28) for row in range(50, 98, 8) for column in (4, 44)))
    assert are_several(eyes_and_ears)
    assert not are_several(eyes_and_ears | whiskers)
