"""Input texts in the log: only where asked for, at debug level, bounded, through every face's one door."""

import asyncio
from collections.abc import AsyncIterator

import structlog

from shared.serving.answer import Request, Response, Where
from shared.serving.input_log import MOST_CHARACTERS, MOST_TEXTS, with_inputs_logged


class Echo:
    async def answer(self, request: Request) -> Response:
        return Response(
            id=request.id,
            model=request.model,
            version="1.0.0",
            variant="v",
            digest="d",
            task="t",
            results=(),
            where=Where.LOCAL,
            why="w",
        )

    async def stream(self, request: Request) -> AsyncIterator[Response]:
        yield await self.answer(request)


def test_off_is_the_answer_itself() -> None:
    echo = Echo()
    assert with_inputs_logged(echo, structlog.get_logger(), on=False) is echo


def test_on_tells_a_bounded_part_of_every_request() -> None:
    async def main() -> None:
        with structlog.testing.capture_logs() as lines:
            answer = with_inputs_logged(Echo(), structlog.get_logger(), on=True)
            many = Request(id="r", tenant="t", model="m", texts=("长" * 10_000,) * 100)
            assert (await answer.answer(many)).id == "r"
            assert [piece.id async for piece in answer.stream(many)] == ["r"]
            await answer.answer(Request(id="r", tenant="t", model="m", tensors={}))
        assert [line["log_level"] for line in lines] == ["debug"] * 3
        assert lines[0]["texts"] == ["长" * MOST_CHARACTERS] * MOST_TEXTS
        assert lines[0]["count"] == 100
        assert lines[2]["texts"] == []

    asyncio.run(main())
