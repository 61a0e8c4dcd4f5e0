"""Trust in model versions: each tenant's TUF repository, signed here as far as its keys are here."""
