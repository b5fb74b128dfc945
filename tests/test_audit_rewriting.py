"""`ken audit rewriting`: any model's rewrites of a user's own conversations, measured by where a search puts the gold
passages, beside queries that need no model."""

from __future__ import annotations

import json
import math
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from capitals import command, environment, run_ken
from faulty_server import Action, Answer, FaultyServer, Hang, Status

import ken
from ken.auditing.asking import TOGETHER
from ken.auditing.rewriting import MAX_WORDS, REPORT, REWRITES, audit_rewriting
from ken.core import BadInput, ModelError, Passage, Sampling, SourceError
from ken.core.conversation import ConversationTurn, Exchange
from ken.models.scripted import ScriptedModel
from ken.serving.retrieve import create_app
from ken.sources.search.index import Index

LANDS = {"Kenya": "Nairobi", "Norway": "Oslo", "Peru": "Lima", "Japan": "Tokyo", "Egypt": "Cairo", "Cuba": "Havana"}
# About every land one passage of its capital and one of its money; `about` all lands, so that a query without a name
# finds the wrong ones first.
DOCUMENTS = [
    *(Passage(id=f"{land}-capital", text=f"{city} is the capital of {land}.") for land, city in LANDS.items()),
    *(Passage(id=f"{land}-money", text=f"The money of {land} is printed abroad.") for land in LANDS),
    *(Passage(id=f"about-{i}", text="And its money? What money is it, and whose?") for i in range(3)),
]


def conversation(land: str, rewrite: bool = True) -> list[ConversationTurn]:
    """Two turns: one that stands for itself, one that does not say which land it is about."""
    first = ConversationTurn(
        id=f"{land}_1",
        query=f"What is the capital of {land}?",
        gold=(f"{land}-capital",),
        rewrite=f"What is the capital of {land}?" if rewrite else "",
    )
    second = ConversationTurn(
        id=f"{land}_2",
        query="And its money?",
        history=(Exchange(query=first.query, answer=LANDS[land]),),
        gold=(f"{land}-money",),
        rewrite=f"money of {land}" if rewrite else "",
    )
    return [first, second]


TURNS = [turn for land in LANDS for turn in conversation(land)]


def said(prompt: str) -> str:
    """A rewriter that has read the conversation, except about Cuba (no form) and Egypt (no rewrite)."""
    land = re.findall(r"capital of (\w+)", prompt)[-1]
    topic = "money" if "Query: And its money?" in prompt else "capital"
    if land == "Cuba":
        return f"So: <rewrite>{topic} of {land}</rewrite>"
    return "no idea" if land == "Egypt" else f"<think>{land}</think>\n<rewrite>{topic} of {land}</rewrite>"


def record(turn: ConversationTurn) -> dict[str, Any]:
    context = [text for exchange in turn.history for text in (exchange.query, exchange.answer)]
    gold = {"truth_passages": list(turn.gold), "truth_rewrite": turn.rewrite}
    return {"qid": turn.id, "question": turn.query, "context": context, **gold}


