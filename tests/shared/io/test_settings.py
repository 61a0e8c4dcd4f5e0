"""A bad setting is refused with its name, its value and what is allowed."""

from enum import StrEnum

import msgspec
import pytest

from shared.io.settings import load
from shared.protocol.errors import Refused


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    colour: Colour = Colour.RED
    size: int = 1


def read(**environment):
    return load(Settings, prefix="", flags={}, environment={k.upper(): v for k, v in environment.items()}, file=None)


def test_a_choice_is_read_and_a_wrong_one_told_the_others():
    assert read(colour="blue").colour is Colour.BLUE
    with pytest.raises(Refused) as caught:
        load(Settings, prefix="", flags={"colour": "green"}, environment={}, file=None)
    assert (caught.value.field, caught.value.value, caught.value.allowed) == ("colour", "green", "red, blue")


def test_a_number_that_is_none_is_told_what_it_should_be():
    with pytest.raises(Refused) as caught:
        read(size="large")
    assert caught.value.allowed == "a whole number"
