"""The tour: each step does something real and holds only if the platform was observed to do it."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import numpy as np
from rich.console import Console
from rich.status import Status

from cloud_core.decide.liveness import Presence
from cloud_core.demo import sentences
from cloud_core.demo.fleet import Device, Fleet, applied, fleetctl, is_converged, standing
from cloud_core.demo.load import Outcome, load
from cloud_core.demo.observed import counts, expect, failure, is_alive, order
from cloud_core.demo.platform import ONE_CORE, ONLY_MQTT, Platform, wait_http
from cloud_core.models.shipped import shipped_models
from shared.protocol.errors import TidelineError, Transient, Unavailable
from shared.protocol.topics import Header

GROUP, POLICY = "shops", "near-first"
DEADLINE_MS = 300
EDGES = ("edge-1", "edge-2", "edge-3")
MQTT_EDGE = EDGES[2]
"""Once it is enrolled it has MQTT and nothing else."""


class Tour:
    """Runs the steps against a platform that is not started yet."""

    def __init__(
        self,
        platform: Platform,
        *,
        console: Console,
        session: aiohttp.ClientSession,
        password: str,
        environment: dict[str, str],
    ) -> None:
        self.platform = platform
        self.console = console
        self.session = session
        self.password = password
        self.environment = environment
        self.fleet = Fleet(session, platform.api)
        self.status = Status("", console=console)

    async def run(self) -> bool:
        """All steps in order; False at the first that does not hold, after saying why."""
        steps: tuple[tuple[str, Callable[[], Awaitable[str]]], ...] = (
            ("The cloud starts: api, gateway, loops, broker, replica", self.start_cloud),
            ("The shipped models are published", self.publish),
            ("Three edges enrol, each with a one-time token", self.enrol),
            ("Models and policy are rolled out over MQTT", self.roll_out),
            ("An edge answers Chinese text by itself", self.ask),
            ("Under load it saturates, and the cloud takes the overflow", self.saturate),
            ("The replica is killed: the edge goes on", self.kill_replica),
            ("The whole cloud is killed: the edge goes on", self.kill_cloud),
            ("The cloud comes back, and the fleet converges to a new policy", self.bring_back),
            ("Everybody can see it: fleetctl and the dashboard", self.look),
        )
        for number, (title, step) in enumerate(steps, start=1):
            self.status.update(f"[bold]{number}/{len(steps)}[/] {title}")
            self.status.start()
            try:
                said = await step()
            except TidelineError as error:
                self.status.stop()
                self.console.print(f"[red]✗ {number}/{len(steps)}[/] {title}\n  {error.message}")
                return False
            self.status.stop()
            self.console.print(f"[green]✓[/] [bold]{title}[/]\n  {said}", highlight=False, soft_wrap=True)
        return True

    async def start_cloud(self) -> str:
        """Step 1."""
        await self.platform.cloud.start()
        await self._cloud_is_up()
        await self.fleet.login(self.password)
        pids = ", ".join(f"{name} {pid}" for name, pid in self.platform.children_of_cloud().items())
        return f"processes: {pids}"

    async def publish(self) -> str:
        """Step 2."""
        shipped = shipped_models()
        for path in shipped:
            self._doing(f"publishing {path.name}")
            await self._fleetctl("models", "publish", str(path))
        listed = await self.fleet.call("GET", "/models")
        expect(
            {m["name"] for m in listed["items"]} >= {p.name for p in shipped}, f"the registry lists {listed['items']}"
        )
        return ", ".join(path.name for path in shipped)

    async def enrol(self) -> str:
        """Step 3."""
        await self.fleet.call("POST", "/groups", {"name": GROUP})
        for name in EDGES:
            made = await self.fleet.call("POST", "/devices", {"device": name, "groups": [GROUP]})
            settings = ONE_CORE | (ONLY_MQTT if name == MQTT_EDGE else {})
            await self.platform.start_edge(name, token=made["enrol_token"], settings=settings)
        online = await self.fleet.wait(
            lambda fleet: all(fleet[name]["presence"]["state"] == Presence.ONLINE for name in EDGES),
            seconds=60,
            what="birth of every edge",
            progress=self._show,
        )
        hardware = online[EDGES[0]]["hardware"] or {}
        return f"{', '.join(EDGES)} are online ({hardware.get('hardware_class', 'unknown hardware')})"

    async def roll_out(self) -> str:
        """Step 4."""
        # Nothing goes to the cloud for exercise: the tour says of each answer where it must come from.
        policy = {"mode": "local-first", "deadline_ms": DEADLINE_MS, "exercise_share": 0}
        await self.fleet.call("PUT", f"/policies/{POLICY}", policy)
        models = [{"name": path.name, "version": "1.0.0"} for path in shipped_models()]
        await self.fleet.call("PUT", f"/assignments/{GROUP}", {"models": models, "policy": POLICY})
        fleet = await self.fleet.wait(
            lambda fleet: all(is_converged(fleet[name]) for name in EDGES),
            seconds=90,
            what="every edge reporting its generation as applied",
            progress=self._show,
        )
        reported = fleet[EDGES[0]]["reported"]
        running = ", ".join(f"{m['name']}@{m['version']}/{m['variant']}" for m in reported["models"])
        sent = await self._sent_over_mqtt()
        expect(sent > 0, f"{MQTT_EDGE} got its models in another way than MQTT")
        said = f"generation {order(fleet[EDGES[0]])} applied on all three: {running}"
        return f"{said}\n  {MQTT_EDGE} has only MQTT: {sent / 1e6:.1f} MB of models and metadata came to it over that"

    async def ask(self) -> str:
        """Step 5: /predict, OIP and OpenAI's embeddings, each checked for sense and for where it was computed."""
        url, said = self.platform.edge_url(EDGES[0]), []
        for text, label in sentences.REVIEWS:
            answer, headers = await self._post(f"{url}/predict", {"task_type": "sentiment", "input_text": text})
            expect(answer["where"] == "local" and headers[Header.WHERE] == "local", f"answered by {answer['where']}")
            expect(answer["result"]["label"] == label, f"{text} was called {answer['result']}")
            said.append(f"{text} → {answer['result']['label']} {answer['result']['score']:.2f}")
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [sentences.REVIEWS[0][0]]}]}
        answer, headers = await self._post(f"{url}/v2/models/sentiment-zh/infer", body)
        outputs = {output["name"]: output["data"] for output in answer["outputs"]}
        expect(outputs["label"] == [sentences.REVIEWS[0][1]], f"OIP said {outputs}")
        answer, _ = await self._post(f"{url}/predict", {"task_type": "ner", "input_text": sentences.NEWS})
        found = {(e["type"], e["text"]) for e in answer["result"]["entities"]}
        expect(len(found & sentences.NEWS_ENTITIES) >= 2, f"entities found: {found}")
        said.append(f"{sentences.NEWS} → {', '.join(f'{text} {kind}' for kind, text in sorted(found))}")
        texts = [*sentences.NEAR, sentences.FAR]
        answer, _ = await self._post(f"{url}/v1/embeddings", {"model": "embed-zh", "input": texts})
        a, b, far = (np.asarray(item["embedding"]) for item in answer["data"])
        expect(float(a @ b) > float(a @ far), f"near {a @ b:.2f}, far {a @ far:.2f}")
        said.append(f"cosine of near sentences {a @ b:.2f}, of far ones {a @ far:.2f}")
        return "\n  ".join(said)

    async def saturate(self) -> str:
        """Step 6: twice as many callers each round until the edge hands over."""
        clients, outcome = 2, Outcome()
        while clients <= 256:
            outcome = await self._load(EDGES[0], clients=clients)
            self._doing(f"{clients} callers: {counts(outcome)}")
            if outcome.where["cloud"] > 0:
                expect(outcome.where["local"] > 0, "the edge answered nothing itself")
                return f"{clients} callers of 16 long texts each, {DEADLINE_MS} ms deadline: {counts(outcome)}"
            clients *= 2
        raise failure(f"no overflow: {counts(outcome)}, reasons {dict(outcome.why)}")

    async def kill_replica(self) -> str:
        """Step 7."""
        before = self.platform.children_of_cloud()["replica-0"]
        os.kill(before, signal.SIGKILL)
        await self._ask_every_edge()
        await self._until(
            lambda: self.platform.children_of_cloud().get("replica-0", before) != before, 30, "a new replica"
        )
        outcome = await self._overflow_works()
        after = self.platform.children_of_cloud()["replica-0"]
        return f"the supervisor replaced {before} by {after}, and the overflow is answered again: {counts(outcome)}"

    async def kill_cloud(self) -> str:
        """Step 8: kill -9 of the supervisor takes broker, gateway and all with it."""
        children = self.platform.children_of_cloud()
        await self.platform.cloud.kill()
        await self._until(lambda: not any(is_alive(pid) for pid in children.values()), 30, "the end of every child")
        await self._ask_every_edge()
        outcome = await self._load(EDGES[0], clients=2, requests=40)
        expect(outcome.where["local"] > 0 and outcome.where["cloud"] == 0, counts(outcome))
        return f"no broker, no gateway, no registry; a light load is answered all the same: {counts(outcome)}"

    async def bring_back(self) -> str:
        """Step 9."""
        await self.platform.cloud.start()
        await self._cloud_is_up()
        await self.fleet.login(self.password)
        before = {name: applied(device) for name, device in (await self.fleet.devices()).items()}
        policy = {"mode": "local-first", "deadline_ms": DEADLINE_MS + 50, "exercise_share": 0}
        await self.fleet.call("PUT", f"/policies/{POLICY}", policy)
        fleet = await self.fleet.wait(
            lambda fleet: all(is_converged(fleet[name]) and applied(fleet[name]) != before[name] for name in EDGES),
            seconds=90,
            what="the new policy on every edge",
            progress=self._show,
        )
        outcome = await self._overflow_works()
        return f"all at generation {order(fleet[EDGES[0]])}; overflow: {counts(outcome)}"

    async def look(self) -> str:
        """Step 10: what a person sees, and that it is live."""
        fleet = await self.fleet.wait(
            lambda fleet: all(fleet[name]["telemetry"] for name in EDGES), seconds=60, what="telemetry of every edge"
        )
        expect(all(fleet[name]["presence"]["state"] == Presence.ONLINE for name in EDGES), "an edge is not online")
        self.status.stop()
        self.console.print(await self._fleetctl("devices", "list"), highlight=False, markup=False, soft_wrap=True)
        async with self.session.get(f"{self.platform.api}/") as page:
            expect(page.status == 200 and "Tideline" in await page.text(), f"the dashboard answers {page.status}")
        headers = {"Authorization": f"Bearer {self.fleet.token}", "Last-Event-ID": "0"}
        async with self.session.get(f"{self.platform.api}/api/v1/events", headers=headers) as stream:
            expect(stream.status == 200, f"the event stream answers {stream.status}")
            async with asyncio.timeout(10):
                while not (await stream.content.readline()).startswith(b"data:"):
                    pass
        return f"dashboard: {self.platform.api}/ (user admin, password {self.password})"

    async def _sent_over_mqtt(self) -> float:
        async with self.session.get(f"{self.platform.api}/metrics") as answer:
            lines = (line.split() for line in (await answer.text()).splitlines())
            return sum(float(line[-1]) for line in lines if line and line[0] == "tideline_mqtt_content_bytes_total")

    async def _cloud_is_up(self) -> None:
        for url in (f"{self.platform.api}/ready", f"{self.platform.gateway}/live"):
            await wait_http(self.session, url, seconds=60)

    async def _ask_every_edge(self) -> None:
        for name in EDGES:
            text, label = sentences.REVIEWS[0]
            answer, _ = await self._post(
                f"{self.platform.edge_url(name)}/predict", {"task_type": "sentiment", "input_text": text}
            )
            expect(answer["where"] == "local" and answer["result"]["label"] == label, f"{name} answered {answer}")

    async def _overflow_works(self) -> Outcome:
        outcome = Outcome()
        for _ in range(20):
            outcome = await self._load(EDGES[0], clients=64)
            if outcome.where["cloud"] > 0:
                return outcome
            await asyncio.sleep(0.5)
        raise failure(f"no overflow is answered by the cloud: {counts(outcome)}, reasons {dict(outcome.why)}")

    async def _load(self, edge: str, *, clients: int, requests: int | None = None) -> Outcome:
        return await load(
            self.platform.edge_url(edge),
            model="sentiment-zh",
            texts=sentences.LOAD,
            clients=clients,
            batch=16,
            requests=requests or clients * 6,
            deadline_ms=DEADLINE_MS,
        )

    async def _post(self, url: str, body: object) -> tuple[Any, Any]:
        try:
            async with self.session.post(url, json=body, timeout=aiohttp.ClientTimeout(total=15)) as answer:
                if answer.status != 200:
                    raise failure(f"{url}: {answer.status} {(await answer.text())[:300]}")
                return await answer.json(), answer.headers
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Transient(f"{url}: {error or type(error).__name__}", why=Unavailable.UNREACHABLE) from error

    async def _fleetctl(self, *arguments: str) -> str:
        return await fleetctl(
            *arguments,
            url=self.platform.api,
            token=self.fleet.token,
            environment=self.environment,
            folder=self.platform.folder,
        )

    async def _until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not holds():  # noqa: ASYNC110 - other processes set no event of ours
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise failure(f"{what} did not happen within {seconds:g} s") from None

    def _show(self, fleet: dict[str, Device]) -> None:
        self._doing(" · ".join(f"{name} {standing(fleet[name])}" for name in EDGES if name in fleet))

    def _doing(self, text: str) -> None:
        title = str(self.status.status).partition(" [dim]")[0]
        self.status.update(f"{title} [dim]{text}[/]")
