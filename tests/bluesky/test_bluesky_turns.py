"""A motor that counts each turn anew: what lies between two of its positions is not half a turn away."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from streamrecon.bluesky.angles import Angles
from streamrecon.bluesky.mapping import mapping_from_dict
from streamrecon.bluesky.stream import Place, Shot
from streamrecon.bluesky.watched import Watched
from streamrecon.scan import FrameKind


class Dataset:
    """Positions in degrees, one for each frame."""

    def __init__(self, positions: list[float]) -> None:
        self._positions = positions

    def of_key(self, stream: str, key: str, event: int, part: int) -> float | None:
        return float(self._positions[event])

    def beside(self, shot: Shot, path: str, fills: bool = False) -> float | None:
        return None

    def units_of(self, stream: str, key: str) -> str | None:
        return "deg"


def found(positions: Any, **theta: Any) -> list[float]:
    """Degrees."""
    options = {"from": "dataset", "key": "k", "units": "deg", **theta}
    rule = mapping_from_dict({"run": {"match": {"plan_name": "x"}}, "theta": options}).theta
    angles = Angles(rule, lambda value, option: float(value), Dataset(list(positions)))
    shots = [Shot(FrameKind.PROJECTION, i, "primary", i, 0, Place("r", i)) for i in range(len(positions))]
    for shot in shots:
        angles.add(shot)
    each = [angles.theta(shot, True, True) for shot in shots]
    return [math.degrees(theta) for theta in each if theta is not None]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("at", "shift"), [("start", 0.5), ("end", -0.5), ("middle", 0.0)])
@pytest.mark.parametrize("span", [360.0, 180.0])
def test_exposures_across_the_end_of_a_turn(sign: int, at: str, shift: float, span: float) -> None:
    """Also where positions are from -180 to 180."""
    true = 355.0 + sign * np.arange(0.0, 400.0)
    told = (true + 360 - span) % 360 + span - 360
    difference = np.array(found(told, at=at)) - (true + sign * shift)
    np.testing.assert_allclose((difference + 180) % 360 - 180, 0, atol=1e-9)


def test_a_motor_that_goes_back_has_moved_back() -> None:
    """The last exposure is half of the way."""
    assert found([340, 350, 360, 0], at="start") == pytest.approx([345, 355, 180, -180])
    assert found([0, 270], at="start") == pytest.approx([135, 405])


def watched(positions: Any) -> Watched:
    each = Watched()
    each.expected = len(positions)
    for number, position in enumerate(positions):
        each.add(number + 1, float(number), float(position))
    return each


@pytest.mark.parametrize("sign", [1, -1])
def test_between_two_positions_across_the_end_of_a_turn(sign: int) -> None:
    motor = watched((sign * np.arange(355.0, 365.0)) % 360)
    for time in np.arange(0, 9, 0.25):
        position = motor.at(time, True, 360)
        assert position is not None
        assert (position - sign * (355 + time) + 180) % 360 - 180 == pytest.approx(0)


def test_between_two_positions_of_a_motor_that_goes_back() -> None:
    motor = watched([340, 350, 360, 0, 0])
    assert motor.at(2.5, True, 360) == 180
    assert motor.at(3.5, True, 360) == 0
    assert watched([0, 360]).at(0.25, True, 360) == 90


def test_a_motor_that_stands_where_a_turn_ends_stands() -> None:
    """Its noise leads across; it moves from the fifth position on."""
    motor = watched([359.99, 0.01, 359.995, 0.0, 0.005, 1, 2, 3, 4])
    assert motor.begun(0.05, True, 360) == 4.0


def test_steps_across_the_end_of_a_turn_are_told_by_their_speed() -> None:
    """An update or two may not have been sent, though none was missed."""
    motor = Watched()
    motor.expected = 6
    for number, time in enumerate((0.0, 1.0, 2.0, 5.0, 6.0, 7.0)):
        motor.add(number + 1, time, (339 + 6 * time) % 360)
    for time in np.arange(0, 7, 0.25):
        position = motor.at(time, True, 360)
        assert position is not None
        assert (position - (339 + 6 * time) + 180) % 360 - 180 == pytest.approx(0)


def test_a_step_that_goes_across_does_not_vouch_for_another() -> None:
    assert watched([0, 200, 0]).at(0.5, True, 360) == 100


def test_what_the_next_position_will_tell_is_waited_for() -> None:
    """Else what is found live is not what a second pass finds."""
    motor = watched([359.9, 0.5])
    for number in range(3):
        assert motor.at(0.5, False, 360) is None
        motor.add(number + 3, 2.0 + number, 1.1 + 0.6 * number)
    assert motor.at(0.5, False, 360) == pytest.approx(360.2)
    options = {"from": "dataset", "key": "k", "units": "deg", "at": "start"}
    rule = mapping_from_dict({"run": {"match": {"plan_name": "x"}}, "theta": options}).theta
    angles = Angles(rule, lambda value, option: float(value), Dataset([359.0, 0.0, 1.0]))
    shots = [Shot(FrameKind.PROJECTION, i, "primary", i, 0, Place("r", i)) for i in range(3)]
    for shot in shots[:2]:
        angles.add(shot)
    assert angles.theta(shots[0], False) is None
    angles.add(shots[2])
    theta = angles.theta(shots[0], False)
    assert theta is not None
    assert math.degrees(theta) == pytest.approx(359.5)


def test_a_hasty_update_does_not_tell_that_the_motor_stood_before() -> None:
    """It went evenly; the second of two updates came soon after the first, and is a little off."""
    motor = Watched()
    motor.expected = 7
    for number, (time, position) in enumerate(
        [(0, 0), (1, 6), (2, 12), (2.02, 12.6), (3.02, 18.1), (4.02, 24.1), (5.02, 30.1)]
    ):
        motor.add(number + 1, time, position)
    for time in np.arange(0, 2, 0.125):
        assert motor.at(time, True, 360) == pytest.approx(6 * time, abs=0.3)


@pytest.mark.parametrize("noise", [0.0, 0.001])
def test_a_motor_that_says_nothing_as_long_as_it_stands(noise: float) -> None:
    """As monitors that are told of changes only: it stood for 20 s, and turned by 20 degrees a second from then on."""
    motor = Watched()
    motor.expected = 12
    motor.add(1, -20.0, 0.0)
    motor.add(2, -19.5, noise)
    for number in range(10):
        motor.add(number + 3, 0.1 * (number + 1), 2.0 * (number + 1))
    assert motor.begun(0.05, True, 360) == pytest.approx(0.0, abs=noise + 1e-9)
    for time, angle in ((-10.0, noise), (-0.01, noise), (0.05, 1.0), (0.1, 2.0), (0.55, 11.0)):
        assert motor.at(time, True, 360) == pytest.approx(angle, abs=2 * noise + 1e-9)


def test_a_motor_that_says_twice_where_it_stands() -> None:
    motor = Watched()
    motor.expected = 12
    for number, (time, position) in enumerate(
        [(-5.0, 0.0), (3.0, 0.0), *((3.1 + 0.1 * n, 0.5 * (n + 1)) for n in range(10))]
    ):
        motor.add(number + 1, time, position)
    assert motor.at(1.0, True, 360) == 0
    assert motor.at(3.05, True, 360) == pytest.approx(0.25)
