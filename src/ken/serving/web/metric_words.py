"""What a metric is, in a few words, for the names that mean the same wherever they stand."""

from __future__ import annotations

# Those of a training, in the order in which its page shows them.
TRAINING = {
    "reward": "reward, mean over rollouts",
    "f1_aware": "F1 of knowing what it knows",
    "agreement": "agreement of its judgements",
    "searches": "searches per question",
    "zero_variance": "share of groups that score alike",
    "loss": "what the optimizer lowers",
    "kl": "KL to the model before",
    "entropy": "entropy, nats a token",
    "says_yes": "share of decisions that claim to know",
    "one_decision": "share of the commoner decision",
    "format": "share that keeps to the format",
    "truncated": "share cut at max_tokens",
    "tokens": "tokens of a rollout",
    "pool": "tasks in the pool",
}

_MEASURED = {
    "em": "share of answers that match exactly",
    "f1": "F1 over the answers' words",
    "acc": "share of right answers",
    "accuracy": "share that is right",
    "auroc": "area under the ROC curve",
    "macro_f1": "F1, mean over both classes",
    "mrr": "mean reciprocal rank",
    "malformed": "what does not follow the protocol",
}


def words_of(metric: str) -> str:
    """Words for a metric or its curve (`reward_curve`, `searches/hard_curve`), "" where there are none.

    >>> words_of("searches/hard_curve"), words_of("em_2")
    ('searches per question', '')
    """
    name = metric.removesuffix("_curve").partition("/")[0]
    return _MEASURED.get(name) or TRAINING.get(name, "")
