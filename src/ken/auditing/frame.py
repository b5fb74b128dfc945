"""An audit as a data frame, one row an attempt, for questions that the report does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ken.auditing.folder import LOG, read_settings
from ken.auditing.judged import judged_right
from ken.auditing.log import read_log
from ken.auditing.verdicts import Verdicts, read_verdicts
from ken.core import Question, Trajectory, Unsupported
from ken.metrics import exact_match, substring_match, token_f1

if TYPE_CHECKING:
    import pandas


def load_audit(out: str | Path) -> pandas.DataFrame:
    """The trajectories of the audit in `out` as a pandas data frame.

    Columns: question_id, question, golds, strategy, sample (missing for the attempt that counts), answer, em, sub_em,
    f1 (missing without golds), judged (where there was a judge: missing without golds, for samples, and where it said
    nothing readable), knows, verdict_confidence, answer_confidence, searches (queries), passages (ids),
    malformed, error, the fields of `Usage`, and meta.* of the question. Needs the extra `frames`.
    """
    try:
        import pandas
    except ImportError as error:
        raise Unsupported("load_audit needs pandas; install it with: pip install 'ken[frames]'") from error
    judge = read_settings(Path(out)).judge
    verdicts = read_verdicts(Path(out), judge) if judge else None
    rows = [_row(t, verdicts) for t in read_log(Path(out) / LOG).values()]
    frame = pandas.DataFrame(rows, columns=None if rows else list(_row(_NOBODY, verdicts)))
    return frame.astype({name: kind for name, kind in _TYPES.items() if name in frame})


_NOBODY = Trajectory(question=Question(id="–", text="–"), strategy="–")  # names the columns of an empty frame

_TYPES = {
    "sample": "Int64",
    "em": "boolean",
    "sub_em": "boolean",
    "f1": "Float64",
    "judged": "boolean",
    "knows": "boolean",
    "verdict_confidence": "Float64",
    "answer_confidence": "Float64",
}  # pandas' own nullable types: missing is not False, and not a reason to make a number of a truth


def _row(t: Trajectory, verdicts: Verdicts | None) -> dict[str, Any]:
    golds = t.question.answers
    scored = bool(golds) and t.error is None
    right = judged_right(t, verdicts) if scored and verdicts and t.sample is None else None
    return {
        "question_id": t.question.id,
        "question": t.question.text,
        "golds": list(golds),
        "strategy": t.strategy,
        "sample": t.sample,
        "answer": t.answer,
        "em": exact_match(t.answer, golds) if scored else None,
        "sub_em": substring_match(t.answer, golds) if scored else None,
        "f1": token_f1(t.answer, golds) if scored else None,
        **({} if verdicts is None else {"judged": right if isinstance(right, bool) else None}),
        "knows": t.decision.knows if t.decision else None,
        "verdict_confidence": t.decision.confidence if t.decision else None,
        "answer_confidence": t.answer_confidence,
        "searches": [s.query for s in t.searches],
        "passages": [p.id for p in t.passages],
        "malformed": t.malformed,
        "error": t.error,
        **t.usage.model_dump(),
        **{f"meta.{key}": value for key, value in t.question.meta.items()},
    }
