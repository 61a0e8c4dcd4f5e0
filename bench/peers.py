"""Our edge agent beside the servers one would otherwise take, in one run: throughput and p99 at 1, 8, 32 and 64 clients.

Peers: MLServer (adaptive batching), LitServe, NVIDIA Triton through nvidia-pytriton, and the naive start, Flask before torch in eager
mode. Each runs in an environment of its own that this benchmark installs (`bench.environments`); one that cannot be installed or
does not answer right is told of in the result's notes, and missed as a goal.

All serve the same int8 ONNX file (Flask: the same weights in fp32 torch) and are asked the same: one sequence of 32 ids a request,
with mask and types, as JSON, over kept connections. Ours is asked in the Open Inference Protocol's JSON, as MLServer and Triton are,
and serves the plain ONNX file as a tensor model: no tokenizer on any side. LitServe and Flask take plainer JSON of the same numbers.
Every server's first answer is held against ONNX Runtime's own.

Each peer is measured in its best arrangement: a scan looks at a few (sessions x threads, batch size, wait) at each number of clients,
and the fastest there is taken into the rounds for that number. Then five interleaved rounds, encoder by encoder, with all servers up;
the only one that takes CPU while it has nothing to do, LitServe, is stopped (SIGSTOP) between its turns. Client and server share
the cores. Each measurement ends with nothing under way.

A ratio is ours over theirs within a round. Goals: at 64 clients 2 times the best peer of each round on `small`, 1.4 times on
`base`; to each peer at each number of clients the whole 95 % interval above 1 in throughput and below 1 in p99. The p99 of a peer
whose answers take seconds is a lower bound: those that came after the measured time are not in it.
"""

import math
from collections.abc import Callable, Iterator

import onnxruntime

from bench import encoders, rounds
from bench.client import Measured, request
from bench.contestants import EDGE, PEERS, Peer, logits_of, surroundings
from bench.encoders import Encoder
from bench.environments import Environment, environment
from bench.findings import Findings
from bench.result import Result
from bench.servers import Answer, edge_agent, edge_arguments
from bench.stand import Contestant, Stand
from bench.throughput import CLIENTS, TEXTS, TOKENS, ids_body
from shared.io.free_ports import find_ports

OVER_BEST = {"small": 2.0, "base": 1.4}
SECONDS = {
    "small": dict(zip(CLIENTS, (1.5, 1.5, 2.0, 2.0), strict=True)),
    "base": dict(zip(CLIENTS, (2.5, 3.0, 4.0, 5.0), strict=True)),
}
SCANNED_S = {"small": 0.8, "base": 1.6}
OURS_STRAYS = 1e-3
NOTHING = Measured(
    answers=0,
    seconds=1.0,
    mean=math.nan,
    p50=math.nan,
    p95=math.nan,
    p99=math.nan,
    errors={},
    client_cpu=0,
    server_cpu=0,
)
PORTS = 4
"""Adjacent ones that a server may take."""


def run() -> Result:
    """Install what is missing, then both encoders, one after the other."""
    findings = Findings()
    findings.notes.append(f"the agent's flags: {edge_arguments() or 'none'}")
    missing: set[str] = set()
    installed: dict[str, Environment] = {}
    for peer in PEERS:
        try:
            installed[peer.name] = environment(peer.name)
            findings.versions[peer.name] = installed[peer.name].versions
        except RuntimeError as error:
            missing.add(peer.name)
            findings.notes.append(f"{peer.name} is missing: cannot be installed: {error}")
    for name in OVER_BEST:
        missing |= _one(encoders.encoder(name), installed, findings)
    findings.metrics["peers_missing"] = float(len(missing))
    findings.goals["peers_missing"] = ("<=", 0.0)
    return findings.result("peers")


def _one(encoder: Encoder, installed: dict[str, Environment], findings: Findings) -> set[str]:
    """All figures of one encoder; the peers that did not take part."""
    name = encoder.shape.name
    with Stand() as stand:
        stand.start(_ours(encoder))
        chosen: dict[str, dict[int, str]] = {EDGE: dict.fromkeys(CLIENTS, EDGE)}
        for peer in PEERS:
            if peer.name not in installed:
                continue
            try:
                chosen[peer.name] = _arranged(stand, peer, encoder, installed[peer.name], findings)
            except RuntimeError as error:
                findings.notes.append(f"{name}: {peer.name} is missing: {error}")
        turns = {f"{each}_c{clients}": (chosen[each][clients], clients) for clients in CLIENTS for each in chosen}

        def one(turn: str) -> Measured:
            server, clients = turns[turn]
            try:
                return stand.measure(server, clients=clients, seconds=SECONDS[name][clients])
            except RuntimeError as error:
                if server == EDGE:
                    raise
                # The others' figures are not lost with it; its own ratios are no numbers, and so are missed.
                findings.notes.append(f"{name}, {clients} clients: {error}")
                return NOTHING

        found = rounds.interleaved(list(turns), one)
    _compare(name, list(chosen), found, findings)
    return {peer.name for peer in PEERS} - set(chosen)


