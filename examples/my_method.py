"""A method, a score and a loss of your own, by name: what a module for `run.imports` looks like.

cd examples
aced methods --import my_method
aced train scenes run.imports=my_method method.name=gentle method.loss=smoothed reference.model=RUN/model
"""

import aced

# Learnability in which the reference counts half: s = loss of the student - 0.5 loss of the reference.
aced.register_score("gentle", student=1.0, reference=-0.5, about="hard for the student, not too hard for the reference")


@aced.register_loss("smoothed", scores="sigmoid", about="the sigmoid loss, with a tenth of the softmax loss")
def smoothed(pairs):
    """The student's embeddings of the batch, an `aced.Embeddings` with gradient, to a scalar."""
    return 0.9 * aced.losses.sigmoid(pairs) + 0.1 * aced.losses.softmax(pairs)


aced.register_method(
    aced.Method(
        name="gentle",
        title="Gentle",
        about="a gentle score, with softmax distillation on the same batch",
        score="gentle",
        distill="softmax",
        weight=2.0,
    )
)
