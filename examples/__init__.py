"""Runnable examples of Tideline; nothing here is imported by the platform."""
