"""A trial in the test's own process: the same checks and the same replay, with no process started and nothing confined."""

from pathlib import Path

from shared.bundle.manifest import MANIFEST_FILE, parse_manifest
from shared.protocol.errors import Refused, TidelineError
from shared.protocol.reported import Isolation
from shared.serving.arrangement import Arrangement
from shared.serving.trial import contents, replay
from shared.serving.trial.verdict import Died, Passed, TrialRequest, Verdict


async def try_in_process(request: TrialRequest) -> Verdict:
    folder = Path(request.folder)
    data = request.manifest.encode() if request.manifest is not None else (folder / MANIFEST_FILE).read_bytes()
    try:
        manifest = parse_manifest(data)
        variant = manifest.variant(request.variant)
        contents.check_contents(manifest, variant, folder)
        if unrun := replay.lacking(variant):
            return Passed(isolation=Isolation.NONE, unrun=unrun)
        plain = request.manifest is not None and not manifest.inputs
        how = Arrangement(threads=request.threads, runtime=request.runtime, precision=request.precision)
        tried = replay.replay(manifest, variant, folder, arrangement=how, measure=request.measure, plain=plain)
    except replay.GoldenDiffersError as error:
        return Died(isolation=Isolation.NONE, code="golden-differs", message=str(error), differences=error.differences)
    except TidelineError as error:
        field = error.field if isinstance(error, Refused) else None
        return Died(isolation=Isolation.NONE, code=error.code, message=error.message, field=field)
    return Passed(isolation=Isolation.NONE, measured=tried.measured, inputs=tried.inputs, outputs=tried.outputs)
