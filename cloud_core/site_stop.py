"""How a process that answers HTTP stops: it takes no more, finishes what it has, and then ends what is left."""

from shared.io.program import Program
from shared.io.web import Site


def stop_site(program: Program, site: Site, *, drain: float) -> None:
    """Add the steps to `program`; `drain` is how many seconds requests in flight are waited for."""

    async def drained() -> None:
        await site.drain(drain)

    program.on_stop("stop accepting", site.stop_accepting)
    program.on_stop("drain", drained, timeout=drain + 1.0)
    program.on_stop("close", site.close)
