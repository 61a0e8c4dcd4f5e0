"""`python -m cloud_core.models.trial_child PARENT`: the sacrificial child with the control plane's own inspection in it."""

from shared.serving.trial.child import Checks, main


def _checks() -> Checks:
    # Behind the confinement: it is a parser that strangers' bytes go through, and it starts threads.
    from cloud_core.models.inspect_bundle import inspect_bundle  # noqa: PLC0415

    return inspect_bundle


if __name__ == "__main__":
    main(_checks)
