"""The routing policy document (contract, section 7): one type, validated alike in the cloud and on the device.

Unknown keys and impossible values are refused with their path. A rule set under `models.<name>` overrides the
document's own, field by field.
"""

import tomllib
from enum import StrEnum
from typing import Literal

import msgspec

from shared.protocol import names
from shared.protocol.envelope import path_in
from shared.protocol.errors import Refusal, Refused

MAX_BYTES = 64 * 1024
P95: Literal["p95"] = "p95"
"""As `hedge_after_ms`: what was observed, the 95th percentile of the place that is asked first."""
EXERCISE_SHARE = 0.01
MOST_EXERCISE = 0.05
HedgeAfter = float | Literal["p95"]
MOST_CACHE_BYTES = 1 << 30
MOST_PRICE = 1e12
OVERLOAD_CACHE_BYTES = 8 << 20
"""What `on_overload = "cached"` keeps of each version where `cache_bytes` says nothing."""


class Mode(StrEnum):
    """Where a request may be answered, and what decides it."""

    LOCAL_ONLY = "local-only"
    CLOUD_ONLY = "cloud-only"
    LOCAL_FIRST = "local-first"
    FASTEST = "fastest"
    CASCADE = "cascade"


class OnOverload(StrEnum):
    """What to do when neither place can answer in time.

    `cached`: an answer to the same input, if one was kept; `smaller-model`: that of `smaller_model` on the device; else shed.
    """

    SHED = "shed"
    CACHED = "cached"
    SMALLER_MODEL = "smaller-model"


class CloudBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many requests may go to the cloud, and for how much; None is unlimited.

    `price_per_request` and `price_per_day`, the most that may be spent in a day (UTC), are in any one currency.
    """

    per_minute: int | None = None
    per_day: int | None = None
    price_per_request: float | None = None
    price_per_day: float | None = None


class Override(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one model does differently; None keeps the document's own rule."""

    mode: Mode | None = None
    deadline_ms: float | None = None
    confidence_below: float | None = None
    hedge_after_ms: HedgeAfter | None = None
    on_overload: OnOverload | None = None
    offline_lease_s: float | None = None
    split: dict[str, float] | None = None
    shadow: str | None = None
    cache_bytes: int | None = None
    exercise_share: float | None = None
    smaller_model: str | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole policy document. Times in milliseconds or seconds as the name says; `split` in shares of any sum.

    `shadow` is the version that gets copies of what the device answered, for comparison alone. `cache_bytes` is how much of
    each loaded version's answers a device keeps in memory and gives again for the same input; 0 is none. `exercise_share` is how much of
    what the device could answer itself goes to the cloud all the same, so that the way there is known; 0 is none.
    `smaller_model` is the model of the same task that answers under `on_overload = "smaller-model"`; without it, that sheds.
    """

    mode: Mode = Mode.LOCAL_FIRST
    deadline_ms: float = 1000.0
    confidence_below: float | None = None
    hedge_after_ms: HedgeAfter | None = None
    cloud_budget: CloudBudget = CloudBudget()
    privacy_tags: tuple[str, ...] = ("local-only",)
    on_overload: OnOverload = OnOverload.SHED
    offline_lease_s: float | None = None
    split: dict[str, float] | None = None
    shadow: str | None = None
    cache_bytes: int | None = None
    exercise_share: float = EXERCISE_SHARE
    smaller_model: str | None = None
    models: dict[str, Override] = {}


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one model once its override is applied."""

    mode: Mode
    deadline_ms: float
    confidence_below: float | None
    hedge_after_ms: HedgeAfter | None
    cloud_budget: CloudBudget
    privacy_tags: tuple[str, ...]
    on_overload: OnOverload
    offline_lease_s: float | None
    split: dict[str, float] | None
    shadow: str | None
    cache_bytes: int | None
    exercise_share: float = EXERCISE_SHARE
    smaller_model: str | None = None

    @property
    def smaller(self) -> str | None:
        """The model that answers where nobody can in time; None where the policy wants none, or the device never answers."""
        wanted = self.on_overload is OnOverload.SMALLER_MODEL and self.mode is not Mode.CLOUD_ONLY
        return self.smaller_model if wanted else None

    @property
    def kept_bytes(self) -> int:
        """How much of each version's answers is kept, whatever for.

        None where the device never answers: which bytes answer in the cloud is not known before it did.
        """
        if self.mode is Mode.CLOUD_ONLY:
            return 0
        if self.cache_bytes is not None:
            return self.cache_bytes
        return OVERLOAD_CACHE_BYTES if self.on_overload is OnOverload.CACHED else 0


def rules_for(policy: Policy, model: str) -> Rules:
    """The rules of `model`: its override where it sets a field, the document's own otherwise."""
    override = policy.models.get(model, Override())

    def pick(name: str) -> object:
        own = getattr(override, name, None)
        return getattr(policy, name) if own is None else own

    return msgspec.convert({name: pick(name) for name in Rules.__struct_fields__}, Rules, from_attributes=True)


