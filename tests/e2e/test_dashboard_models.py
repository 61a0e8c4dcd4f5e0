"""The models page in a real browser: an import whose bar moves without a reload, one that fails with its reason, and cards."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from cloud_core.store.database import migrate
from shared.bundle.manifest import Requirements, TaskKind, Variant
from tests.cloud_core.api.server import PASSWORD
from tests.cloud_core.ctl.importing import Site, site
from tests.e2e.test_dashboard import page  # noqa: F401 - a fixture

MEASURED = Variant(
    name="cpu-int8",
    runtime="onnx",
    precision="int8",
    files=("model.onnx",),
    requirements=Requirements(memory_bytes=200 << 20),
    measured={"load_ms": 412.5, "memory_bytes": 183e6, "ms_1x32": 5.71, "ms_8x128": 86.9},
    agreement={"labels": 0.991, "least_cosine": 0.99312, "batch_labels": 0.997},
    accepted_drift="labels 0.991",
)
FIELDS = {
    "task": TaskKind.TEXT_CLASSIFICATION,
    "labels": ("负面", "正面"),
    "source": {"kind": "modelscope", "id": "damo/nlp_structbert_sentiment-classification_chinese-base", "revision": "v1.0.1"},
    "variants": (MEASURED,),
}  # fmt: skip


class Backstage:
    """The server and the loop on a thread of their own: Playwright's synchronous face holds the test's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        url = f"sqlite+aiosqlite:///{folder / 'registry.db'}"
        self.run(migrate(url))
        self._site = site(url, folder)
        self.site: Site = self.run(self._site.__aenter__())

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def importing(self, source: Path, version: str) -> None:
        named = ("--name", "sentiment", "--version", version, "--description", "评价是好是坏", "--detach")
        ran = self.run(self.site.fleetctl("models", "import", str(source), *named))
        assert ran.status == 0, ran

    def close(self) -> None:
        self.run(self._site.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(scope="module")
def backstage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backstage]:
    made = Backstage(tmp_path_factory.mktemp("models"))
    yield made
    made.close()


def test_the_models_page_is_live(backstage: Backstage, page: Page) -> None:  # noqa: F811
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    here, gates = backstage.site, [backstage.folder / f"gate{i}" for i in range(2)]
    for gate in gates:
        gate.touch()
    page.goto(f"{here.api.url}/#models")
    page.get_by_label("Name").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("status")).to_have_text("live")
    expect(page.get_by_role("link", name="Models")).to_have_attribute("aria-current", "page")
    expect(page.get_by_text("No model yet.")).to_be_visible()
    expect(page.get_by_text("No import is under way.")).to_be_visible()

    steps = [
        ["say", "export cpu-fp32", 0.25],
        ["wait", str(gates[0])],
        ["say", "int8 <b>", 0.75],
        ["wait", str(gates[1])],
    ]
    source = here.source([*steps, ["bundle"], ["imported"]], name="sentiment", **FIELDS)
    backstage.importing(source, "1.0.0")
    card = page.locator("article[data-import]")
    expect(card).to_contain_text("sentiment@1.0.0 in progress")
    expect(card).to_contain_text("export cpu-fp32")
    bar = card.get_by_role("progressbar")
    before = float(bar.evaluate("bar => bar.value"))
    assert 0.2 < before < 0.4
    gates[0].unlink()
    expect(card).to_contain_text("int8 <b> of sentiment")
    assert float(bar.evaluate("bar => bar.value")) > before
    gates[1].unlink()

    model = page.locator("article[data-model=sentiment]")
    expect(model).to_contain_text("评价是好是坏")
    version = model.locator("details[data-version='sentiment@1.0.0']")
    for words in (
        "damo/nlp_structbert_sentiment-classification_chinese-base", "负面, 正面", "cpu-int8", "183 MB", "413 ms",
        "1×32: 5.71 ms", "8×128: 86.9 ms", "labels 99.1 %", "least cosine 0.99312", "let in below the bar", "same answer in any batch", "labels 99.7 %",
    ):  # fmt: skip
        expect(version).to_contain_text(words)
    expect(page.get_by_text("No import is under way.")).to_be_visible()

    reason = "3 of 200 labels differ:\n  这家店不错  正面 → 负面"
    failing = here.source([["failed", {"message": reason, "code": "golden-differs"}]], at="failing")
    backstage.importing(failing, "2.0.0")
    expect(card).to_contain_text("sentiment@2.0.0 failed")
    expect(card).to_contain_text("这家店不错")
    # What a person closed stays closed when something else changes.
    version.locator("summary").click()
    other = here.source([["bundle"], ["imported"]], at="other", name="sentiment", version="2.0.0", **FIELDS)
    backstage.importing(other, "2.0.0")
    expect(model.locator("details")).to_have_count(2)
    expect(model.locator("details").nth(0)).to_have_attribute("open", "")
    assert model.locator("details").nth(1).get_attribute("open") is None
    expect(card).to_have_count(0)
    page.get_by_role("link", name="Fleet").click()
    expect(page.get_by_text("No device yet.")).to_be_visible()
    expect(page.locator("#events")).to_contain_text("imports/sentiment@2.0.0 failed")
    assert problems == []
