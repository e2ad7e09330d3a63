"""The training loop and its parts."""

from aced.calling import callable_package

callable_package(__name__)
