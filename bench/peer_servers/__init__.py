"""Peers under measurement: each module runs in an environment of its own, made of the `.txt` beside it, never in the project's."""
