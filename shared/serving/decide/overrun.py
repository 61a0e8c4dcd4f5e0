"""How many requests are turned away because the event loop has more to do than time. Pure.

Past what one interpreter can do, a loop reads late, admits what can only just be answered in time, and answers it too late: everything
costs its full price, for nobody. Turning away unread costs a fifth of answering, so the loop is kept a little late and no more: none is
turned away for that below `BEGIN_S`, all are from `FULL_S` on, in between their share grows evenly (random early detection, Floyd and
Jacobson 1993). What counts is lateness that stands for a while (RFC 8289, section 3): one hiccup is nobody's fault.
"""

BEGIN_S, FULL_S = 0.01, 0.04
"""Turns of the loop, in seconds. A request waits for some four of them before its answer is out."""


def share(standing: float) -> float:
    """Share of requests to turn away while every turn takes at least `standing` seconds."""
    return min(1.0, max(0.0, (standing - BEGIN_S) / (FULL_S - BEGIN_S)))
