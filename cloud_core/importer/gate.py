"""Whether a narrower variant may go into the bundle: held against the fp32 program's answers, and against its own in a batch.

The bars are the issue's: labels and entities 99 %, cosine 0.995 in the mean and 0.99 at least. They stand although the figures
measured on MiniLM for the plain int8 form (0.994 and 0.980, the research notes' 0.996 and 0.993 on other sentences) lie around
them: a variant below is refused, unless its publisher names the figure that was measured. The fine int8 form reaches them.

A variant that says it is batch invariant must be: to 1e-5 in fp32, and with the same label or entities and cosine 0.9999 in
narrower arithmetic. No accepted drift changes that.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal

from cloud_core.importer.agreement import Figures, compared, difference_in_words, is_same
from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Refusal, Refused, shortened
from shared.serving.answer import Result

BARS: Mapping[TaskKind, Mapping[str, float]] = {
    TaskKind.TEXT_CLASSIFICATION: {"labels": 0.99},
    TaskKind.TOKEN_CLASSIFICATION: {"entities": 0.99},
    TaskKind.RELATION_EXTRACTION: {"relations": 0.99},
    TaskKind.TEXT_EMBEDDING: {"mean_cosine": 0.995, "least_cosine": 0.99},
    TaskKind.TEXT_GENERATION: {"next_tokens": 0.99},
    TaskKind.TENSOR: {"mean_cosine": 0.995, "least_cosine": 0.99},
}
"""The least of each figure. Of a generator every next token is a label: one that differs changes all that follows it."""
EXACT, BATCH_COSINE = 1e-5, 0.9999
DIGITS = 3
"""A named figure counts to as many decimals as were given, and to these at the least."""
_SHOWN = 10


def judge(
    task: TaskKind,
    variant: str,
    figures: Figures,
    *,
    accept: float | None = None,
    differing: Sequence[str] = (),
    against: str = "the fp32 program",
) -> str | None:
    """The figure that was accepted although it misses its bar, such as `least_cosine 0.984`; None where every bar is reached.

    Args:
        task: of the model; decides the bars.
        variant: its name.
        figures: `compared` of fp32's answers and the variant's.
        accept: the figure its publisher named.
        differing: rows of `table`, told with a refusal.
        against: what it was compared with.

    Raises:
        Refused: below the bar; says what was measured, what differed, and how it is accepted all the same.

    """
    missed = {name: bar for name, bar in BARS[task].items() if not figures[name] >= bar}
    if not missed:
        if accept is not None:
            raise _refused(variant, "no drift to accept", accept, "nothing: every bar is reached", ())
        return None
    name = max(missed, key=lambda each: missed[each] - figures[each])
    measured = figures[name]
    bars = ", ".join(f"{each} {figures[each]:.6g} (at least {bar})" for each, bar in BARS[task].items())
    message = f"{variant} strays from {against}: {bars}"
    allowed = f"the bars, or --accept-drift {variant}={measured:.4f}"
    if accept is None:
        raise _refused(variant, message, None, allowed, differing)
    if round(measured, _digits(accept)) != accept:
        raise _refused(variant, f"{message}; the drift accepted is not the one measured", accept, allowed, differing)
    return f"{name} {measured:.6g}"


def judge_batches(
    variant: str, alone: Sequence[Result], together: Sequence[Result], *, exact: bool, held: bool = True
) -> Figures:
    """Figures of a variant's answers in batches against those alone, named `batch_…`.

    Args:
        variant: its name.
        alone: its answers to each input by itself.
        together: to the same inputs in batches.
        exact: whether its arithmetic changes nothing beyond the last digits.
        held: whether it says that the answers are the same.

    Raises:
        Refused: it says so, and they are not.

    """
    figures = compared(alone, together)
    same = all(is_same(a, b) for a, b in zip(alone, together, strict=True))
    numbers = (figures.get("largest_score_difference", 0.0), figures.get("largest_difference", 0.0))
    least = figures.get("least_cosine", 1.0)
    if held and (not same or least < BATCH_COSINE or (exact and max(numbers) > EXACT)):
        rows = table([f"answer {i}" for i in range(len(alone))], alone, together)
        told = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
        allowed = "the same answers alone and in any batch"
        raise _refused(variant, f"{variant} answers otherwise in a batch: {told}", None, allowed, rows)
    return {f"batch_{name}": value for name, value in figures.items()}


def table(items: Sequence[object], wanted: Sequence[Result], found: Sequence[Result]) -> list[str]:
    """One row per input that came out otherwise, the first few: what was asked, what was wanted, what the variant says."""
    rows = [
        f"{shortened(item, 40)}: {difference_in_words(a, b)}"
        for item, a, b in zip(items, wanted, found, strict=True)
        if not is_same(a, b)
    ]
    return [*rows[:_SHOWN], f"… and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else rows


def _refused(variant: str, message: str, value: object, allowed: str, rows: Sequence[str]) -> Refused:
    return Refused(
        "\n  ".join((message, *rows)),
        kind=Refusal.UNPROCESSABLE,
        field=f"variants.{variant}",
        value=value,
        allowed=allowed,
        code="drift",
    )


def _digits(figure: float) -> int:
    exponent = Decimal(repr(float(figure))).as_tuple().exponent
    return max(DIGITS, -exponent) if isinstance(exponent, int) else DIGITS
