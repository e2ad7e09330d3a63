"""The tars of a pool: headers, indexes, manifests, and lost tars."""
