"""`python -m cloud_core.ctl`: fleetctl where its script is not on the path."""

from cloud_core.ctl.cli import main

main()
