"""LFD: what a middle layer has read, joined to what the last one says (arXiv 2508.19614; card 57)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from ken.agents.background import run
from ken.core.frozen import Frozen
from ken.lab.conflict import KINDS, Case, ConflictWorld, Kind, shares
from ken.metrics.statistics import bootstrap_difference, mean
from ken.models.decoder import Decoder
from ken.models.local import LocalModel
from ken.papers.catalogue import entry
from ken.papers.paper import Arm, Claim, Metrics, Paper, gap
from ken.probing.ablation import noise_sweep
from ken.probing.benchmark import costs
from ken.probing.calibration import calibration
from ken.probing.decoders import CAD, LFD, ContrastiveSearch, DoLa, Greedy
from ken.probing.lens import LogitLens
from ken.training.conflict_base import ENDS, ConflictBaseConfig, answer_of, prompt, smoke_config
from ken.training.lab_checkpoint import built

BaseArm = Literal["constructed", "natural"]
NOISE = (0, 2, 4)
ALPHAS = (0.3, 0.1, 0.03)


class Settings(Frozen):
    """asked: the questions on which arms are measured, or those kept for choosing ("dev"). limit: of each kind.

    retrain: every seed makes a world and trains a model of its own, as the card has it; by default all seeds have those
    of seed 0, to spare their training, and draw which questions are asked and what their documents say. cad_beta: its
    authors' value for documents that contradict the model. timed_*: of the comparison of speed. analysed: prompts whose
    layers are looked at.
    """

    base: ConflictBaseConfig = ConflictBaseConfig()
    retrain: bool = False
    asked: Literal["test", "dev"] = "test"
    limit: int = Field(default=300, ge=2)
    weight: float = Field(default=1.0, ge=0)
    alpha: float = Field(default=0.1, gt=0, le=1)
    cad_beta: float = Field(default=1.0, ge=0)
    penalty: float = Field(default=0.6, ge=0, le=1)
    timed_batch: int = Field(default=16, ge=1)
    timed_tokens: int = Field(default=16, ge=1)
    timed_rounds: int = Field(default=5, ge=1)
    analysed: int = Field(default=100, ge=1)


@dataclass
class Bench:
    """What all arms of one seed share: world, base models and questions."""

    settings: Settings
    seed: int

    @cached_property
    def world(self) -> ConflictWorld:
        return ConflictWorld(self.config("constructed").world)

    @cached_property
    def cases(self) -> dict[Kind, list[Case]]:
        s, world = self.settings, self.world
        return {kind: world.cases(kind, self._count(kind), s.asked, draw=self.seed) for kind in KINDS}

    def _count(self, kind: Kind) -> int:
        entities = self.world.new if kind == "new-entity" else self.world.known
        return min(self.settings.limit, len(entities) * len(self.world.attributes) // 2)

    def config(self, base: BaseArm) -> ConflictBaseConfig:
        of, seed = self.settings.base, self.seed if self.settings.retrain else 0
        return of.model_copy(update={"arm": base, "seed": seed, "world": of.world.model_copy(update={"seed": seed})})

    def folder(self, base: BaseArm) -> Path:
        return built(self.config(base))

    def model(self, base: BaseArm, decoder: Decoder | None = None) -> LocalModel:
        return LocalModel(
            self.folder(base), spec="lab/conflict", device="cpu", batch_size=512, control_tokens=True, decoder=decoder
        )

    def answers(self, model: LocalModel, cases: Sequence[Case], noise: int = 0) -> list[str | None]:
        """One greedy answer to each case."""

        async def together() -> list[str | None]:
            said = await asyncio.gather(*(model.generate(prompt(case, noise), sampling=ENDS) for case in cases))
            return [answer_of(one[0].text) for one in said]

        return run(together())

    def measure(self, base: BaseArm, decoder: Decoder, noise: int = 0) -> dict[str, float]:
        """The row of the table: acc_KIND, the share of right answers; on conflicts also context_rate (it follows the
        document) and memory_rate (it says what it remembers). What the decoder did on conflicts: changed, the share of
        answers whose first token is not the greedy one."""
        model = self.model(base, decoder)
        found: dict[str, float] = {}
        for kind, cases in self.cases.items():
            counted = shares(cases, self.answers(model, cases, noise))
            found[f"acc_{_name(kind)}"] = counted["acc"]
            if kind == "conflict":
                found |= {name: counted[name] for name in ("context_rate", "memory_rate", "other_rate")}
        return found


def _name(kind: Kind) -> str:
    return kind.replace("-", "_")


def prepare(settings: Settings, seed: int) -> Bench:
    bench = Bench(settings, seed)
    bench.folder("constructed")
    return bench


# --- arms ------------------------------------------------------------------------------------------------------------


def lfd(settings: Settings, **changed: object) -> LFD:
    return LFD(**{"weight": settings.weight, "alpha": settings.alpha, **changed})


def decoding(
    make: Callable[[Settings], Decoder], base: BaseArm = "constructed", noise: int = 0
) -> Callable[[Bench], Metrics]:
    """An arm: the answers of one decoder, to prompts with so many noise documents."""
    return lambda bench: bench.measure(base, make(bench.settings), noise)


def fused(base: BaseArm) -> Callable[[Bench], Metrics]:
    """LFD, with what it gains on conflicts over greedy decoding: the difference and its 95% interval by paired
    bootstrap over the questions (gain, gain_low, gain_high); and how often each layer was read there (share_LAYER)."""

    def arm(bench: Bench) -> Metrics:
        cases = bench.cases["conflict"]
        model, greedy = bench.model(base, lfd(bench.settings)), bench.model(base, Greedy())
        right = [a == c.answer for a, c in zip(bench.answers(model, cases), cases, strict=True)]
        before = [a == c.answer for a, c in zip(bench.answers(greedy, cases), cases, strict=True)]
        gain = bootstrap_difference([float(r) for r in right], [float(b) for b in before])
        read = run(_read_layers(model, cases))
        layers = lfd(bench.settings).candidates(len(model.model.model.layers))
        return {
            **bench.measure(base, lfd(bench.settings)),
            "gain": mean(right) - mean(before),
            "gain_low": gain.low,
            "gain_high": gain.high,
            **{f"share_{layer}": mean(one == layer for one in read) for layer in layers},
        }

    return arm


async def _read_layers(model: LocalModel, cases: Sequence[Case]) -> list[int | None]:
    said = await asyncio.gather(*(model.generate(prompt(case), sampling=ENDS) for case in cases))
    return [one[0].trace[0].layer for one in said if one[0].trace]


def oracle(base: BaseArm) -> Callable[[Bench], Metrics]:
    """LFD with every fixed layer of its range, and with the best one for each question, chosen with the answer in hand:
    what a perfect choice could reach (acc_KIND), and each layer alone (layer_LAYER, on conflicts)."""

    def arm(bench: Bench) -> Metrics:
        found: dict[str, float] = {}
        layers = lfd(bench.settings).candidates(bench.config(base).layers)
        models = {layer: bench.model(base, lfd(bench.settings, layers=str(layer))) for layer in layers}
        for kind, cases in bench.cases.items():
            right = {
                layer: [a == c.answer for a, c in zip(bench.answers(model, cases), cases, strict=True)]
                for layer, model in models.items()
            }
            found[f"acc_{_name(kind)}"] = mean(any(one) for one in zip(*right.values(), strict=True))
            if kind == "conflict":
                found |= {f"layer_{layer}": mean(hits) for layer, hits in right.items()}
        return found

    return arm


def speed(bench: Bench) -> Metrics:
    """Microseconds a token and peak memory in MiB, by decoder, measured in turns in one process: of one conversation
    (DECODER_us, DECODER_mib), as somebody waits for an answer, and of a batch (batch_…).

    In a batch of so small a model reading half of the layers by the whole head costs by itself half of what the model
    does, (L/2) · 2 · d · V multiplications against 1.8 million parameters; in a large one it is a hundredth. So the
    claims are about one conversation, in which the calls count and not the multiplications.
    """
    s = bench.settings
    decoders: dict[str, Decoder | None] = {
        "greedy": Greedy(),
        "lfd": lfd(s),
        "dola": DoLa(),
        "cad": CAD(beta=s.cad_beta),
        "contrastive": ContrastiveSearch(penalty=s.penalty),
    }
    model, cases = bench.model("constructed"), bench.cases["conflict"]
    measured: dict[str, float] = {}
    for before, count in (("", 1), ("batch_", s.timed_batch)):
        asked = [prompt(cases[i % len(cases)]) for i in range(count)]
        found = costs(model, decoders, asked, tokens=s.timed_tokens, rounds=s.timed_rounds)
        measured |= {f"{before}{name}_us": 1e6 * cost.seconds_a_token for name, cost in found.items()}
        measured |= {f"{before}{name}_mib": cost.peak_bytes / 2**20 for name, cost in found.items()}
    return measured


def analysis(base: BaseArm) -> Callable[[Bench], Metrics]:
    """What the layers do at the answer of conflicts. By layer, 1 … L: sim_hidden and diff_attn for 0, 2 and 4 noise
    documents; context and memory, how often the lens puts the document's value, or the remembered one, first; iks.
    attends_upper, attends_lower: mean DiffAttn of both halves. in_head_A: share of conflicts in which the document's
    value is among the tokens that alpha A holds plausible."""

    def arm(bench: Bench) -> Metrics:
        model, cases = bench.model(base), bench.cases["conflict"][: bench.settings.analysed]
        lens = LogitLens(model.model)
        half = lens.layers // 2

        def prompts(noise: int) -> list[tuple[str, str]]:
            return [(model.render(prompt(case, noise))[0], case.answer) for case in cases]

        swept = noise_sweep(lens, model.tokenizer, prompts, NOISE)
        ids = [model.render(prompt(case))[1] for case in cases]
        readings = calibration(lens, ids)
        diff = [row.diff_attn for row in swept[0]]
        return {
            "attends_lower": mean(diff[:half]),
            "attends_upper": mean(diff[half:]),
            **{f"diff_attn_{k}": tuple(row.diff_attn for row in rows) for k, rows in swept.items()},
            **{f"sim_hidden_{k}": tuple(row.sim_hidden for row in rows) for k, rows in swept.items()},
            "iks": tuple(reading.iks for reading in readings),
            **_lens_accuracy(lens, model, ids, cases),
        }

    return arm


@torch.inference_mode()
def _lens_accuracy(
    lens: LogitLens, model: LocalModel, prompts: Sequence[Sequence[int]], cases: Sequence[Case]
) -> dict[str, float | tuple[float, ...]]:
    outside, inside = (
        [model.tokenizer.convert_tokens_to_ids(value) for value in values]
        for values in ([case.context for case in cases], [case.memory for case in cases])
    )
    firsts: list[list[int]] = []
    in_head: dict[float, list[bool]] = {alpha: [] for alpha in ALPHAS}
    for ids, wanted in zip(prompts, outside, strict=True):
        with lens.recording() as states:
            model.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
        q = torch.stack([lens.log_probabilities(states.out[layer])[0] for layer in range(1, lens.layers + 1)])
        firsts.append(q.argmax(-1).tolist())
        for alpha in ALPHAS:
            in_head[alpha].append(bool(q[-1, wanted] >= q[-1].max() + math.log(alpha)))
    layers = range(lens.layers)
    return {
        "context": tuple(mean(f[layer] == w for f, w in zip(firsts, outside, strict=True)) for layer in layers),
        "memory": tuple(mean(f[layer] == w for f, w in zip(firsts, inside, strict=True)) for layer in layers),
        **{f"in_head_{alpha}": mean(hits) for alpha, hits in in_head.items()},
    }


def _arms(base: BaseArm, prefix: str = "") -> tuple[Arm[Bench], ...]:
    also = " (natural base)" if prefix else ""
    made: tuple[tuple[str, str, Callable[[Bench], Metrics]], ...] = (
        ("gd0", "greedy decoding", decoding(lambda s: Greedy(), base)),
        ("gd2", "greedy, two noise documents in the prompt", decoding(lambda s: Greedy(), base, 2)),
        ("gd4", "greedy, four noise documents in the prompt", decoding(lambda s: Greedy(), base, 4)),
        ("contrastive", "contrastive search", decoding(lambda s: ContrastiveSearch(penalty=s.penalty), base)),
        ("dola", "the final layer against an early one", decoding(lambda s: DoLa(alpha=s.alpha), base)),
        ("cad", "with documents against without", decoding(lambda s: CAD(beta=s.cad_beta), base)),
        ("lfd", "the final layer with the layer of least IKS", fused(base)),
        ("lfd-random", "with a random layer", decoding(lambda s: lfd(s, choice="random"), base)),
        ("lfd-oracle", "with the best layer for each question", oracle(base)),
        ("lfd-final", "with the final layer, which is greedy", decoding(_final, base)),
        ("analysis", "which layers attend to the answer, and what they say", analysis(base)),
    )
    return tuple(Arm(prefix + name, text + also, arm, optional=bool(prefix)) for name, text, arm in made)


def _final(settings: Settings) -> LFD:
    return lfd(settings, layers=str(settings.base.layers))


ARMS = (
    *_arms("constructed"),
    Arm("speed", "time and memory of the decoders", speed),
    *_arms("natural", "natural-"),
)

# --- claims ----------------------------------------------------------------------------------------------------------

CLAIMS = (
    Claim(
        "Conflicts: LFD ≥ greedy + 0.05",
        "hard",
        0.05,
        gap("acc_conflict", "lfd", "gd0"),
        note="compare acc_new_entity, where there is nothing to contradict, and memory_rate, the share of answers that "
        "are what is remembered: a gain in the first and few of the second say that what is mended is blurred reading",
    ),
    Claim("Conflicts: LFD ≥ DoLa + 0.05", "hard", 0.05, gap("acc_conflict", "lfd", "dola")),
    Claim("Agreeing documents: LFD ≥ greedy − 0.02", "hard", -0.02, gap("acc_agree", "lfd", "gd0")),
    Claim("No evidence: LFD ≥ greedy − 0.02", "hard", -0.02, gap("acc_no_evidence", "lfd", "gd0")),
    Claim("Conflicts: LFD ≥ a random layer + 0.02", "hard", 0.02, gap("acc_conflict", "lfd", "lfd-random")),
    Claim("Conflicts: LFD ≥ the best layer − 0.10", "hard", -0.1, gap("acc_conflict", "lfd", "lfd-oracle")),
    Claim(
        "Time a token: LFD ≤ 1.35 × greedy",
        "hard",
        0.0,
        lambda arms: 1.35 - arms["speed"]["lfd_us"] / arms["speed"]["greedy_us"],
    ),
    Claim(
        "Time a token: LFD below CAD",
        "hard",
        0.0,
        lambda arms: arms["speed"]["cad_us"] / arms["speed"]["lfd_us"] - 1,
    ),
    Claim(
        "DiffAttn at the answer: layers 1 to 4 above layers 5 to 8",
        "hard",
        0.0,
        lambda arms: arms["analysis"]["attends_lower"] - arms["analysis"]["attends_upper"],
    ),
)

paper = Paper(
    entry=entry("layer-fused-decoding"),
    summary=(
        "At every token the layer of the upper half whose feed-forward network changes its reading least is joined to "
        "the last layer. The score of layers and the way of joining are inferred, since the paper's method section "
        "could not be read. Here the model has 8 layers and 1.8 million parameters, and was made so that it reads in "
        "its lower half and remembers in its upper one, where the paper finds the same in models of 7 and 8 billion "
        "parameters; a document contradicts what it remembers, and decoders are asked which they follow. It knows 80 "
        "entities where the card has 500, which were not learnt with the lower half frozen. In learning them the upper "
        "half came to blur what was read rather than to contradict it: greedy answers are seldom what is remembered. "
        "This tests the choice of the layer and the joining, not that large models are layered so."
    ),
    full=Settings(),
    smoke=Settings(base=smoke_config(), limit=12, timed_batch=2, timed_tokens=2, timed_rounds=1, analysed=3),
    prepare=prepare,
    arms=ARMS,
    claims=CLAIMS,
    columns=(
        "acc_conflict",
        "acc_agree",
        "acc_new_entity",
        "acc_no_evidence",
        "context_rate",
        "memory_rate",
        "gain_low",
    ),
)
