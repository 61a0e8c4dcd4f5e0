"""When two requests ask the same: one keyed hash over their items and parameters.

Two inputs that differ in any byte, shape, datatype, name, order or parameter differ in their key. The key says nothing of the
input to whoever lacks the secret, so what is kept under it tells nobody what was asked.
"""

import hashlib
from collections.abc import Iterable

import msgspec
import numpy as np

from shared.serving.answer import Array, Request

SECRET_BYTES = 32


def input_size(request: Request) -> int:
    """What hashing would read, in bytes, or code points of texts."""
    if request.texts is not None:
        return sum(map(len, request.texts))
    return sum(_size(array) for array in (request.tensors or {}).values())


def input_key(request: Request, secret: bytes) -> bytes | None:
    """32 bytes for the request's items and parameters; None where a value cannot be told apart from others for certain."""
    state = hashlib.blake2b(key=secret, digest_size=32)
    try:
        state.update(msgspec.msgpack.encode(request.parameters, order="deterministic"))
        for part in _parts(request):
            # Its length first, so that no two sequences of parts make the same stream of bytes.
            state.update(len(part).to_bytes(8, "little"))
            state.update(part)
    except (TypeError, ValueError, OverflowError):
        # A parameter no message can carry, or a text that is no text: the task refuses it, or computes it every time.
        return None
    return state.digest()


def _parts(request: Request) -> Iterable[bytes | memoryview]:
    if request.texts is not None:
        yield b"texts"
        for text in request.texts:
            yield text.encode()
        return
    yield b"tensors"
    for name, array in sorted((request.tensors or {}).items()):
        yield name.encode()
        yield f"{array.dtype.name} {array.dtype.str}".encode()
        yield repr(array.shape).encode()
        yield from _elements(array) if array.dtype.kind == "O" else (_bytes(array),)


def _bytes(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _elements(array: Array) -> Iterable[bytes]:
    for each in array.ravel():
        if isinstance(each, str):
            yield b"s" + each.encode()
        elif isinstance(each, bytes):
            yield b"b" + each
        else:
            raise TypeError(type(each).__name__)


def _size(array: Array) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return sum(len(each) if isinstance(each, str | bytes) else 1 for each in array.ravel())
