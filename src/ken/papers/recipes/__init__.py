"""The recipes there are, one file a paper: how each trains a user's model on a user's data."""

from ken.core import BadInput
from ken.papers.catalogue import entry
from ken.papers.recipe import Recipe
from ken.papers.recipes import adasearch, convsearch_r1, ikea, knowrl, r3_rag, search_r1, tapo

_ALL = (search_r1, adasearch, ikea, tapo, convsearch_r1, r3_rag, knowrl)
RECIPES: dict[str, Recipe] = {module.recipe.slug: module.recipe for module in _ALL}


def recipe_of(paper: str) -> Recipe:
    """The recipe of a paper, by slug, name or number. Raises `BadInput` for one that has none."""
    found = entry(paper)
    if found.slug not in RECIPES:
        raise BadInput(
            f"{found.name} has no recipe for a model of your own yet; those that have one: {', '.join(RECIPES)}"
        )
    return RECIPES[found.slug]
