"""Import a model from the ModelScope hub by its id. Needs a way to the hub.

python -m examples.05_import_from_modelscope [ID[@REVISION]]   # needs tideline[cloud,import]
"""

import sys

from examples.small_cloud import small_cloud

SENTIMENT = "damo/nlp_structbert_sentiment-classification_chinese-base"


def main() -> None:
    """Import it, and show the card."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else SENTIMENT
    with small_cloud() as cloud:
        cloud.fleetctl("models", "import", f"modelscope:{wanted}", "--name", "from-the-hub", "--version", "1.0.0")
        cloud.fleetctl("models", "show", "from-the-hub", "1.0.0")


if __name__ == "__main__":
    main()
