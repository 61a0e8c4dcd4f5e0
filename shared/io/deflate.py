"""Telemetry's messages, compressed with a dictionary of the words they are made of: an idle sample is a third of its JSON.

A zlib stream names the checksum of its dictionary (RFC 1950, 2.2), so `WORDS` is never edited: a new one gets a new name, and
what was written with an old one is still read.
"""

import zlib

from shared.protocol.errors import Refusal, Refused

WORDS = (
    b'"disagreements":[{"cloud_version":"agree","differ","scores":[{"label":"converged":{"steps":[{"step":"fetch","verify",'
    b'"install","load","warm","activate","seconds":{"events":[{"at":"kind":"subject":"detail":"gpus":[{"name":"utilization":'
    b'"memory_total_bytes":"shadows":[{"result":"agree","reason":"same","dropped":{"spool-full":"storage":"cache":{"hit":"miss":'
    b'"shed":{"both-late":"full":"work":[{"model":"version":"1.0.0","queue":{"compute":{"sizes":{"confidence":{'
    b'"requests":[{"model":"sentiment-zh","version":"1.0.0","where":"local","cloud","outcome":"ok","reason":"mode","count":1,'
    b'"latency":{"count":1,"sum":0.0,"buckets":{"321":1,"322":1},"sub":32}}]}]}}'
    b'{"v":"1.0","kind":"telemetry","id":"0","sent_at":1.0,"body":{"epoch":17,"samples":[{"seq":1,"started_at":17,"ended_at":17,'
    b'"host":{"cpu":0.0,"memory":0.,"disk_free_bytes":1,"agent_memory_bytes":1,"temperature_c":5,"disk_total_bytes":1}},{"seq":'
)
MARK = 0x78
"""First byte of a zlib stream; JSON never begins with it."""


def deflated(plain: bytes) -> bytes:
    """`plain`, compressed."""
    packer = zlib.compressobj(level=9, zdict=WORDS)
    return packer.compress(plain) + packer.flush()


def inflated(data: bytes, *, most: int) -> bytes:
    """What `deflated` was given; what is no zlib stream is given back as it is: an older agent compresses nothing.

    Raises:
        Refused: no whole stream, one of another dictionary, or more than `most` bytes in it.

    """
    if data[:1] != bytes([MARK]):
        return data
    unpacker = zlib.decompressobj(zdict=WORDS)
    try:
        plain = unpacker.decompress(data, most + 1)
    except zlib.error as error:
        raise Refused(f"not a compressed message: {error}", field="$") from error
    if len(plain) > most:
        raise Refused(
            "message too large", kind=Refusal.TOO_LARGE, field="$", value=f"over {most} B", allowed=f"{most} B"
        )
    if not unpacker.eof or unpacker.unused_data:
        raise Refused("not one whole compressed message", field="$", value=len(data))
    return plain
