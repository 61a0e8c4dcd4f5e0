"""The trial: a model is loaded and replayed in a process that may die before a process that must not die loads it."""
