"""The naive start: Flask's own threaded server before transformers' BERT in torch eager mode, fp32, a request at a time."""

from typing import Any

import torch
from flask import Flask, jsonify, request
from transformers import BertConfig, BertForSequenceClassification
from werkzeug.serving import WSGIRequestHandler

from bench.encoder_weights import EPSILON, SHAPES, weights
from bench.peer_servers.arguments import INPUTS, arguments


def model_of(name: str) -> Any:
    """The encoder with the weights that the ONNX programs were made with."""
    shape = SHAPES[name]
    config = BertConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=shape.positions,
        num_labels=shape.labels,
        layer_norm_eps=EPSILON,
    )
    model = BertForSequenceClassification(config)
    known = {name: torch.from_numpy(value) for name, value in weights(shape).items()}
    lacking = model.load_state_dict(known, strict=False)
    if lacking.unexpected_keys or any("position_ids" not in key for key in lacking.missing_keys):
        raise SystemExit(f"the weights do not fit: {lacking}")
    return model.eval()


if __name__ == "__main__":
    told = arguments()
    torch.set_num_threads(told.threads)
    model = model_of(told.shape)
    app = Flask(__name__)

    @app.post("/predict")
    def predict() -> Any:
        given = request.get_json()
        with torch.no_grad():
            logits = model(**{name: torch.tensor([given[name]]) for name in INPUTS}).logits
        return jsonify(logits=logits[0].tolist())

    # Kept connections, as every other server has them.
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    app.run(host="127.0.0.1", port=told.port, threaded=True)
