"""The tars of a pool: headers, indexes, manifests, and which of them a run has lost."""
