"""One module per kind of model: a checked folder becomes an `Opened`."""
