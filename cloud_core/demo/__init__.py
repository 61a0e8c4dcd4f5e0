"""`cloud-core demo`: the whole platform on loopback, and a tour of it that believes only what it observes."""
