"""`digits-bench`: a load generator, and the ladder from the bare engine to the wire that tells where time goes."""