def write(path: Path, turns: list[ConversationTurn] = TURNS) -> Path:
    path.write_text("".join(json.dumps(record(turn)) + "\n" for turn in turns), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewriting") / "index"
    ken.Index.build(DOCUMENTS, folder)
    return folder


def serve(number: int, payload: dict[str, Any]) -> Action:
    return Answer(said(payload["messages"][-1]["content"]))


def line(url: str, index: Path, *more: object) -> list[object]:
    options = ["--conversations", "turns.jsonl", "--index", index, "--model", "openai/m", "--base-url", url]
    return ["audit", "rewriting", *options, "--out", "out", *more]


def test_every_kind_of_query_is_scored_by_the_ranks_of_a_plain_search(index: Path, tmp_path: Path) -> None:
    report = audit_rewriting(TURNS, model=ScriptedModel(said), index=index, out=tmp_path / "out")
    assert [query.kind for query in report.queries] == ["raw", "history", "rewrite", "human"]
    engine = Index.open(index)

    def expected(queries: list[str]) -> tuple[float, float, float]:
        """MRR, NDCG@3 and R@5, counted by hand from the ids that come back: one passage is relevant."""
        found = [[p.id for p in engine.search(query, 100)] for query in queries]
        ranks = [ids.index(t.gold[0]) + 1 if t.gold[0] in ids else 0 for ids, t in zip(found, TURNS, strict=True)]
        n = len(ranks)
        return (
            sum(1 / rank for rank in ranks if rank) / n,
            sum(1 / math.log2(rank + 1) for rank in ranks if 1 <= rank <= 3) / n,
            sum(1 <= rank <= 5 for rank in ranks) / n,
        )

    written = [said(f"capital of {t.id[:-2]} Query: {t.query}") for t in TURNS]
    rewrites = [w.partition("<rewrite>")[2].partition("<")[0] or t.query for w, t in zip(written, TURNS, strict=True)]
    history = [" ".join([*(text for e in t.history for text in (e.query, e.answer)), t.query]) for t in TURNS]
    queries = {
        "raw": [turn.query for turn in TURNS],
        "history": history,
        "rewrite": rewrites,
        "human": [turn.rewrite for turn in TURNS],
    }
    for query in report.queries:
        s = query.whole.scores
        assert (s.mrr, s.ndcg_3, s.r_5) == pytest.approx(expected(queries[query.kind])), query.kind
    raw, rewrite = (report.of(kind) for kind in ("raw", "rewrite"))
    assert raw is not None
    assert rewrite is not None
    assert raw.whole.gain == {}
    gain = rewrite.whole.gain["mrr"]
    assert gain.estimate == pytest.approx(rewrite.whole.scores.mrr - raw.whole.scores.mrr)
    assert gain.low <= gain.estimate <= gain.high
    assert (report.rewrites, report.malformed, report.without, report.failed) == (12, 4, 2, 0)
    assert json.loads((tmp_path / "out" / REPORT).read_bytes()) == report.model_dump(mode="json")


def test_depth_tells_turns_that_lean_on_others_from_those_that_do_not(index: Path, tmp_path: Path) -> None:
    report = audit_rewriting(TURNS, model=ScriptedModel(said), index=index, out=tmp_path / "out")
    raw, human = report.of("raw"), report.of("human")
    assert raw is not None
    assert human is not None
    assert {depth: found.turns for depth, found in raw.by_depth.items()} == {1: 6, 2: 6}
    assert raw.by_depth[1].scores.mrr == human.by_depth[1].scores.mrr == 1
    assert human.by_depth[1].gain["mrr"].high == 0
    assert human.by_depth[2].scores.mrr == 1
    assert raw.by_depth[2].scores.mrr < 0.5
    assert human.by_depth[2].gain["mrr"].low > 0


def test_all_gold_passages_count_as_in_trec(index: Path, tmp_path: Path) -> None:
    both = ConversationTurn(id="b", query="capital of Kenya", gold=("Kenya-capital", "Kenya-money"))
    report = audit_rewriting([both], model=ScriptedModel(lambda _: "none"), index=index, out=tmp_path / "out")
    raw = report.of("raw")
    assert raw is not None
    ids = [p.id for p in Index.open(index).search(both.query, 100)]
    first, second = sorted(ids.index(gold) + 1 for gold in both.gold)
    assert first == 1
    ideal = 1 + 1 / math.log2(3)
    assert raw.whole.scores.mrr == 1
    assert raw.whole.scores.ndcg_3 == pytest.approx((1 + (1 / math.log2(second + 1) if second <= 3 else 0)) / ideal)
    assert raw.whole.scores.r_100 == 1
    assert raw.whole.scores.r_5 == (1 if second <= 5 else 0.5)


def test_human_rewrites_are_measured_where_there_are_any(index: Path, tmp_path: Path) -> None:
    some = [*conversation("Peru"), *conversation("Japan", rewrite=False)]
    human = audit_rewriting(some, model=ScriptedModel(said), index=index, out=tmp_path / "some").of("human")
    assert human is not None
    assert human.whole.turns == 2
    none = audit_rewriting(
        conversation("Japan", rewrite=False), model=ScriptedModel(said), index=index, out=tmp_path / "none"
    )
    assert none.of("human") is None


def test_what_the_index_lacks_is_named_counted_and_left_out(index: Path, tmp_path: Path) -> None:
    lost = TURNS[0].model_copy(update={"id": "lost", "gold": ("Kenya-capital", "nowhere-7")})
    blind = TURNS[0].model_copy(update={"id": "blind", "gold": ()})
    write(tmp_path / "turns.jsonl", [lost, *TURNS, blind])
    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url, index), cwd=tmp_path)
        assert len(server.requests) == len(TURNS)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "2 of 14 turns are left out (lost, blind); the first: the turn 'lost' cannot be ranked" in told
    report = json.loads((tmp_path / "out" / REPORT).read_bytes())
    assert [*report["left_out"]] == ["lost", "blind"]
    assert "'nowhere-7' is not in" in report["left_out"]["lost"]
    assert report["turns"] == 12


