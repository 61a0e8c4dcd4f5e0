"""The picture of the routing simulator: what each contestant makes of every load, beside the bound. Drawn by matplotlib, an extra."""

import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.protocol.errors import Refusal, Refused

if TYPE_CHECKING:
    from bench.routing_sim import Found, Score

SIZE, DOTS_PER_INCH = (11.0, 8.0), 110


def write(file: Path, found: "Sequence[Found]", *, contestants: Sequence[str]) -> None:
    """Draw share in time and mean against load, one column for each cloud, over all traces and round trips without an outage.

    Raises:
        Refused: matplotlib is not installed.

    """
    try:
        # Here and not above: everything else works without it.
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise Refused(
            "drawing needs matplotlib, which is not installed",
            kind=Refusal.UNSUPPORTED,
            field="matplotlib",
            allowed="pip install 'tideline[load]'",
        ) from error
    up = [each for each in found if each.cell.fault == "none"]
    clouds = list(dict.fromkeys(each.cell.cloud for each in up))
    figure: Any = Figure(figsize=SIZE, layout="constrained")
    rows = figure.subplots(2, len(clouds), sharex=True, sharey="row", squeeze=False)
    for i, cloud in enumerate(clouds):
        here = [each for each in up if each.cell.cloud == cloud]
        _lines(rows[0][i], here, contestants, lambda score: 100 * score.attainment)
        _lines(rows[1][i], here, contestants, lambda score: 1e3 * score.mean)
        rows[0][i].set_title(f"cloud: {cloud} the device")
        rows[1][i].set_yscale("log")
        rows[1][i].set_xlabel("load over the device's capacity")
    rows[0][0].set_ylabel("answered in time, %")
    rows[1][0].set_ylabel("mean, ms (a deadline for what is not)")
    rows[0][0].legend()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
    file.write_bytes(drawn.getvalue())


def _lines(axes: Any, found: "Sequence[Found]", contestants: Sequence[str], of: "Callable[[Score], float]") -> None:
    loads = sorted({each.cell.load for each in found})
    by_load = [[each for each in found if each.cell.load == load] for load in loads]
    bounds = [statistics.fmean(of(each.bound) for each in cells) for cells in by_load]
    axes.plot(loads, bounds, linestyle="--", color="black", label="bound")
    for name in contestants:
        means = [statistics.fmean(of(each.scores[name]) for each in cells) for cells in by_load]
        axes.plot(loads, means, marker="o", markersize=3, label=name)
    axes.grid(visible=True, alpha=0.3)
