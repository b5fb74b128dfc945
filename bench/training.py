"""Rollouts and training steps: Ken beside TRL's tool-calling loop and a loop that reads everything again every turn.

    python bench/training.py [--write] [--rounds 5] [--batches 4] [--steps 6] [--only rollouts|training]

All three run the lab's FactWorld model on the same training questions with the same index (top 1): 16 questions, 8
attempts at each, T = 1, at most two searches and 16 tokens a turn. The model was taught first to search (by fine-tuning
on its own attempts that did), so that nearly every attempt takes two turns, as those of Search-R1 do. Rounds alternate
the order of the three, and medians are reported with the range. Then our training steps, taken apart, for every
algorithm; these begin with the base model, which searches in a third of its attempts.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset
from search import commit, installed, machine, say, verdict, version
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from ken.agents import SearchLoop
from ken.agents.protocol import escape, render_passages
from ken.core import Question, Sampling
from ken.metrics import exact_match
from ken.papers.factworld_bench import MAX_TOKENS, FactWorldBench, FactWorldSettings, factworld_bench
from ken.sources.search.retriever import IndexRetriever
from ken.training.critic import Critic
from ken.training.rewards.outcome import exact
from ken.training.rl import RolloutTrainer
from ken.training.rl_config import RLConfig
from ken.training.rollouts import Shuffled, Task, each
from ken.training.sft import SFTConfig, accepted, sft
from ken.training.train import save_policy, train
from ken.training.trl_arguments import trl_arguments

HERE = Path(__file__).parent
QUESTIONS, ATTEMPTS, MAX_SEARCHES = 16, 8, 2
SAMPLED_QUESTIONS = 400  # for teaching to search
SAMPLING = Sampling(temperature=1.0, max_tokens=MAX_TOKENS)
GREEDY = Sampling(temperature=0.0, max_tokens=MAX_TOKENS)

ALGORITHMS: dict[str, dict[str, Any]] = {
    "GRPO": {"advantage": "group"},
    "Dr. GRPO": {"advantage": "mean", "loss": "dr_grpo"},
    "RLOO": {"advantage": "rloo"},
    "Reinforce++": {"advantage": "batch", "kl": 0.0, "kl_in_reward": 1e-3},
    "PPO": {"advantage": "gae", "kl": 0.0, "kl_in_reward": 1e-3},
    "DAPO": {"advantage": "group", "kl": 0.0, "loss": "dapo", "clip_high": 0.28, "dynamic_sampling": True},
}


@dataclass
class Work:
    """What was done, so that nobody is faster by doing less: a number per attempt."""

    searches: list[int] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # written by the model

    def add(self, searches: int, answer: str | None, tokens: int, question: Question) -> None:
        self.searches.append(searches)
        self.right.append(exact_match(answer, question.answers))
        self.tokens.append(tokens)


# --- the three contenders: attempt 16 questions 8 times each ---------------------------------------------------------


class Ken:
    """The rollouts of `RolloutTrainer`: agents as coroutines over a lockstep-batched model."""

    name = "Ken"

    def __init__(self, bench: FactWorldBench, folder: Path) -> None:
        config = RLConfig(units=QUESTIONS, group_size=ATTEMPTS, sampling=SAMPLING, kl=0.0)
        self.batch: list[Question] = []
        self.sampling: Sampling | None = None
        self.trainer = RolloutTrainer(
            bench.policy(),
            Chosen(self),
            each(exact),
            config,
            trl_arguments(config, str(folder), cpu=True),
            sources=bench.sources,
        )

    def greedily(self, on: bool) -> None:
        self.sampling = GREEDY if on else None

    def attempt(self, questions: Sequence[Question]) -> Any:
        self.batch = list(questions)
        self.trainer.state.global_step += 1  # seeds differ from step to step
        return self.trainer._rollouts()[0]

    def note(self, made: Any, work: Work) -> None:
        for trajectory in (t for group in made for t in group.trajectories):
            tokens = sum(len(s.token_ids) for s in trajectory.segments if s.role == "policy")
            work.add(len(trajectory.searches), trajectory.answer, tokens, trajectory.question)


class Chosen(Shuffled):
    """Tasks of the questions that a contender was given."""

    def __init__(self, of: Ken) -> None:
        self.of, self.strategy = of, SearchLoop(MAX_SEARCHES)

    def draw(self, step: int, count: int, *, refill: int = 0) -> list[tuple[Task, ...]]:
        return [(Task(question, self.strategy, sampling=self.of.sampling),) for question in self.of.batch]


# One token each in the lab's tokenizer. Arguments are rendered bare, as the model writes them; the names only for TRL's
# check that a template loses nothing.
TOOL_TEMPLATE = (
    "<bos> {% for m in messages %}"
    "{% if m.role == 'tool' %}\n\n<information>{{ m.content }}</information>\n\n"
    "{% else %}{{ m.content }} {% for call in m.tool_calls or [] %}<search> "
    "{% if call.function.name != 'search' %}{{ call.function.name }} {{ call.function.arguments | tojson }}"
    "{% else %}{{ call.function.arguments.query }}{% endif %} </search>{% endfor %}{% endif %}{% endfor %}"
)
TOOL_CALLS = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"\?|</information>",  # what the model's turns follow: a question, or documents
    "fields": {
        "tool_calls": {
            "open": "<search>",
            "close": "</search>",
            "repeats": True,
            "content": "text",
            "transform": {"type": "function", "function": {"name": "search", "arguments": {"query": "{content}"}}},
        },
        "content": {"content": "text"},
    },
}


class TRL:
    """`GRPOTrainer(tools=[search])`: its own loop, from prompts to masked completions."""

    name = "TRL tools"

    def __init__(self, bench: FactWorldBench, folder: Path) -> None:
        model, tokenizer = plain_model(bench)
        tokenizer.chat_template, tokenizer.response_template = TOOL_TEMPLATE, TOOL_CALLS
        model.generation_config.eos_token_id = stop_ids(tokenizer)
        index = retriever(bench).index

        def search(query: str) -> str:
            """Search the documents.

            Args:
                query: What to look for.

            Returns:
                The best document.
            """
            found = render_passages(index.search(query, bench.sources.top_k))
            return found.removeprefix("<information>").removesuffix("</information>")

        rows = QUESTIONS * ATTEMPTS
        self.trainer = GRPOTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(folder),
                per_device_train_batch_size=rows,
                num_generations=ATTEMPTS,
                max_completion_length=256,  # of all turns and documents together
                max_tool_calling_iterations=MAX_SEARCHES,
                generation_kwargs={"max_new_tokens": MAX_TOKENS},
                temperature=SAMPLING.temperature,
                beta=0.0,
                report_to=[],
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
            ),
            train_dataset=Dataset.from_dict({"prompt": [opening(bench.train_questions[0])] * rows}),
            processing_class=tokenizer,
            tools=[search],
        )
        self.trainer._sync_tool_dicts = [{"search": search}] * rows  # as it does before each generation
        self.trainer._async_tool_dicts = [{}] * rows
        self.asked: list[Question] = []

    def greedily(self, on: bool) -> None:
        self.trainer.generation_config.do_sample = self.trainer.generation_kwargs["do_sample"] = not on

    def attempt(self, questions: Sequence[Question]) -> Any:
        self.asked = [question for question in questions for _ in range(ATTEMPTS)]
        return self.trainer._generate([opening(question) for question in self.asked])

    def note(self, made: Any, work: Work) -> None:
        _, _, masks, completions, *_ = made
        for question, mask, messages in zip(self.asked, masks, completions, strict=True):
            searches = sum(message["role"] == "tool" for message in messages)
            work.add(searches, answer_in(messages[-1]["content"]), sum(mask), question)


class Reprefill:
    """Search-R1's loop (arXiv 2503.09516): every turn is a new `model.generate` over the whole context of the attempts
    that are still open; their searches are one batch."""

    name = "re-prefill"

    def __init__(self, bench: FactWorldBench, folder: Path) -> None:
        self.model, self.tokenizer = plain_model(bench)
        self.model.eval()
        self.index, self.top_k = retriever(bench).index, bench.sources.top_k
        self.stops = stop_ids(self.tokenizer)
        self.how = {
            "do_sample": True,
            "temperature": SAMPLING.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "max_new_tokens": MAX_TOKENS,
            "eos_token_id": self.stops,
            "pad_token_id": self.tokenizer.pad_token_id,
        }

    def greedily(self, on: bool) -> None:
        self.how["do_sample"] = not on

    def attempt(self, questions: Sequence[Question]) -> list[dict[str, Any]]:
        asked = [question for question in questions for _ in range(ATTEMPTS)]
        texts = [self.tokenizer.apply_chat_template(opening(question), tokenize=False) for question in asked]
        contexts = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        made = [{"question": q, "searches": 0, "answer": None, "tokens": 0} for q in asked]
        active = list(range(len(made)))
        for turn in range(MAX_SEARCHES + 1):
            written = self.generate([contexts[i] for i in active])
            replies = self.tokenizer.batch_decode(written)
            queries: dict[int, str] = {}
            for i, ids, reply in zip(active, written, replies, strict=True):
                contexts[i] += ids
                made[i]["tokens"] += len(ids)
                made[i]["answer"] = answer_in(reply)
                query = re.search(r"<search>(.*?)</search>", reply)
                if query and query[1].strip() and turn < MAX_SEARCHES:
                    queries[i] = query[1].strip()
            active = list(queries)
            if not active:
                break
            for i, found in zip(active, self.index.search_many(list(queries.values()), self.top_k), strict=True):
                contexts[i] += self.tokenizer(f"\n\n{render_passages(found)}\n\n", add_special_tokens=False).input_ids
                made[i]["searches"] += 1
        return made

    @torch.inference_mode()
    def generate(self, contexts: Sequence[list[int]]) -> list[list[int]]:
        batch = self.tokenizer.pad({"input_ids": contexts}, padding_side="left", return_tensors="pt")
        output = self.model.generate(**batch, **self.how)[:, batch["input_ids"].shape[1] :].tolist()
        return [self.until_stop(ids) for ids in output]

    def until_stop(self, ids: list[int]) -> list[int]:
        return ids[: next((i + 1 for i, token in enumerate(ids) if token in self.stops), len(ids))]

    def note(self, made: Any, work: Work) -> None:
        for attempt in made:
            work.add(**attempt)


def plain_model(bench: FactWorldBench) -> tuple[Any, Any]:
    return (
        AutoModelForCausalLM.from_pretrained(bench.folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(bench.folder),
    )


def retriever(bench: FactWorldBench) -> IndexRetriever:
    assert isinstance(bench.sources.search, IndexRetriever)
    return bench.sources.search


def opening(question: Question) -> list[dict[str, str]]:
    return [{"role": "system", "content": "<search_mode>"}, {"role": "user", "content": escape(question.text)}]


def stop_ids(tokenizer: Any) -> list[int]:
    return [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(["</search>", "</answer>"])]


def answer_in(text: str) -> str | None:
    found = re.search(r"<answer>(.*?)</answer>", text)
    return found[1].strip() if found else None


@dataclass
class Rollouts:
    """rates: attempts per second of every round, by contender. work: what was done. alike: how many of a batch's
    attempts come out the same in all three when nothing is left to chance.
    """

    rates: dict[str, list[float]]
    work: dict[str, Work]
    alike: int


def searcher(bench: FactWorldBench, folder: Path) -> FactWorldBench:
    """The same with a policy that searches: the base model, fine-tuned on those of its attempts that searched once and
    were right."""
    policy = bench.policy()
    asked = bench.train_questions[:SAMPLED_QUESTIONS]
    made = bench.attempts(policy, SearchLoop(MAX_SEARCHES), asked, temperature=SAMPLING.temperature)
    kept = accepted(made, lambda t: len(t.searches) == 1 and exact(t) == 1)
    sft(policy, kept, SFTConfig(epochs=4, batch=16, lr=1e-3))
    save_policy(policy, folder)
    return replace(bench, folder=folder)


# --- measuring rollouts ----------------------------------------------------------------------------------------------


def measure_rollouts(bench: FactWorldBench, rounds: int, batches: int, folder: Path) -> Rollouts:
    contenders = [Ken(bench, folder), TRL(bench, folder), Reprefill(bench, folder)]
    order = Shuffled([Task(q, SearchLoop(MAX_SEARCHES)) for q in bench.train_questions])
    rates: dict[str, list[float]] = {c.name: [] for c in contenders}
    work = {c.name: Work() for c in contenders}
    greedy = {c.name: Work() for c in contenders}
    for contender in contenders:
        asked = [unit[0].question for unit in order.draw(0, QUESTIONS)]
        contender.greedily(True)
        contender.note(contender.attempt(asked), greedy[contender.name])
        contender.greedily(False)
        contender.attempt(asked)  # warms up
    each_made = [list(zip(w.searches, w.right, w.tokens, strict=True)) for w in greedy.values()]
    alike = sum(len({*made}) == 1 for made in zip(*each_made, strict=True))
    gc.collect()
    gc.freeze()  # what is loaded by now is not searched for garbage again: a quarter of a second, at anyone's expense
    for number in range(rounds):
        batched = [
            [unit[0].question for unit in order.draw(1 + number * batches + batch, QUESTIONS)]
            for batch in range(batches)
        ]
        for contender in contenders[number % 3 :] + contenders[: number % 3]:
            gc.collect()
            took = 0.0
            for questions in batched:
                started = time.perf_counter()
                made = contender.attempt(questions)
                took += time.perf_counter() - started
                contender.note(made, work[contender.name])
            rates[contender.name].append(batches * QUESTIONS * ATTEMPTS / took)
            say(f"round {number + 1}: {contender.name} {rates[contender.name][-1]:,.0f} attempts/s")
    gc.unfreeze()
    return Rollouts(rates, work, alike)


# --- measuring training steps ----------------------------------------------------------------------------------------

PARTS = ("generate", "search", "train", "other")


@dataclass
class Clock:
    """Seconds spent within the functions it was put around."""

    seconds: float = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


@contextmanager
def clocks(bench: FactWorldBench) -> Iterator[dict[str, Clock]]:
    """Clocks on what a training step is made of: search, prepare (rollouts, rewards, tensors), and the learning itself:
    learn (forward and backward, with what is prepared within), update (clipping and the optimizer's step) and judge
    (passes of reference and critic, which belong to learning but happen while preparing)."""
    made = {name: Clock() for name in ("search", "prepare", "learn", "update", "judge")}
    index = retriever(bench).index
    with ExitStack() as stack:
        for name, owner, method in (
            ("search", index, "search_many"),
            ("prepare", RolloutTrainer, "_prepare_inputs"),
            ("learn", RolloutTrainer, "training_step"),
            ("update", Accelerator, "clip_grad_norm_"),
            ("update", AcceleratedOptimizer, "step"),
            ("judge", RolloutTrainer, "_logps"),
            ("judge", Critic, "values"),
            ("judge", Critic, "fit"),
        ):
            around = made[name].around(getattr(owner, method))
            stack.enter_context(patch.object(owner, method, bound(around) if isinstance(owner, type) else around))
        yield made


def bound(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function, which a class turns into a method."""

    def method(self: Any, *arguments: Any, **options: Any) -> Any:
        return function(self, *arguments, **options)

    return method


def measure_training(bench: FactWorldBench, rounds: int, steps: int) -> dict[str, dict[str, list[float]]]:
    """{algorithm: {part: seconds of every step}}, also "step" (all of it) and "attempts" (rolled out in it)."""
    measured: dict[str, dict[str, list[float]]] = {
        name: {part: [] for part in (*PARTS, "step", "attempts")} for name in ALGORITHMS
    }
    names = list(ALGORITHMS)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            one_training(bench, name, steps, seed=number, into=measured[name])
            say(f"round {number + 1}: {name} {statistics.median(measured[name]['step'][-steps:]):.2f} s a step")
    return measured


def one_training(bench: FactWorldBench, name: str, steps: int, *, seed: int, into: dict[str, list[float]]) -> None:
    """Train for `steps` steps and one to warm up, which is not counted."""
    tasks = [Task(question, SearchLoop(MAX_SEARCHES)) for question in bench.train_questions]
    config = RLConfig(
        steps=steps + 1,
        units=QUESTIONS,
        group_size=ATTEMPTS,
        sampling=SAMPLING,
        seed=seed,
        **{"kl": 1e-3, **ALGORITHMS[name]},
    )
    gc.collect()
    with clocks(bench) as clock:
        before = {"at": time.perf_counter(), **{part: c.seconds for part, c in clock.items()}}

        def on_step(step: int, statistics: Mapping[str, float]) -> None:
            nonlocal before
            now = {"at": time.perf_counter(), **{part: c.seconds for part, c in clock.items()}}
            took = {part: now[part] - before[part] for part in now}
            before = now
            if step == 1:
                return
            generate = statistics["seconds/generate"]
            learn = took["learn"] - took["prepare"] + took["update"] + took["judge"]
            into["step"].append(took["at"])
            into["generate"].append(generate)
            into["search"].append(took["search"])
            into["train"].append(learn)
            into["other"].append(took["at"] - generate - took["search"] - learn)
            into["attempts"].append(QUESTIONS * ATTEMPTS * (1 + statistics.get("refills", 0.0)))

        train(bench.policy(), tasks, each(exact), config, sources=bench.sources, monitors=(), on_step=on_step)


# --- reporting -------------------------------------------------------------------------------------------------------


def report(
    arguments: argparse.Namespace,
    size: int,
    rollouts: Rollouts | None,
    steps: dict[str, dict[str, list[float]]],
) -> str:
    lines = [
        "# Training benchmark",
        "",
        f"Command: `python bench/training.py --write --rounds {arguments.rounds} --batches {arguments.batches} "
        f"--steps {arguments.steps}` (`make bench`)",
        "",
        f"Machine: {machine()}; Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("ken", "torch", "transformers", "trl") if installed(name))
        + f"; commit {commit()}; {time.strftime('%Y-%m-%d')}.",
        "",
        f"The lab's FactWorld model ({size:,} parameters, float32), {QUESTIONS} training questions a batch with "
        f"{ATTEMPTS} attempts each, T = 1, at most {MAX_SEARCHES} searches (top 1 of the same index) and {MAX_TOKENS} "
        "tokens a turn.",
    ]
    if rollouts:
        lines += rollout_lines(arguments, rollouts)
    if steps:
        lines += training_lines(arguments, steps)
    return "\n".join([*lines, ""])


def rollout_lines(arguments: argparse.Namespace, rollouts: Rollouts) -> list[str]:
    rates = rollouts.rates
    middle = {name: statistics.median(values) for name, values in rates.items()}
    lines = [
        "",
        "## Rollouts",
        "",
        f"Medians of {arguments.rounds} alternating rounds of {arguments.batches} batches; the range in brackets. "
        "TRL tools: `GRPOTrainer(tools=[search])` with a template that renders and parses the same tags. Re-prefill: "
        "Search-R1's loop, a new `model.generate` over the whole context every turn. The policy was fine-tuned on its "
        "own attempts that searched, so that attempts take two turns. Greedily decoded, "
        f"{rollouts.alike} of {QUESTIONS * ATTEMPTS} attempts are the same in all three (searches, tokens, exact "
        "match). In what is timed each samples for itself, and the work is the same on average: per attempt, ± a "
        "standard error as if attempts at one question were independent.",
        "",
        "| | attempts/s | searches | tokens | EM |",
        "|---|---|---|---|---|",
    ]
    for name, values in rates.items():
        did = rollouts.work[name]
        cells = " | ".join(with_error(numbers) for numbers in (did.searches, did.tokens, did.right))
        lines.append(f"| {name} | {middle[name]:,.0f} ({min(values):,.0f}–{max(values):,.0f}) | {cells} |")
    lines += ["", "| goal | measured | verdict |", "|---|---|---|"]
    for name, goal in (("TRL tools", 3), ("re-prefill", 2)):
        ratios = [ours / theirs for ours, theirs in zip(rates["Ken"], rates[name], strict=True)]
        ratio = statistics.median(ratios)
        lines.append(
            f"| at least {goal} × {name} | {ratio:.1f} × ({min(ratios):.1f}–{max(ratios):.1f}) "
            f"| {verdict(ratio >= goal)} |"
        )
    return lines


def training_lines(arguments: argparse.Namespace, steps: dict[str, dict[str, list[float]]]) -> list[str]:
    lines = [
        "",
        "## Training steps",
        "",
        f"Medians over {arguments.rounds} alternating runs of {arguments.steps} steps ({QUESTIONS} × {ATTEMPTS} "
        "attempts each), the first step of a run not counted. Train: passes of policy, reference and critic, gradients "
        "and updates. Other: agents, rewards, advantages, tensors and the trainer's own loop. DAPO draws again until "
        f"{QUESTIONS} groups are mixed; trained are {QUESTIONS * ATTEMPTS} attempts a step.",
        "",
        "| | s per 1,000 trained | s a step | generate | search | train | other | rolled out a step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, measured in steps.items():
        step = statistics.median(measured["step"])
        parts = " | ".join(f"{share(measured, part):.1%}" for part in PARTS)
        per_thousand = [1000 * s / (QUESTIONS * ATTEMPTS) for s in measured["step"]]
        lines.append(
            f"| {name} | {statistics.median(per_thousand):.2f} ({min(per_thousand):.2f}–{max(per_thousand):.2f}) "
            f"| {step:.2f} | {parts} | {statistics.mean(measured['attempts']):.0f} |"
        )
    worst = max(steps, key=lambda name: share(steps[name], "other"))
    other = share(steps[worst], "other")
    lines += ["", "| goal | measured | verdict |", "|---|---|---|"]
    lines.append(f"| other at most 10% of a step | {other:.1%} ({worst}, the worst) | {verdict(other <= 0.1)} |")
    return lines


def share(measured: Mapping[str, Sequence[float]], part: str) -> float:
    """Of the time of all steps."""
    return sum(measured[part]) / sum(measured["step"])


def with_error(numbers: Sequence[float]) -> str:
    return f"{statistics.mean(numbers):.2f} ± {statistics.stdev(numbers) / len(numbers) ** 0.5:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write bench/TRAINING.md")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=4, help="batches of rollouts a round")
    parser.add_argument("--steps", type=int, default=6, help="training steps a round, for each algorithm")
    parser.add_argument("--only", choices=["rollouts", "training"])
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    bench = factworld_bench(FactWorldSettings(top_k=1), 0)
    size = sum(parameter.numel() for parameter in plain_model(bench)[0].parameters())
    rollouts: Rollouts | None = None
    steps: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="ken-bench-") as name:
        if arguments.only != "training":
            taught = searcher(bench, Path(name) / "searcher")
            rollouts = measure_rollouts(taught, arguments.rounds, arguments.batches, Path(name))
        if arguments.only != "rollouts":
            steps = measure_training(bench, arguments.rounds, arguments.steps)
    text = report(arguments, size, rollouts, steps)
    print(text)
    if arguments.write:
        (HERE / "TRAINING.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
