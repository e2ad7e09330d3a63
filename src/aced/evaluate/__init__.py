"""Zero-shot evaluation: tasks, classification, retrieval."""

from aced.calling import callable_package

callable_package(__name__)
