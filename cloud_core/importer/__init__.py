"""The importer: a program of its own that turns a source into a bundle. It alone loads torch, modelscope and transformers."""
