"""Prompt policies: the treatment of a text before tokenisation."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Literal, get_args

from aced.errors import AcedError, nearest

Policy = Literal["clip", "siglip"]
"""`clip`: texts unchanged. `siglip`: canonicalised, as in SigLIP's training."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def canonicalize(text: str) -> str:
    """Lower case, no punctuation, underscores and runs of white space as one space.

    The same as `open_clip.tokenizer.canonicalize_text` and big_vision's `canonicalize`.

    >>> canonicalize("A photo of a St. Bernard's_dog,  asleep. ")
    'a photo of a st bernards dog asleep'
    """
    return " ".join(text.replace("_", " ").translate(_PUNCTUATION).lower().split())


def apply_policy(policy: Policy, texts: Sequence[str]) -> list[str]:
    """The texts according to a policy."""
    return [canonicalize(text) for text in texts] if policy == "siglip" else list(texts)


def fill(template: str, name: str) -> str:
    """A template with a class name for `{c}`; other braces stay."""
    return template.replace("{c}", name)


def prompts_of(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """All prompts of some classes, class after class."""
    return [fill(template, name) for name in classes for template in templates]


def check_policy(policy: str) -> Policy:
    """The policy of a name.

    Raises:
        AcedError: there is no such policy.
    """
    for known in get_args(Policy):
        if policy == known:
            return known
    raise AcedError(f"There are no '{policy}' prompts.{nearest(policy, get_args(Policy))}")
