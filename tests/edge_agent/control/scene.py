"""Bundles and generations that the convergence tests share."""

from shared.protocol.policy import Policy
from shared.protocol.reported import Convergence
from tests.edge_agent.control.generations import generation, ref
from tests.shared.bundle.bundles import bundle

_, OLD_DATA, OLD, OLD_CHUNKS = bundle()
NEW_MANIFEST, NEW_DATA, NEW, NEW_CHUNKS = bundle(version="1.1.0")
_, NER_DATA, NER, NER_CHUNKS = bundle("ner-zh")
BYTES = {OLD: OLD_DATA, NEW: NEW_DATA, NER: NER_DATA, **OLD_CHUNKS, **NEW_CHUNKS, **NER_CHUNKS}
ONE = generation(1, ref(OLD), ref(NER, "ner-zh"), policy=Policy(deadline_ms=100.0))
TWO = generation(2, ref(NEW, version="1.1.0"), ref(NER, "ner-zh"), policy=Policy(deadline_ms=200.0))


def applied(of):
    return lambda report: report.applied == of.order and report.convergence is Convergence.APPLIED


def failed(report):
    return report.convergence is Convergence.FAILED