def test_the_command_prints_its_tables_in_80_columns_and_asks_nothing_twice(index: Path, tmp_path: Path) -> None:
    write(tmp_path / "turns.jsonl")
    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url, index), cwd=tmp_path)
        asked = len(server.requests)
        again = run_ken(*line(server.base_url, index), cwd=tmp_path)
        assert len(server.requests) == asked == 12
    assert (done.returncode, done.stderr) == (0, "")
    rows = [row.split() for row in done.stdout.splitlines() if row.strip()]
    assert ["query", "turns", "MRR", "NDCG@3", "R@5", "R@10", "R@20", "R@100", "MRR", "against", "raw"] in rows
    assert next(row for row in rows if row[:2] == ["human", "12"])[2] == "1.000"
    assert ["1", "6", "1.000"] in [row[:3] for row in rows]
    assert "Of 12 rewrites 4 broke the form; 2 held none" in done.stdout
    assert all(len(row) <= 80 for row in done.stdout.splitlines())
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_several_rewrites_of_a_turn_are_averaged(index: Path, tmp_path: Path) -> None:
    turns = conversation("Peru")[1:]
    texts = iter(["<think>p</think>\n<rewrite>money of Peru</rewrite>", "<rewrite>zzz</rewrite>"])
    model = ScriptedModel(lambda _: next(texts))
    sampling = Sampling(temperature=0.7)
    report = audit_rewriting(turns, model=model, index=index, out=tmp_path / "out", samples=2, sampling=sampling)
    rewrite = report.of("rewrite")
    assert rewrite is not None
    assert rewrite.whole.scores.mrr == 0.5
    assert (rewrite.whole.turns, report.rewrites, report.malformed) == (1, 2, 1)
    assert len({call.sampling.seed for call in model.calls}) == 2


def test_long_histories_lose_their_beginning_and_are_counted(index: Path, tmp_path: Path) -> None:
    long = (Exchange(query="Kenya " * MAX_WORDS, answer="yes"), *TURNS[3].history)
    turn = TURNS[3].model_copy(update={"history": long})
    report = audit_rewriting([turn], model=ScriptedModel(said), index=index, out=tmp_path / "out")
    history = report.of("history")
    assert history is not None
    assert (history.cut, history.words) == (1, MAX_WORDS)
    assert history.by_depth.keys() == {3}
    kept = " ".join(turn.said.split()[-MAX_WORDS:])
    ids = [p.id for p in Index.open(index).search(kept, 100)]
    assert history.whole.scores.mrr == 1 / (ids.index("Norway-money") + 1)


def test_turns_that_failed_are_said_left_out_of_the_models_row_and_tried_again(index: Path, tmp_path: Path) -> None:
    write(tmp_path / "turns.jsonl")

    def broken(number: int, payload: dict[str, Any]) -> Action:
        return Status(400) if "Norway" in payload["messages"][-1]["content"] else serve(number, payload)

    with FaultyServer(broken) as server:
        done = run_ken(*line(server.base_url, index), cwd=tmp_path)
    assert done.returncode == 1
    assert "ken: 2 turns failed (" in done.stderr
    report = json.loads((tmp_path / "out" / REPORT).read_bytes())
    assert {query["kind"]: query["whole"]["turns"] for query in report["queries"]} == {
        "raw": 12,
        "history": 12,
        "rewrite": 10,
        "human": 12,
    }
    with FaultyServer(serve) as server:
        mended = run_ken(*line(server.base_url, index), cwd=tmp_path)
        assert len(server.requests) == 2
    assert mended.returncode == 0
    assert json.loads((tmp_path / "out" / REPORT).read_bytes())["failed"] == 0


def test_a_model_that_does_not_answer_ends_it(index: Path, tmp_path: Path) -> None:
    def dead(prompt: str) -> str:
        raise ModelError("the server is gone.")

    with pytest.raises(ModelError, match=r"did not answer 12 times in a row \(the server is gone\)"):
        audit_rewriting(TURNS, model=ScriptedModel(dead), index=index, out=tmp_path / "out")
    assert len(TURNS) < TOGETHER
    assert not (tmp_path / "out" / REPORT).exists()


