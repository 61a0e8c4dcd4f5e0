"""Makes the shipped bundles of their sources, by the importer, as any other model's bundle is made.

    python -m examples.shipped_models.release                     # all of them, of what is committed
    python -m examples.shipped_models.release NAME FOLDER         # of a source folder an export just wrote

What is committed of a source lies in `sources/NAME`: for a model of our own training its description, notes and golden inputs. Its
fp32 program, tokenizer and CRF are in the bundle already, byte for byte as they were exported, and are not kept twice.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = Path(__file__).parent / "sources"
SHIPPED = ROOT / "cloud_core" / "models" / "shipped"
DESCRIPTION = "model.json"
SMALL = (DESCRIPTION, "notes.md", "golden.json")
LARGE = ("model.fp32.onnx", "tokenizer.json", "crf.npz")
GOLDEN = "golden.jsonl"
"""Inputs to be asked beside the importer's own, for a source that is a hub's folder."""
OPTIONS = "import.json"
"""What else the import is asked for, such as other variants than the usual ones."""
VERSION = "1.0.0"


def names() -> list[str]:
    """The shipped models."""
    return sorted(folder.name for folder in SOURCES.iterdir() if folder.is_dir())


def source_of(name: str, into: Path, programs: Path | None = None) -> Path:
    """The whole source of a model as a folder to import; `programs` holds the large files, the bundle's folder unless given."""
    committed = SOURCES / name
    if not (committed / DESCRIPTION).is_file():
        return committed  # a Hugging Face folder, whole as it is
    into.mkdir(parents=True)
    for folder, files in ((committed, SMALL), (programs or SHIPPED / name, LARGE)):
        for file in files:
            if (folder / file).is_file():
                shutil.copyfile(folder / file, into / file)
    return into


def imported(name: str, source: Path, work: Path) -> Path:
    """The bundle that the importer makes of `source`; a process of its own, as in the cloud."""
    golden, options = SOURCES / name / GOLDEN, SOURCES / name / OPTIONS
    request = {
        "name": name,
        "version": VERSION,
        "said": f"examples/shipped_models/sources/{name}",
        "path": str(source),
        "golden": str(golden) if golden.is_file() else None,
    } | (json.loads(options.read_text()) if options.is_file() else {})
    work.mkdir(parents=True)
    asked = work / "request.json"
    asked.write_text(json.dumps(request))
    command = [sys.executable, "-m", "cloud_core.importer", str(asked), str(work / "import")]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    ended = json.loads(done.stdout.splitlines()[-1])
    if ended["type"] != "imported":
        raise SystemExit(f"{name}: {ended['message']}")
    return work / "import" / "bundle"


def release(name: str, trained: Path | None = None) -> Path:
    """Replace the committed bundle of a model, and, with `trained`, its committed source."""
    with tempfile.TemporaryDirectory() as folder:
        if trained is not None:
            (SOURCES / name).mkdir(exist_ok=True)
            for file in SMALL:
                if (trained / file).is_file():
                    shutil.copyfile(trained / file, SOURCES / name / file)
        bundle = imported(name, source_of(name, Path(folder) / "source", trained), Path(folder) / "work")
        shutil.rmtree(SHIPPED / name, ignore_errors=True)
        shutil.copytree(bundle, SHIPPED / name)
    return SHIPPED / name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="one model; all of them unless given")
    parser.add_argument("trained", nargs="?", type=Path, help="the folder that its export wrote")
    arguments = parser.parse_args()
    for name in [arguments.name] if arguments.name else names():
        print(release(name, arguments.trained))


if __name__ == "__main__":
    main()
