"""Models: one interface to open_clip and the demo family, and the cost of a forward pass."""

from aced.models.compat import ensure_torchvision, import_open_clip
from aced.models.flops import Flops
from aced.models.model_loading import load_recipe, load_tower, outline, save_tower
from aced.models.own_tower import OwnTower, own_tower
from aced.models.recipes import trained_recipe
from aced.models.tokenizers import WordTokenizer
from aced.models.tower import Tower

__all__ = [
    "Flops",
    "OwnTower",
    "Tower",
    "WordTokenizer",
    "ensure_torchvision",
    "import_open_clip",
    "load_recipe",
    "load_tower",
    "outline",
    "own_tower",
    "save_tower",
    "trained_recipe",
]