def _ours(encoder: Encoder) -> Contestant:
    port = find_ports("127.0.0.1", PORTS)
    path = f"/v2/models/{encoder.int8.stem}/infer"
    asked = tuple(request(path, ids_body(encoders.ids(text))) for text in encoders.texts(TEXTS, tokens=TOKENS))
    return Contestant(EDGE, edge_agent([encoder.int8], port=port), port, asked, _checked(encoder, OURS_STRAYS))


def _theirs(peer: Peer, encoder: Encoder, installed: Environment) -> Iterator[Contestant]:
    """The peer in each of its arrangements; ports are looked for when one is asked for, while those before it hold theirs."""
    asked = peer.requests(encoders.texts(TEXTS, tokens=TOKENS))
    check = _checked(encoder, peer.strays)
    for arranged in peer.arrangements[:1] if rounds.is_quick() else peer.arrangements:
        port = find_ports("127.0.0.1", PORTS)
        yield Contestant(
            name=f"{peer.name}: {arranged.name}",
            command=peer.command(encoder, port, arranged, python=str(installed.python)),
            port=port,
            requests=asked,
            check=check,
            environment=surroundings(),
            slowness=peer.slowness,
            restless=peer.restless,
        )


def _arranged(stand: Stand, peer: Peer, encoder: Encoder, installed: Environment, findings: Findings) -> dict[int, str]:
    """By number of clients, the server that was fastest in the scan; the others are ended.

    Raises:
        RuntimeError: none of its arrangements answers as it should.

    """
    rates: dict[str, dict[int, float]] = {}
    shape = encoder.shape.name
    for each in _theirs(peer, encoder, installed):
        try:
            stand.start(each)
        except RuntimeError as error:
            findings.notes.append(f"{shape}: {each.name}: {error}")
            continue
        seconds = SCANNED_S[shape]
        rates[each.name] = {n: stand.measure(each.name, clients=n, seconds=seconds).rate for n in CLIENTS}
    if not rates:
        raise RuntimeError("no arrangement answers as it should")
    best = {clients: max(rates, key=lambda name: rates[name][clients]) for clients in CLIENTS}
    for clients, name in best.items():
        findings.notes.append(f"{shape}, {clients} clients: {name} ({rates[name][clients]:.0f}/s in the scan)")
    for name in set(rates) - set(best.values()):
        stand.end(name)
    return best


def _checked(encoder: Encoder, strays: float) -> Callable[[Answer], None]:
    """What raises RuntimeError where a server's first answer is not that of ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(str(encoder.int8), providers=["CPUExecutionProvider"])
    text = encoders.texts(TEXTS, tokens=TOKENS)[0]
    wanted = session.run(["logits"], dict(encoders.feeds([encoders.ids(text)])))[0][0].tolist()

    def check(answer: Answer) -> None:
        difference = max(abs(a - b) for a, b in zip(wanted, logits_of(answer.body), strict=True))
        if not difference <= strays:
            raise RuntimeError(f"its answer differs from the program's by {difference:.3g}, allowed is {strays:g}")

    return check


def _compare(name: str, contestants: list[str], found: dict[str, list[Measured]], findings: Findings) -> None:
    for clients in CLIENTS:
        at = f"{name}_c{clients}"
        rate = {each: [one.rate for one in found[f"{each}_c{clients}"]] for each in contestants}
        p99 = {each: [one.p99 for one in found[f"{each}_c{clients}"]] for each in contestants}
        for each in contestants:
            findings.figure(f"{at}_{each}_rate", rate[each])
            findings.figure(f"{at}_{each}_p99_ms", p99[each])
            _count_errors(f"{at}_{each}", found[f"{each}_c{clients}"], findings)
        peers = [each for each in contestants if each != EDGE]
        for peer in peers:
            findings.ratio(f"{at}_throughput_to_{peer}", rate[EDGE], rate[peer], whole=(">", 1.0))
            findings.ratio(f"{at}_p99_to_{peer}", p99[EDGE], p99[peer], whole=("<", 1.0))
        if clients == max(CLIENTS) and peers:
            best = [max(each) for each in zip(*(rate[peer] for peer in peers), strict=True)]
            findings.ratio(f"{at}_throughput_to_best", rate[EDGE], best, goal=(">=", OVER_BEST[name]))


def _count_errors(at: str, found: list[Measured], findings: Findings) -> None:
    failed: dict[str, int] = {}
    for each in found:
        for what, count in each.errors.items():
            failed[what] = failed.get(what, 0) + count
    if failed:
        findings.notes.append(f"{at}: errors by status {failed}")
    if at.endswith(f"_{EDGE}"):
        findings.metrics[f"{at}_errors"] = float(sum(failed.values()))
        findings.goals[f"{at}_errors"] = ("<=", 0.0)
