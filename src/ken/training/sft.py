"""Supervised fine-tuning on what was sampled: token ids as they are, and the loss only where the model itself wrote.

TRL's `SFTTrainer` does the training. Its tokenisation, chat templates and masks are not used: sequences and masks come
from trajectories, whose ids are never decoded and encoded again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig as TRLConfig
from trl import SFTTrainer

from ken.core import BadInput, TrainingError, Trajectory
from ken.core.explained import Explained
from ken.models.conversation import Conversation
from ken.models.local import LocalModel
from ken.training.checkpoints import (
    CHECKPOINTS,
    add_statistics,
    cut_back,
    declare_whole,
    disk_full_explained,
    emergency,
    last_whole,
    step_of,
)
from ken.training.lora import LoraConfig, adapted
from ken.training.pretraining import Example
from ken.training.session import Interruption, quiet, restored, run_folder
from ken.training.sharding import NotFinite, anyone, check_gradients, whole_state
from ken.training.train import save_policy

IGNORED = -100  # a label that the loss does not see


class SFTConfig(Explained):
    """One pass shows every example once, in random order, `batch` sequences a step.

    lr: peak; the default suits models of some billion parameters, a model of the lab takes about 1e-3. max_tokens:
        longer sequences are left out and counted; to cut them would teach the model to stop anywhere.
    micro_batch: sequences of one forward pass, for memory (default: the whole batch).
    save_every: steps between checkpoints, from which `resume` goes on; 0 saves none.
    lora: trains adapters only, and merges them at the end; None trains the whole model.

    Raises `BadInput` for a value out of range.
    """

    called = "fine-tuning"

    epochs: float = Field(default=2.0, gt=0)
    batch: int = Field(default=64, ge=1)
    micro_batch: int | None = Field(default=None, ge=1)
    lr: float = Field(default=1e-5, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip: float = Field(default=1.0, gt=0)
    max_tokens: int | None = Field(default=None, ge=2)
    gradient_checkpointing: bool = False
    bf16: bool = False
    save_every: int = Field(default=0, ge=0)
    lora: LoraConfig | None = None
    seed: int = 0


@dataclass(slots=True)
class SFTLog:
    """How a fine-tuning went.

    history: of every step its number, "step", and "loss", the mean over its policy tokens, in nats. examples: sequences
    that were trained on; too_long: those left out. tokens, learnt: in one pass, all and those that the loss saw.
    notes: what a person should know. interrupted: it was asked to stop early.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    examples: int = 0
    too_long: int = 0
    tokens: int = 0
    learnt: int = 0
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def losses(self) -> list[float]:
        """Of every step, in order."""
        return [statistics["loss"] for statistics in self.history]


