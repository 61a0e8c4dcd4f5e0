"""Section 7: the routing policy document, in TOML and in JSON."""

import json
import tomllib
from typing import Any

import msgspec
import pytest

from shared.protocol.errors import Refusal, Refused
from shared.protocol.policy import Mode, OnOverload, parse_policy, rules_for

WHOLE = """
mode = "cascade"
deadline_ms = 250
confidence_below = 0.6
hedge_after_ms = 40
privacy_tags = ["local-only", "medical"]
on_overload = "smaller-model"
offline_lease_s = 86400
split = {"1.2.0" = 80, "1.3.0" = 20}
shadow = "1.4.0"
cache_bytes = 16777216

[cloud_budget]
per_minute = 600
per_day = 10000
price_per_request = 0.002
price_per_day = 5

[models.ner-zh]
mode = "local-only"
deadline_ms = 50
cache_bytes = 0
"""


def test_every_key_of_the_contract_in_both_forms() -> None:
    document = tomllib.loads(WHOLE)
    policy = parse_policy(WHOLE.encode(), form="toml")
    assert policy == parse_policy(json.dumps(document).encode())
    assert (policy.mode, policy.deadline_ms, policy.confidence_below, policy.hedge_after_ms) == (
        Mode.CASCADE,
        250,
        0.6,
        40,
    )
    assert (policy.cloud_budget.per_minute, policy.cloud_budget.per_day) == (600, 10000)
    assert (policy.cloud_budget.price_per_request, policy.cloud_budget.price_per_day) == (0.002, 5)
    assert (policy.privacy_tags, policy.on_overload) == (("local-only", "medical"), OnOverload.SMALLER_MODEL)
    assert (policy.offline_lease_s, policy.split, policy.shadow) == (86400, {"1.2.0": 80, "1.3.0": 20}, "1.4.0")
    assert policy.cache_bytes == 16 << 20
    own, others = rules_for(policy, "ner-zh"), rules_for(policy, "sentiment-zh")
    assert (own.mode, own.deadline_ms, own.confidence_below) == (Mode.LOCAL_ONLY, 50, 0.6)
    assert (others.mode, others.deadline_ms) == (Mode.CASCADE, 250)
    assert (own.cache_bytes, others.cache_bytes) == (0, 16 << 20)


def test_a_hedge_after_what_was_observed() -> None:
    policy = parse_policy(b'{"models": {"ner-zh": {"hedge_after_ms": "p95"}}}')
    assert rules_for(policy, "ner-zh").hedge_after_ms == "p95"
    assert rules_for(policy, "any").hedge_after_ms is None
    assert parse_policy(msgspec.json.encode(policy)) == policy


def test_an_empty_document_is_a_policy() -> None:
    assert parse_policy(b"", form="toml") == parse_policy(b"{}")


@pytest.mark.parametrize(
    ("document", "kept"),
    [
        ({}, 0),
        ({"cache_bytes": 4096}, 4096),
        ({"cache_bytes": 4096, "mode": "cloud-only"}, 0),
        ({"on_overload": "cached"}, 8 << 20),
        ({"on_overload": "cached", "cache_bytes": 4096}, 4096),
        ({"on_overload": "cached", "cache_bytes": 0}, 0),
    ],
)
def test_how_much_is_kept_of_a_version_s_answers(document: Any, kept: int) -> None:
    assert rules_for(parse_policy(json.dumps(document).encode()), "any").kept_bytes == kept


@pytest.mark.parametrize("value", ["local-only", "cloud-only", "local-first", "fastest", "cascade"])
def test_every_mode(value: str) -> None:
    assert parse_policy(json.dumps({"mode": value}).encode()).mode == value


