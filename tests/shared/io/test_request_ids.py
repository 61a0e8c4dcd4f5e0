"""A request keeps the id it brings, and gets a version 4 UUID where it brings none."""

import uuid

from shared.io.request_ids import id_for
from shared.protocol import names


def test_its_own_is_kept_and_a_malformed_one_is_not():
    assert id_for("order-17") == "order-17"
    assert id_for("line\nbreak") != "line\nbreak"
    assert id_for("") != ""


def test_a_new_one_is_a_uuid_of_version_4():
    made = {id_for(None) for _ in range(500)}
    assert len(made) == 500
    for each in made:
        found = uuid.UUID(each)
        assert (str(found), found.version, found.variant) == (each, 4, uuid.RFC_4122)
        assert names.REQUEST_ID.fullmatch(each)