def test_an_interruption_keeps_what_was_rewritten(index: Path, tmp_path: Path) -> None:
    write(tmp_path / "turns.jsonl")
    hanging = threading.Event()

    def stuck(number: int, payload: dict[str, Any]) -> Action:
        if number < 3:
            return serve(number, payload)
        hanging.set()
        return Hang()

    with FaultyServer(stuck) as server:
        arguments = command(*line(server.base_url, index, "--concurrency", 1))
        process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True)
        assert hanging.wait(timeout=120)  # the replies before it were read, one after another
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (130, 1)
    assert "what was rewritten is kept" in err
    kept = len((tmp_path / "out" / REWRITES).read_bytes().splitlines())
    assert kept >= 2
    with FaultyServer(serve) as server:
        done = run_ken(*line(server.base_url, index), cwd=tmp_path)
        assert len(server.requests) == 12 - kept
    assert done.returncode == 0


@pytest.fixture(scope="module")
def service(index: Path) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(Index.open(index)), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_a_retrieve_service_gives_the_scores_of_its_index(index: Path, service: str, tmp_path: Path) -> None:
    local = audit_rewriting(TURNS, model=ScriptedModel(said), index=index, out=tmp_path / "local")
    remote = audit_rewriting(TURNS, model=ScriptedModel(said), index=service, out=tmp_path / "remote")
    assert remote.queries == local.queries
    lost = TURNS[0].model_copy(update={"gold": ("nowhere-7",)})
    believed = audit_rewriting([lost], model=ScriptedModel(said), index=service, out=tmp_path / "believed")
    assert believed.left_out == {}, "the ids of a service cannot be looked up"
    raw = believed.of("raw")
    assert raw is not None
    assert raw.whole.scores.mrr == 0


def test_a_search_engine_that_is_down_is_told_before_the_model_is_asked(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # nobody listens
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        nobody = ScriptedModel(lambda prompt: pytest.fail("there is nothing to search with"))
        with pytest.raises(SourceError, match="did not answer after"):
            audit_rewriting(TURNS, model=nobody, index=address, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: "", "holds no turns"),
        (lambda text: text.replace('"Kenya_2"', '"Kenya_1"'), "ids must be unique"),
        (lambda text: text.replace('"question"', '"query"'), "turns.jsonl:1"),
        (lambda text: re.sub(r'"truth_passages": \[[^\]]*\]', '"truth_passages": []', text), "names a gold passage"),
        (lambda text: re.sub(r"-(capital|money)\"\]", '-flag"]', text), "none of 12 turns can be ranked; the first"),
    ],
    ids=["empty", "an id twice", "another format", "no gold", "another collection"],
)
def test_conversations_that_cannot_be_used_are_one_sentence(
    index: Path, tmp_path: Path, change: Callable[[str], str], problem: str
) -> None:
    path = write(tmp_path / "turns.jsonl")
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    done = run_ken(*line("http://127.0.0.1:1/v1", index), cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert problem in done.stderr
    assert not (tmp_path / "out").exists()


def test_options_that_cannot_work_are_one_sentence_before_anything_is_written(index: Path, tmp_path: Path) -> None:
    write(tmp_path / "turns.jsonl")
    for more, problem in [
        (["--samples", 2], "2 rewrites at temperature 0 are all the same"),
        (["--mode", "dense"], "has no vectors for mode 'dense'"),
        (["--mode", "best"], "there is no mode 'best'"),
        (["--conversations", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--index", "nowhere"], "nowhere"),
        (["--model", "gpt"], "'gpt' is not a model"),
    ]:
        done = run_ken(*line("http://127.0.0.1:1/v1", index, *more), cwd=tmp_path)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
        assert problem in done.stderr
        assert not (tmp_path / "out").exists()
    done = run_ken("audit", "rewriting", "--model", "openai/m", cwd=tmp_path)
    assert done.returncode == 2
    assert "needs --conversations FILE" in done.stderr


def test_a_folder_is_of_one_run_only(index: Path, tmp_path: Path) -> None:
    audit_rewriting(TURNS, model=ScriptedModel(said), index=index, out=tmp_path / "out")
    with pytest.raises(BadInput, match=r"holds an audit of rewriting with other settings .*there were 12 questions"):
        audit_rewriting(TURNS[:4], model=ScriptedModel(said), index=index, out=tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="not empty and holds no audit of rewriting"):
        audit_rewriting(TURNS, model=ScriptedModel(said), index=index, out=tmp_path / "mine")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_endpoint_needs_no_torch() -> None:
    code = "import sys, ken.auditing.rewriting; print({'torch', 'transformers', 'trl'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