@pytest.mark.parametrize("value", ["shed", "cached", "smaller-model"])
def test_everything_to_do_on_overload(value: str) -> None:
    assert parse_policy(json.dumps({"on_overload": value}).encode()).on_overload == value


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"colour": 1}, "$.colour"),
        ({"cloud_budget": {"per_hour": 1}}, "$.cloud_budget.per_hour"),
        ({"models": {"ner-zh": {"colour": 1}}}, "$.models.ner-zh.colour"),
        ({"models": {"ner-zh": {"privacy_tags": []}}}, "$.models.ner-zh.privacy_tags"),
        ({"models": {"NER": {}}}, "$.models.NER"),
        ({"mode": "sideways"}, "$.mode"),
        ({"mode": 1}, "$.mode"),
        ({"deadline_ms": "soon"}, "$.deadline_ms"),
        ({"deadline_ms": 0}, "$.deadline_ms"),
        ({"deadline_ms": -1}, "$.deadline_ms"),
        ({"hedge_after_ms": 0}, "$.hedge_after_ms"),
        ({"hedge_after_ms": "p99"}, "$.hedge_after_ms"),
        ({"models": {"ner-zh": {"hedge_after_ms": -1}}}, "$.models.ner-zh.hedge_after_ms"),
        ({"confidence_below": 1.5}, "$.confidence_below"),
        ({"offline_lease_s": -1}, "$.offline_lease_s"),
        ({"cloud_budget": {"per_minute": -1}}, "$.cloud_budget.per_minute"),
        ({"cloud_budget": {"price_per_request": -0.1}}, "$.cloud_budget.price_per_request"),
        ({"cloud_budget": {"price_per_request": 1, "price_per_day": -1}}, "$.cloud_budget.price_per_day"),
        ({"cloud_budget": {"price_per_day": 5}}, "$.cloud_budget.price_per_day"),
        ({"cloud_budget": {"price_per_request": 0, "price_per_day": 5}}, "$.cloud_budget.price_per_day"),
        ({"cloud_budget": {"price_per_request": "much"}}, "$.cloud_budget.price_per_request"),
        ({"split": {"one": 1}}, "$.split"),
        ({"split": {"1.0.0": -1}}, "$.split.1.0.0"),
        ({"split": {"1.0.0": 0}}, "$.split"),
        ({"shadow": "newest"}, "$.shadow"),
        ({"exercise_share": 0.06}, "$.exercise_share"),
        ({"smaller_model": "Not A Name"}, "$.smaller_model"),
        ({"smaller_model": 1}, "$.smaller_model"),
        ({"models": {"ner-zh": {"smaller_model": "ner-zh"}}}, "$.models.ner-zh.smaller_model"),
        ({"models": {"ner-zh": {"exercise_share": -0.01}}}, "$.models.ner-zh.exercise_share"),
        ({"cache_bytes": -1}, "$.cache_bytes"),
        ({"cache_bytes": 2**40}, "$.cache_bytes"),
        ({"cache_bytes": 1.5}, "$.cache_bytes"),
        ({"cache_bytes": True}, "$.cache_bytes"),
        ({"models": {"ner-zh": {"cache_bytes": -1}}}, "$.models.ner-zh.cache_bytes"),
        ({"models": {"ner-zh": {"mode": "sideways"}}}, "$.models.ner-zh.mode"),
        ({"models": {"ner-zh": {"deadline_ms": 0}}}, "$.models.ner-zh.deadline_ms"),
        ([], "$"),
    ],
)
def test_what_is_not_allowed_is_refused_with_its_path(document: Any, path: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_policy(json.dumps(document).encode())
    assert refused.value.field == path
    if "colour" in path or "per_hour" in path:
        assert refused.value.kind is Refusal.UNPROCESSABLE
        assert refused.value.allowed


@pytest.mark.parametrize(("data", "form"), [(b"{", "json"), (b"mode = ", "toml"), (b"\xff", "json"), (b"\xff", "toml")])
def test_what_is_no_document_is_refused(data: bytes, form: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_policy(data, form=form)
    assert (refused.value.field, form in refused.value.message) == ("$", True)


def test_a_document_has_a_size() -> None:
    with pytest.raises(Refused) as refused:
        parse_policy(b" " * 100_000)
    assert refused.value.kind is Refusal.TOO_LARGE
