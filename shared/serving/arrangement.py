"""How one model version is run on this machine: by which runtime, and how it shares the cores."""

import msgspec

ONNXRUNTIME, OPENVINO, TORCH = "onnxruntime", "openvino", "torch"


class Arrangement(msgspec.Struct, frozen=True, kw_only=True):
    """`lanes` batches are computed at once, each on `threads` cores; together they share one loaded program.

    No one arrangement is right everywhere: two lanes of one thread beat one of two threads for single texts, one of two
    threads wins where memory is the bound, and threads that spin while they wait lose most under a busy neighbour.
    """

    lanes: int = 1
    threads: int = 1
    spinning: bool = False
    runtime: str = ONNXRUNTIME
    """What runs the program; a program only one runtime can run (torch's) is run by that one whatever this says."""
    precision: str = ""
    """What the runtime computes in, where it can choose (`bf16`); empty for the program's own."""
    rows: int | None = None
    """Rows of one batch at most; None for the engine's own bound."""
    tokens: int | None = None
    """Padded tokens of one batch at most; None for the engine's own bound."""