def parse_policy(data: bytes, *, form: str = "json") -> Policy:
    """A validated policy from JSON or TOML bytes (`form` is "json" or "toml").

    Raises:
        Refused: not parseable, an unknown key, a wrong type or an impossible value, naming its path.

    """
    if len(data) > MAX_BYTES:
        raise Refused("policy too large", kind=Refusal.TOO_LARGE, field="$", value=len(data), allowed=f"{MAX_BYTES} B")
    try:
        document = tomllib.loads(data.decode()) if form == "toml" else msgspec.json.decode(data)
    except (msgspec.DecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(f"policy is not {form}: {error}", field="$") from error
    return policy_of(document)


def policy_of(document: object) -> Policy:
    """A validated policy from already parsed JSON or TOML.

    Raises:
        Refused: as `parse_policy`.

    """
    try:
        policy = msgspec.convert(document, Policy, strict=True)
    except msgspec.ValidationError as error:
        raise _refused(error, document) from error
    _check(policy, "$")
    for name, override in policy.models.items():
        names.checked("model", name, field=f"$.models.{name}")
        _check(override, f"$.models.{name}")
    return policy


def _refused(error: msgspec.ValidationError, document: object) -> Refused:
    text, path = _placed(error, document)
    unknown = text.partition("unknown field `")[2].rstrip("`")
    if not unknown:
        return Refused(text, kind=Refusal.UNPROCESSABLE, field=path)
    known = Override if path.startswith("$.models") else CloudBudget if path.endswith("cloud_budget") else Policy
    allowed = ", ".join(known.__struct_fields__)
    return Refused("unknown key", kind=Refusal.UNPROCESSABLE, field=f"{path}.{unknown}", allowed=allowed)


def _placed(error: msgspec.ValidationError, document: object) -> tuple[str, str]:
    """What is wrong, and where; msgspec leaves out the key of a mapping, so the model is found by looking at each alone."""
    text, path = str(error).partition(" - at ")[0], path_in(error)
    models = document.get("models") if isinstance(document, dict) else None
    if path.startswith("$.models[...]") and isinstance(models, dict):
        for name, override in models.items():
            try:
                msgspec.convert(override, Override, strict=True)
            except msgspec.ValidationError as own:
                text, inner = str(own).partition(" - at ")[0], path_in(own)
                return text, f"$.models.{name}{inner.removeprefix('$')}"
    return text, path


def _check(rules: Policy | Override, path: str) -> None:
    def bad(field: str, value: object, allowed: str) -> Refused:
        return Refused(
            "impossible value", kind=Refusal.UNPROCESSABLE, field=f"{path}.{field}", value=value, allowed=allowed
        )

    for field in ("deadline_ms", "hedge_after_ms"):
        value = getattr(rules, field)
        if value is not None and value != P95 and not 0 < value <= 3_600_000:
            raise bad(field, value, "above 0, at most 3600000")
    if rules.confidence_below is not None and not 0 <= rules.confidence_below <= 1:
        raise bad("confidence_below", rules.confidence_below, "0 to 1")
    if rules.offline_lease_s is not None and not rules.offline_lease_s >= 0:
        raise bad("offline_lease_s", rules.offline_lease_s, "0 or more")
    if rules.split is not None:
        for version, share in rules.split.items():
            names.checked("version", version, field=f"{path}.split")
            if not 0 <= share < float("inf"):
                raise bad(f"split.{version}", share, "0 or more")
        if not sum(rules.split.values()) > 0:
            raise bad("split", rules.split, "shares that sum to more than 0")
    if rules.shadow is not None:
        names.checked("version", rules.shadow, field=f"{path}.shadow")
    if rules.cache_bytes is not None and not 0 <= rules.cache_bytes <= MOST_CACHE_BYTES:
        raise bad("cache_bytes", rules.cache_bytes, f"0 (none) to {MOST_CACHE_BYTES}")
    if rules.smaller_model is not None:
        names.checked("model", rules.smaller_model, field=f"{path}.smaller_model")
        if path == f"$.models.{rules.smaller_model}":
            raise bad("smaller_model", rules.smaller_model, "another model")
    if rules.exercise_share is not None and not 0 <= rules.exercise_share <= MOST_EXERCISE:
        raise bad("exercise_share", rules.exercise_share, f"0 (none) to {MOST_EXERCISE}")
    if isinstance(rules, Policy):
        for field in ("per_minute", "per_day"):
            value = getattr(rules.cloud_budget, field)
            if value is not None and value < 0:
                raise bad(f"cloud_budget.{field}", value, "0 or more, or absent for no limit")
        budget = rules.cloud_budget
        for field in ("price_per_request", "price_per_day"):
            value = getattr(budget, field)
            if value is not None and not 0 <= value <= MOST_PRICE:
                raise bad(f"cloud_budget.{field}", value, f"0 to {MOST_PRICE:.0e}, or absent")
        if budget.price_per_day is not None and not budget.price_per_request:
            allowed = "together with cloud_budget.price_per_request above 0"
            raise bad("cloud_budget.price_per_day", budget.price_per_day, allowed)
