"""Metrics of what is in memory; labels are models and versions, as everywhere in the engine."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class ResidencyMetrics:
    """One per program."""

    def __init__(self, registry: CollectorRegistry) -> None:
        version = ("model", "version")
        self.budget = Gauge(
            "tideline_memory_budget_bytes", "What the programs of models may take; 0 is no bound", registry=registry
        )
        self.resident = Gauge(
            "tideline_model_resident_bytes",
            "Bytes a model version's program is believed to take; 0 while it is not in memory",
            version,
            registry=registry,
        )
        self.evictions = Counter(
            "tideline_model_evictions", "How often a program was put out of memory", version, registry=registry
        )
        self.reloads = Counter(
            "tideline_model_reloads",
            "How often a program was brought back into memory, by how it ended",
            (*version, "outcome"),
            registry=registry,
        )
        self.recycled = Counter(
            "tideline_model_recycled",
            "How often a program was made anew because the process had grown",
            version,
            registry=registry,
        )
