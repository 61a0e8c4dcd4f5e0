"""A SiameseUIE folder in the hub's form: seeded random weights, scaled so that some tokens begin and end something."""

from pathlib import Path

from tests.importing.folders import Drawn, Shape, bert, save, started, write_json

JOINT_LAYERS = 6


def siamese_uie(
    folder: Path,
    *,
    layers: int = 7,
    positions: int = 512,
    mixing: float = 0.2,
    biases: tuple[float, float] = (-2.0, 0.5),
    seed: int = 24,
) -> Path:
    """`layers` in all, the upper six of which text and hint go through together; `biases` of the heads, beginning and end."""
    vocabulary = started(folder).vocabulary
    shape, drawn = Shape(vocabulary=vocabulary, layers=layers, positions=positions), Drawn(seed)
    write_json(
        folder / "configuration.json",
        {
            "framework": "pytorch",
            "task": "siamese-uie",
            "preprocessor": {"type": "siamese-uie-preprocessor"},
            "model": {"type": "bert"},
            "pipeline": {"type": "siamese-uie"},
        },
    )
    write_json(folder / "config.json", shape.config(model_type="bert"))
    weights = {_named(name, layers): value for name, value in bert(shape, drawn, prefix="plm.").items()}
    # So many layers of random attention would make every token of a text alike.
    weights |= {name: value * mixing for name, value in weights.items() if ".attention.output.dense." in name}
    for head, bias in zip(("head_clsf", "tail_clsf"), biases, strict=True):
        weights |= drawn.linear(head, shape.hidden, 1, gain=3.0)
        weights[f"{head}.bias"] += bias
    save(folder, weights)
    return folder


def _named(name: str, layers: int) -> str:
    """Where the model keeps a layer: the upper ones are not the encoder's own."""
    first, _, rest = name.partition("plm.encoder.layer.")
    if first or not rest:
        return name
    layer, _, inner = rest.partition(".")
    joint = int(layer) - (layers - JOINT_LAYERS)
    return name if joint < 0 else f"crossattention.layer.{joint}.{inner}"
