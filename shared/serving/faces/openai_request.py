"""What bodies in OpenAI's shapes say of the model and its inputs, and how their refusals are named."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import msgspec
from aiohttp import web

from shared.bundle.manifest import TaskKind
from shared.protocol.errors import Refusal, Refused
from shared.serving.answer import Request
from shared.serving.catalog import Listed, pick
from shared.serving.faces.context import Ports

_OURS = "parameters."


def texts_of(value: object, field: str) -> tuple[str, ...]:
    """A text, or a list of them; token ids are not taken.

    Raises:
        Refused: anything else.

    """
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise Refused("wrong type", field=field, value=type(value).__name__, allowed="a text or a list of texts")
    for i, text in enumerate(value):
        if not isinstance(text, str):
            raise Refused(
                "wrong type", field=f"{field}[{i}]", value=type(text).__name__, allowed="a text; no token ids"
            )
    return tuple(value)


def pinned(context: Request, model: str) -> Request:
    """`name@version` asks for that version, as `X-Tideline-Model` writes it; a gateway pins it so."""
    version = model.partition("@")[2]
    return msgspec.structs.replace(context, version=version) if version else context


def model_of_task(ports: Ports, context: Request, name: str, task: TaskKind) -> Listed:
    """The model a body names.

    Raises:
        Refused: unknown, or of another task (422).

    """
    model = pick(ports.catalog.models(context.tenant), name.partition("@")[0], context.version)
    if model.task is not task:
        raise Refused(
            f"the model is of task {model.task.value}",
            kind=Refusal.UNPROCESSABLE,
            field="model",
            value=name,
            allowed=f"a model of task {task.value}",
        )
    return model


def asked(
    context: Request, model: Listed, texts: tuple[str, ...], parameters: Mapping[str, object], request: web.Request
) -> Request:
    """The request to be answered."""
    size = request.content_length or sum(len(text) for text in texts)
    return msgspec.structs.replace(context, model=model.name, texts=texts, parameters=parameters, body_bytes=size)


def unsupported(field: str, value: object, allowed: str) -> Refused:
    """A value this server cannot honour."""
    return Refused("unsupported value", field=field, value=value, allowed=allowed)


@contextmanager
def named_as_sent(inputs: str) -> Iterator[None]:
    """Refusals inside the block name fields as OpenAI's bodies do: parameters stand at the top, texts are `inputs`."""
    try:
        yield
    except Refused as error:
        field = error.field or ""
        if field.startswith(_OURS):
            raise error.renamed(field.removeprefix(_OURS)) from error
        if field == "text" or field.startswith("texts"):
            raise error.renamed(inputs + field.removeprefix("text").removeprefix("s")) from error
        raise