def sft(
    policy: LocalModel,
    data: Iterable[Trajectory | Example],
    config: SFTConfig | None = None,
    *,
    out: Path | None = None,
    resume: bool = False,
    on_step: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> SFTLog:
    """Fine-tune `policy` in place on trajectories (their policy segments) or examples; afterwards it is in eval mode.

    out: folder for `metrics.jsonl`, `checkpoints/` and, at the end, `model/`; None writes nothing. resume: go on from
    the last whole checkpoint in `out`, with the same data and config. on_step: called with (step, steps, loss) after
    every step. With `out`, Ctrl-C ends the step under way, writes a checkpoint and returns with `interrupted`; a second
    one stops at once.

    Raises `BadInput` when there is nothing to learn from, or a trajectory has no token ids; `TrainingError` when the
    loss is no longer a number (the step before it is then saved), or the disk is full.
    """
    settings = config or SFTConfig()
    examples, log = _usable(data, settings.max_tokens)
    pad = policy.tokenizer.pad_token_id
    collate = _Collate(examples, pad if pad is not None else 0)
    with run_folder(out) as folder, quiet(), restored(policy):
        checkpoints = folder / CHECKPOINTS
        arguments = _arguments(settings, str(checkpoints), len(examples), cpu=policy.model.device.type == "cpu")
        interruption = Interruption()
        recorder = _Recorder(log, on_step, folder if out else None, interruption)
        with adapted(policy, settings.lora, seed=settings.seed % 2**31):
            trainer = recorder.trainer = _trainer(policy, arguments, collate, len(examples), recorder)
            last = last_whole(checkpoints) if resume else None
            log.history += cut_back(folder, step_of(last) if last else 0)
            try:
                with disk_full_explained(checkpoints), interruption.watched() if out else nullcontext():
                    trainer.train(resume_from_checkpoint=str(last) if last else None)
            except NotFinite as error:
                where = "nothing was saved, since no --out was given"
                if out:
                    done = partial(declare_whole, state={})
                    where = emergency(trainer, checkpoints, step=trainer.state.global_step, complete=done)
                raise TrainingError(f"{error} ({where})") from error
            finally:
                policy.model.eval()
                policy.forget()
                policy.model.zero_grad(set_to_none=True)
        if out and not log.interrupted:
            # Adapters are merged by now, and every process has the whole model.
            weights = None if settings.lora else whole_state(trainer.model_wrapped, trainer.accelerator)
            if trainer.accelerator.is_main_process:
                with disk_full_explained(checkpoints):
                    save_policy(policy, folder / "model", weights)
            trainer.accelerator.wait_for_everyone()
    return log


def examples_of(trajectory: Trajectory) -> list[Example]:
    """A trajectory's conversations as sequences of token ids, to be learnt where the model wrote.

    Most strategies hold one conversation; those that start anew (a new prompt segment) give one example for each. What
    comes after the model's last words is left out, as are conversations in which it wrote nothing. Raises `BadInput`
    when the model gives no token ids.
    """
    conversations: list[list[Any]] = []
    for segment in trajectory.segments:
        if segment.token_ids is None:
            raise BadInput(
                f"the model {trajectory.model!r} gives no token ids to train on; sample with a local model (hf/…)"
            )
        if segment.role == "prompt" or not conversations:
            conversations.append([])
        conversations[-1].append(segment)
    examples = []
    for segments in conversations:
        while segments and segments[-1].role != "policy":
            segments.pop()
        ids = tuple(chain.from_iterable(segment.token_ids for segment in segments))
        learn = tuple(chain.from_iterable([segment.role == "policy"] * len(segment.token_ids) for segment in segments))
        if any(learn):
            examples.append(Example(ids, learn))
    return examples


def conversation_example(pupil: LocalModel, conversation: Conversation) -> Example:
    """A written conversation as its pupil would see it, to be learnt where the messages are `policy`: each of these
    with the end of sequence behind it, as a model ends its turn. Raises `BadInput` when it holds none.
    """
    first = next((i for i, message in enumerate(conversation) if message.role == "policy"), None)
    if first is None:
        raise BadInput("a conversation to be learnt from needs a message with the role 'policy'")
    shown = list(conversation[:first])
    _, ids = pupil.render(shown)
    learn = [False] * len(ids)
    for message in conversation[first:]:
        start = len(ids)
        _, ids = pupil.render([*shown, message])  # messages are encoded one by one, so what came before stays
        if message.role == "policy" and message.token_ids is None:
            ids.append(pupil.tokenizer.eos_token_id)
            shown.append(replace(message, token_ids=tuple(ids[start:])))
        else:
            shown.append(message)
        learn += [message.role == "policy"] * (len(ids) - len(learn))
    return Example(tuple(ids), tuple(learn))


def accepted(
    trajectories: Iterable[Trajectory], keep: Callable[[Trajectory], bool], *, per_question: int | None = None
) -> list[Trajectory]:
    """Rejection sampling: the trajectories that `keep` accepts, in order, at most `per_question` of each question.

    Attempts that ended in an error are never accepted, and `keep` is not asked of them. (RAFT, arXiv 2304.06767, and
    the cold starts of cards 17 and 40.)
    """
    taken: Counter[str] = Counter()
    kept = []
    for trajectory in trajectories:
        name = trajectory.question.id
        if trajectory.error is None and (per_question is None or taken[name] < per_question) and keep(trajectory):
            taken[name] += 1
            kept.append(trajectory)
    return kept


def _usable(data: Iterable[Trajectory | Example], longest: int | None) -> tuple[list[Example], SFTLog]:
    found = [e for item in data for e in (examples_of(item) if isinstance(item, Trajectory) else [item])]
    found = [example for example in found if any(example.learn[1:])]  # the first token has nothing before it
    examples = [example for example in found if longest is None or len(example.ids) <= longest]
    if not examples:
        why = (
            f"all {len(found)} sequences are longer than max_tokens={longest}; raise it"
            if found
            else ("none of the examples has a token that the model wrote; sample more, or accept more")
        )
        raise BadInput(f"there is nothing to fine-tune on: {why}")
    log = SFTLog(
        examples=len(examples),
        too_long=len(found) - len(examples),
        tokens=sum(len(example.ids) for example in examples),
        learnt=sum(sum(example.learn[1:]) for example in examples),
    )
    return examples, log


def _arguments(settings: SFTConfig, out: str, examples: int, *, cpu: bool) -> TRLConfig:
    from accelerate import PartialState

    share = max(1, min(settings.batch, examples) // PartialState().num_processes)
    micro = min(settings.micro_batch or share, share)
    return TRLConfig(
        output_dir=out,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=math.ceil(share / micro),
        learning_rate=settings.lr,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule),
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.grad_clip,
        gradient_checkpointing=settings.gradient_checkpointing,
        bf16=settings.bf16,
        seed=settings.seed % 2**31,
        save_strategy="steps" if settings.save_every else "no",
        save_steps=max(1, settings.save_every),
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        remove_unused_columns=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _trainer(policy: LocalModel, arguments: TRLConfig, collate: _Collate, examples: int, recorder: Any) -> SFTTrainer:
    from datasets import Dataset

    trainer = SFTTrainer(
        model=policy.model,
        args=arguments,
        data_collator=collate,
        train_dataset=Dataset.from_dict({"row": range(examples)}),  # the ids themselves stay out of Arrow, for speed
        processing_class=policy.tokenizer,
        callbacks=[recorder],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Collate:
    """Rows of the data set to tensors, padded on the right: input_ids, attention_mask and labels, int64 [B, T]."""

    def __init__(self, examples: Sequence[Example], pad_id: int) -> None:
        self.examples, self.pad_id = examples, pad_id

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        chosen = [self.examples[row["row"]] for row in rows]
        shape = len(chosen), max(len(example.ids) for example in chosen)
        ids = torch.full(shape, self.pad_id)
        mask = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for place, example in enumerate(chosen):
            length = len(example.ids)
            ids[place, :length] = torch.tensor(example.ids)
            mask[place, :length] = 1
            learn = torch.tensor(example.learn)
            labels[place, :length] = torch.where(learn, ids[place, :length], IGNORED)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class _Recorder(TrainerCallback):
    """Takes down the losses, stops when one is not a number or an end is asked for, and completes checkpoints."""

    def __init__(
        self,
        log: SFTLog,
        on_step: Callable[[int, int, float], None],
        folder: Path | None,
        interruption: Interruption,
    ) -> None:
        self.log, self.on_step, self.folder, self.interruption = log, on_step, folder, interruption
        self.trainer: SFTTrainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        check_gradients(self.trainer.model.parameters(), self.trainer.accelerator, step=state.global_step + 1)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if anyone(self.interruption.asked, self.trainer.accelerator):
            # Asked in the last step, there is nothing left to interrupt.
            self.log.interrupted = state.global_step < state.max_steps
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss = float(logs["loss"])
        statistics = {"step": state.global_step, "loss": loss}
        self.log.history.append(statistics)
        if self.folder and state.is_world_process_zero:
            add_statistics(self.folder, statistics)
        self.on_step(int(state.global_step), int(state.max_steps), loss)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            declare_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}", {})
