"""Interface definitions and the stubs generated from them."""
