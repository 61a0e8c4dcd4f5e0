"""Import a ModelScope folder on disk: exported, quantized, proven against ModelScope's own pipeline, published.

python -m examples.02_import_a_modelscope_folder FOLDER        # needs tideline[cloud,import]

FOLDER holds `configuration.json`, `config.json`, `vocab.txt` and the weights, as the hub keeps them: StructBERT and BERT
classification, RaNER and other taggers, GTE embeddings, SiameseUIE. Without FOLDER, a small random BERT is written first.
"""

import json
import sys
import tempfile
from pathlib import Path

from examples.small_cloud import small_cloud


def random_classifier(folder: Path) -> Path:
    """A tiny sentiment model in the hub's form; its weights are random, its answers mean nothing."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"的一是不了在人有我他这中大来上个国好坏快慢冷热，。！？"]
    sizes = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    weights = {f"encoder.{name}": tensor for name, tensor in BertModel(sizes).state_dict().items()}
    weights |= {"head.classifier.weight": torch.randn(2, 32), "head.classifier.bias": torch.zeros(2)}
    torch.save(weights, folder / "pytorch_model.bin")
    fields = sizes.to_dict() | {"model_type": "structbert"}
    configuration = {
        "framework": "pytorch",
        "task": "text-classification",
        "preprocessor": {"type": "sen-cls-tokenizer", "first_sequence": "sentence"},
        "model": {
            "type": "text-classification",
            "backbone": {**fields, "type": "structbert", "prefix": "encoder"},
            "head": {"type": "text-classification", "hidden_dropout_prob": 0.1, "hidden_size": 32},
        },
        "pipeline": {"type": "sentiment-classification"},
    }
    (folder / "configuration.json").write_text(json.dumps(configuration))
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "label_mapping.json").write_text(json.dumps({"负面": 0, "正面": 1}, ensure_ascii=False))
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def main() -> None:
    """Import it, and show the card."""
    with tempfile.TemporaryDirectory() as scratch, small_cloud() as cloud:
        folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else random_classifier(Path(scratch))
        cloud.fleetctl("models", "import", str(folder), "--name", "my-classifier", "--version", "1.0.0")
        cloud.fleetctl("models", "show", "my-classifier", "1.0.0")


if __name__ == "__main__":
    main()
