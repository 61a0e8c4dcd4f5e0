"""`/api/v1/models`: model names. Their versions are in `versions`."""

import msgspec

from cloud_core.api.paging import QUERY, after_of, limit_of, page_of
from cloud_core.api.routes import Call, Needs, Page, Reply, Route, Scope, absent, conflict
from cloud_core.decide.access import Resource, Verb
from cloud_core.store import models, versions
from cloud_core.store.models import Model
from shared.protocol import names

PATH = "/api/v1/models"
LONGEST_TEXT = 4096


class NewModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to make."""

    name: str
    description: str = ""


class ModelView(msgspec.Struct, frozen=True, kw_only=True):
    """One model and its versions, oldest first."""

    name: str
    description: str
    revision: int
    created_at: float
    versions: tuple[str, ...]


async def listed(call: Call) -> Reply:
    """A page of models."""
    limit = limit_of(call)
    found = await models.page(call.connection, call.tenant, after=after_of(call), limit=limit + 1)
    held: dict[str, tuple[str, ...]] = {}
    for name, version in await versions.names_of(call.connection, call.tenant, [model.name for model in found]):
        held[name] = (*held.get(name, ()), version)
    page = page_of(found, limit, key=lambda model: model.name, view=lambda m: _view(m, held.get(m.name, ())))
    return Reply(value=page)


async def created(call: Call) -> Reply:
    """A new model."""
    body: NewModel = call.body
    name = names.checked("model", body.name, field="name")
    model = await models.create(
        call.connection, call.tenant, name, description=body.description[:LONGEST_TEXT], now=call.now
    )
    if model is None:
        raise conflict("there is a model of that name", field="name", value=name)
    return Reply(value=_view(model, ()), status=201, revision=model.revision, location=f"{PATH}/{name}", name=name)


async def shown(call: Call) -> Reply:
    """One model."""
    model = await _found(call)
    held = await versions.of_model(call.connection, call.tenant, model.name)
    return Reply(value=_view(model, tuple(version.version for version in held)), revision=model.revision)


async def deleted(call: Call) -> Reply:
    """Hide a model without versions."""
    model = await _found(call, lock=True)
    call.match(model.revision)
    if await versions.of_model(call.connection, call.tenant, model.name):
        raise conflict("the model still has versions", field="model", value=model.name, code="in-use")
    await models.delete(call.connection, call.tenant, model.name, now=call.now)
    return Reply()


async def _found(call: Call, *, lock: bool = False) -> Model:
    name = call.segment("model")
    model = await models.get(call.connection, call.tenant, name, lock=lock)
    if model is None:
        raise absent("model", name)
    return model


def _view(model: Model, held: tuple[str, ...]) -> ModelView:
    return ModelView(versions=held, **msgspec.structs.asdict(model))


def routes() -> tuple[Route, ...]:
    """The rows of this resource."""
    read, create, delete = (Needs(verb, Resource.MODELS) for verb in (Verb.READ, Verb.CREATE, Verb.DELETE))
    return (
        Route(
            method="GET", path=PATH, access=read, scope=Scope.READ, run=listed, query=QUERY,
            summary="Models, by name", answer=Page[ModelView],
        ),
        Route(
            method="POST", path=PATH, access=create, scope=Scope.WRITE, run=created, body=NewModel, status=201,
            summary="Make a model", answer=ModelView,
        ),
        Route(
            method="GET", path=PATH + "/{model}", access=read, scope=Scope.READ, run=shown,
            summary="One model", answer=ModelView,
        ),
        Route(
            method="DELETE", path=PATH + "/{model}", access=delete, scope=Scope.WRITE, run=deleted, status=204,
            summary="Hide a model that has no versions",
        ),
    )  # fmt: skip
