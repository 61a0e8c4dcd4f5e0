"""Tuning: the ways a version can be run on this machine are measured, in a process of their own, and the best one is remembered."""
