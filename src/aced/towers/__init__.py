"""Models: one interface over open_clip, the demo family, and what a forward pass costs."""

from aced.towers.compat import ensure_torchvision, import_open_clip
from aced.towers.flops import Flops
from aced.towers.loading import load_recipe, load_tower, outline, save_tower
from aced.towers.own import OwnTower, own_tower
from aced.towers.recipes import trained_recipe
from aced.towers.tokenizers import WordTokenizer
from aced.towers.tower import Tower

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
