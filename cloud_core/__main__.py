"""`python -m cloud_core`."""

from cloud_core.cli import main

main()
