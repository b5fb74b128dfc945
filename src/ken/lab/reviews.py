"""A world of customer reviews: products, what is said of them, and questions about what most customers say (card 38,
Miniature claim check).

Every review speaks of one or two aspects of its product, well or badly, between small talk. What the customers of a
product think of an aspect is not a fact of any one review but of all of them: it is counted, over the reviews that
there are, and so it is known for every question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import Literal

import numpy as np
from pydantic import Field

from ken.core.explained import Explained
from ken.core.question import Question
from ken.core.seeding import derive_seed
from ken.core.steps import Passage
from ken.lab.names import invented_names

Verdict = Literal["mostly positive", "mixed", "mostly negative", "not mentioned"]
VERDICTS: tuple[Verdict, ...] = ("mostly positive", "mixed", "mostly negative", "not mentioned")
MOSTLY = 2 / 3  # of the mentions, at least
SHARES = (0.1, 0.5, 0.9)  # of positive mentions, from which every aspect of a product draws one
_TRIES = 20
NAMES = 400  # that products of all worlds can have

# By aspect: what is said of it when it is good, and when it is bad.
WORDINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "battery": (
        (
            "The battery lasts for two full days.",
            "I only charge it once a week.",
            "Great battery life even with heavy use.",
            "It never runs out of power on a trip.",
            "The battery charges fully within an hour.",
            "Power lasts much longer than promised.",
            "After a long day the battery is still half full.",
            "I am impressed by how long a charge holds.",
        ),
        (
            "The battery dies before noon.",
            "I have to charge it three times a day.",
            "Terrible battery life even when idle.",
            "It runs out of power on every trip.",
            "The battery takes all night to charge.",
            "Power drains much faster than promised.",
            "After one hour the battery is nearly empty.",
            "I am annoyed by how quickly the charge drops.",
        ),
    ),
    "camera": (
        (
            "The camera takes sharp and bright photos.",
            "Pictures look stunning even at night.",
            "The zoom is smooth and the photos stay crisp.",
            "My holiday pictures came out beautifully.",
            "The camera focuses in an instant.",
            "Colours in photos are rich and natural.",
            "Video from the camera is steady and clear.",
            "Portrait shots look professional.",
        ),
        (
            "The camera takes dark and grainy photos.",
            "Pictures look awful as soon as it gets dim.",
            "The zoom is useless and the photos turn muddy.",
            "My holiday pictures came out blurred.",
            "The camera hunts for focus forever.",
            "Colours in photos are washed out.",
            "Video from the camera is shaky and noisy.",
            "Portrait shots look like cheap webcam frames.",
        ),
    ),
    "price": (
        (
            "The price is very fair for what you get.",
            "Worth every cent I paid.",
            "I found it cheaper than any rival.",
            "Excellent value for the money.",
            "The discount made it a real bargain.",
            "It costs half of what others ask.",
            "A low price without any hidden fees.",
            "My wallet thanks me for this purchase.",
        ),
        (
            "The price is far too high for what you get.",
            "Not worth the money I paid.",
            "I found it dearer than any rival.",
            "Poor value for the money.",
            "The hidden fees made it a rip off.",
            "It costs twice what others ask.",
            "An absurd price that nobody should pay.",
            "My wallet regrets this purchase.",
        ),
    ),
    "delivery": (
        (
            "Delivery was quick and the box was intact.",
            "The parcel arrived one day early.",
            "Shipping took only two days.",
            "The courier was friendly and on time.",
            "It was delivered exactly when they said.",
            "The package came well wrapped and safe.",
            "Fast shipping with accurate tracking.",
            "It reached my door the next morning.",
        ),
        (
            "Delivery was slow and the box was crushed.",
            "The parcel arrived two weeks late.",
            "Shipping took more than a month.",
            "The courier was rude and left it outside.",
            "It was delivered to the wrong address.",
            "The package came torn and wet.",
            "Slow shipping with broken tracking.",
            "It got lost on the way to my door.",
        ),
    ),
    "screen": (
        (
            "The screen is bright and easy to read.",
            "The display shows vivid detail.",
            "Text on the screen is perfectly sharp.",
            "I can read the display in full sunlight.",
            "Touch on the screen responds at once.",
            "The panel is large and evenly lit.",
            "Films look wonderful on this display.",
            "The glass resists scratches very well.",
        ),
        (
            "The screen is dim and hard to read.",
            "The display shows dead pixels.",
            "Text on the screen is always fuzzy.",
            "I cannot read the display in sunlight.",
            "Touch on the screen often fails.",
            "The panel is tiny and badly lit.",
            "Films look dull on this display.",
            "The glass scratches at the slightest touch.",
        ),
    ),
    "support": (
        (
            "Customer support answered within minutes.",
            "The help desk solved my problem at once.",
            "The agent on the phone was patient and kind.",
            "They replaced my unit under warranty without questions.",
            "The support team really knows its job.",
            "My email got a helpful reply the same day.",
            "The service staff went out of their way for me.",
            "A refund was arranged by support in one call.",
        ),
        (
            "Customer support never answered.",
            "The help desk made my problem worse.",
            "The agent on the phone was impatient and cold.",
            "They refused to honour the warranty on my unit.",
            "The support team has no idea of its job.",
            "My email is still without a reply.",
            "The service staff kept sending me in circles.",
            "A refund was denied by support after ten calls.",
        ),
    ),
}
ASPECTS = tuple(WORDINGS)

SMALL_TALK = (
    "I bought this as a gift for my sister.",
    "My neighbour has the same one.",
    "This is my second year with this brand.",
    "I ordered it after reading about it online.",
    "We use it at home and at work.",
    "It was a present from my parents.",
    "I wrote this after two months of use.",
    "My old one was five years old.",
    "I chose the blue version.",
    "My children like to play with it.",
    "I usually do not write reviews.",
    "We took it with us on holiday.",
    "I had seen it in a shop before.",
    "A friend told me about it.",
    "I use it nearly every evening.",
    "It comes in three colours.",
    "I compared many models first.",
    "This is just my honest view.",
    "I hope that this helps somebody.",
    "We keep it in the kitchen.",
)


class ReviewsConfig(Explained):
    """Sizes of a world; the defaults are card 38's.

    products: half of them for tests, half for choosing settings ("dev"). reviews: of each. two: the chance that a
    review speaks of two aspects. talk: the chance of small talk before, and of small talk after.

    Raises `BadInput` for a value out of range.
    """

    called = "a ReviewsWorld"

    products: int = Field(default=60, ge=2, le=NAMES)
    reviews: int = Field(default=75, ge=1)
    two: float = Field(default=0.5, ge=0, le=1)
    talk: float = Field(default=0.6, ge=0, le=1)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Review:
    """What one customer wrote, and what it says: aspects in the order of the text, each with whether it is praised."""

    text: str
    mentions: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Product:
    """A product and its reviews, in the order in which they came in."""

    name: str
    reviews: tuple[Review, ...]

    @property
    def group(self) -> str:
        """Where its reviews lie: the folder of their ids."""
        return self.name.lower()


class ReviewsWorld:
    """A world: products and their reviews, all fixed by the config and its seed."""

    def __init__(self, config: ReviewsConfig | None = None) -> None:
        self.config = config or ReviewsConfig()

    @cached_property
    def products(self) -> tuple[Product, ...]:
        rng = np.random.default_rng(derive_seed("reviews", self.config.seed))
        names = [product_names()[int(i)] for i in rng.permutation(NAMES)[: self.config.products]]
        return tuple(random_product(self.config, name, rng) for name in names)

    def split(self, split: Literal["test", "dev"]) -> tuple[Product, ...]:
        """Half of the products; neither half is ever trained on."""
        half = len(self.products) // 2
        return self.products[:half] if split == "test" else self.products[half:]


@cache
def product_names() -> tuple[str, ...]:
    """All names that a product of any world can have."""
    return tuple(islice(invented_names(np.random.default_rng(derive_seed("reviews names"))), NAMES))


def random_product(config: ReviewsConfig, name: str, rng: np.random.Generator) -> Product:
    """A product with reviews: one or two aspects are never mentioned, the others at rates that differ up to threefold,
    each praised in a share of its mentions that is drawn from `SHARES`. No two customers write the same, as far as
    there are so many ways to say it."""
    order = rng.permutation(len(ASPECTS))
    silent = int(rng.integers(1, 3))
    aspects = [ASPECTS[int(i)] for i in order[silent:]]
    rates = rng.uniform(0.5, 1.5, len(aspects))
    shares = [SHARES[int(i)] for i in rng.integers(len(SHARES), size=len(aspects))]
    # The first k of an exponential race are k draws without replacement (Efraimidis & Spirakis 2006).
    races = rng.exponential(1.0 / rates, size=(config.reviews, len(aspects))).argsort(axis=1)
    both = rng.random(config.reviews) < config.two
    reviews: list[Review] = []
    written: set[str] = set()
    for first, two in zip(races.tolist(), both.tolist(), strict=True):
        mentions = tuple((aspects[i], bool(rng.random() < shares[i])) for i in first[: 1 + two])
        text = next((t for _ in range(_TRIES) if (t := _written(mentions, config.talk, rng)) not in written), None)
        text = text or _written(mentions, config.talk, rng)
        written.add(text)
        reviews.append(Review(text, mentions))
    return Product(name, tuple(reviews))


def _written(mentions: Sequence[tuple[str, bool]], talk: float, rng: np.random.Generator) -> str:
    wordings = (WORDINGS[aspect][0 if good else 1] for aspect, good in mentions)
    said = [those[int(rng.integers(len(those)))] for those in wordings]
    before = int(rng.integers(len(SMALL_TALK)))
    after = (before + int(rng.integers(1, len(SMALL_TALK)))) % len(SMALL_TALK)
    opening = [SMALL_TALK[before]] if rng.random() < talk else []
    closing = [SMALL_TALK[after]] if rng.random() < talk else []
    return " ".join([*opening, *said, *closing])


def documents(products: Sequence[Product], *, reviews: int | None = None) -> list[Passage]:
    """The reviews as documents, `zorba/0`, `zorba/1`, …: of every product the first `reviews`, or all."""
    return [
        Passage(id=f"{product.group}/{number}", title=product.name, text=review.text)
        for product in products
        for number, review in enumerate(product.reviews[:reviews])
    ]


def counts(reviews: Sequence[Review]) -> dict[str, tuple[int, int]]:
    """(praised, mentioned) of every aspect, in the order of `ASPECTS`; (0, 0) of one that is never mentioned."""
    mentioned = Counter(aspect for review in reviews for aspect, _ in review.mentions)
    praised = Counter(aspect for review in reviews for aspect, good in review.mentions if good)
    return {aspect: (praised[aspect], mentioned[aspect]) for aspect in ASPECTS}


def verdict(praised: int, mentioned: int) -> Verdict:
    """What most customers think: `MOSTLY` of the mentions decide."""
    if not mentioned:
        return "not mentioned"
    if praised >= MOSTLY * mentioned:
        return "mostly positive"
    return "mostly negative" if mentioned - praised >= MOSTLY * mentioned else "mixed"


def opinion(praised: int, mentioned: int) -> str:
    """A verdict in one word: `positive`, `negative`, `mixed`; or `not mentioned`."""
    return verdict(praised, mentioned).removeprefix("mostly ")


def finding(aspect: str, praised: int, mentioned: int) -> str:
    """One aspect in words, with the count of those who decide it: `battery negative 9 of 11`. What is thought of an
    aspect is the one word right after it, since a model this small finds what followed a word and little else."""
    said = opinion(praised, mentioned)
    if not mentioned:
        return f"{aspect} {said}"
    return f"{aspect} {said} {mentioned - praised if said == 'negative' else praised} of {mentioned}"


def gold_summary(reviews: Sequence[Review]) -> str:
    """What reviews say, aspect by aspect, of those they mention."""
    return " ; ".join(finding(aspect, *of) for aspect, of in counts(reviews).items() if of[1])


def question_text(aspect: str, product: str) -> str:
    return f"What do customers say about the {aspect} of {product}?"


def questions(products: Sequence[Product], *, reviews: int | None = None) -> list[Question]:
    """One question for each product and aspect. The answer is counted over the first `reviews` of each product.

    `meta`: group (where the product's reviews lie), aspect, praised, mentioned, dataset.
    """
    asked = []
    for product in products:
        for aspect, (praised, mentioned) in counts(product.reviews[:reviews]).items():
            meta = {"group": product.group, "aspect": aspect, "praised": praised, "mentioned": mentioned}
            asked.append(
                Question(
                    id=f"{product.group}-{aspect}",
                    text=question_text(aspect, product.name),
                    answers=(verdict(praised, mentioned),),
                    meta={**meta, "dataset": "reviews"},
                )
            )
    return asked
