"""Load reports for balancers, as ORCA has them."""
