"""Stands in for the importer, as a real program that speaks its wire: plays what the source's `play.json` says, step by step."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def say(kind: str, **fields: object) -> None:
    print(json.dumps({"type": kind, **fields}), flush=True)


def play(request: dict, work: Path) -> None:
    source = Path(request["path"])
    for action, *arguments in json.loads((source / "play.json").read_text()):
        match action:
            case "say":
                step, done = arguments
                say("progress", step=step, done=done, detail=f"{step} of {request['name']}")
            case "print":
                print(arguments[0], flush=True)
            case "complain":
                print(arguments[0], file=sys.stderr, flush=True)
            case "wait":
                while Path(arguments[0]).exists():
                    time.sleep(0.01)
            case "bundle":
                (work / "bundle").mkdir()
                for name in ("manifest.json", "model.onnx"):
                    (work / "bundle" / name).write_bytes((source / name).read_bytes())
            case "link":
                (work / "bundle" / "linked").symlink_to("/etc/passwd")
            case "imported":
                say("imported", digest="0" * 64)
            case "failed":
                say("failed", **arguments[0])
            case "signal":
                os.kill(os.getpid(), getattr(signal, arguments[0]))
            case "exit":
                sys.exit(arguments[0])
            case "hang":
                # With a child of its own, as a trial would be.
                if os.fork() == 0:
                    time.sleep(1000)
                print(arguments[0], flush=True)
                time.sleep(1000)
            case "eat":
                held = []
                while True:
                    held.append(bytearray(os.urandom(1 << 20)) * 8)
                    time.sleep(0.005)
            case "fill":
                for i in range(1000):
                    (work / f"part{i}").write_bytes(b"x" * (1 << 20))
                    time.sleep(0.01)
            case "tell":
                secret, elsewhere = map(Path, arguments)
                told = {
                    "environment": dict(os.environ),
                    "request": request,
                    "modes": {str(p.relative_to(work)): p.stat().st_mode & 0o777 for p in work.rglob("*")},
                    "secret": _tried(secret.read_text),
                    "parent": _tried(Path(f"/proc/{os.getppid()}/environ").read_text),
                    "network": _tried(lambda: socket.create_connection(("127.0.0.1", 1), 5)),
                    "write": _tried(lambda path=elsewhere: path.write_text("x")),
                    "group": os.getpgid(0) == os.getpid(),
                }
                say("failed", message=json.dumps(told), code="told")


def _tried(act) -> str:
    try:
        return str(act())
    except OSError as error:
        return type(error).__name__


if __name__ == "__main__":
    play(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
