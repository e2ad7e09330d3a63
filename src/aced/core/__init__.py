"""The innermost ring: mathematics on tensors. Imports only torch and the standard library."""
