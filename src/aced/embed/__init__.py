"""`aced embed`: the embeddings of a pool of tars by a frozen model, one side-car for each tar."""

from aced.calling import callable_package

callable_package(__name__)
