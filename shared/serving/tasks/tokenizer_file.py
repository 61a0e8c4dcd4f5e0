"""Reading a bundle's tokenizer: neither cut nor padded by itself, and composing its text (NFC) where the bundle says so."""

from pathlib import Path

from tokenizers import Tokenizer, normalizers

from shared.bundle.manifest import Manifest
from shared.protocol.errors import Corrupt


def read_tokenizer(manifest: Manifest, folder: Path) -> Tokenizer:
    """The tokenizer of the bundle installed in `folder`; any thread may encode with it.

    Raises:
        Corrupt: the bundle has no tokenizer, or one that cannot be read.

    """
    name = manifest.processing.tokenizer
    if name is None:
        raise Corrupt(f"{manifest.name}@{manifest.version} is a text model without a tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(folder / name))
    except Exception as error:
        # The tokenizers library raises bare Exception for whatever is wrong with the file.
        raise Corrupt(f"{name} cannot be read: {str(error)[:300]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if manifest.processing.nfc:
        own = tokenizer.normalizer
        # In the tokenizer and not before it, so that offsets stay those of the text as it came.
        tokenizer.normalizer = normalizers.NFC() if own is None else normalizers.Sequence([normalizers.NFC(), own])
    return tokenizer
