"""How the small Chinese models in cloud_core/models/shipped were made: grammars, training, export."""
