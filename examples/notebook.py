"""What the cells of a notebook would hold: a config, a run that is watched and ended early, its scores, its model.

python examples/notebook.py
"""

# %%
import aced
from aced.lab.scenes import make_tasks

STEPS, SIZE, OUT = 60, 1000, "runs/notebook"

# %% A recipe with some keys changed; aced.make_config takes a nested dict instead.
config = aced.load_config(
    "scenes",
    ["method.name=iid", f"train.steps={STEPS}", f"data.scenes_size={SIZE}", "train.batch=32", f"run.out={OUT}"],
)

# %% Train. What is called behind each step may plot, log, or end the run.
losses = []


def watch(step: aced.Step):
    """Collect the losses, and end the run after half of its steps."""
    losses.append(step.loss)
    return step.number < step.steps // 2  # False: this step is the last


done = aced.train(config, on_step=watch, tasks=make_tasks("validation")[:1])
print(
    f"{done.step} of {config.train.steps} steps, loss {losses[0]:.2f} to {losses[-1]:.2f}: {done.scores.average:.1f} %"
)

# %% The trained model, now or later.
scores = aced.evaluate(done.folder / "model", make_tasks("test")[:1])
print({name: round(result.value, 3) for name, result in scores.results.items()})
