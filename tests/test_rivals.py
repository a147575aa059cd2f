"""What each rival method asks, what it makes of the answers, and what it drops."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facsynth.baselines import cot_self_instruct, evol_instruct, magpie, prismatic, sao, synalign
from facsynth.baselines.frame import SAMPLES, Cap
from facsynth.baselines.geometry import clusters
from facsynth.baselines.given import WAVE
from facsynth.errors import SettingsError
from facsynth.prompts import fill
from facsynth.records import Reply, Request
from facsynth.store import read_jsonl
from facsynth.synthesis.requests import SynthesisSettings, plain_request
from rivals import SHOWN, answered, embed, given, kind_of, sentence, written

Answers = dict[str, Callable[[Request], Any] | str]


def run(folder: Path, name: str, answers: Answers, n: int = 20, **more: Any) -> tuple[dict[str, Any], list[Request]]:
    def answer(request: Request) -> Any:
        found = answers.get(kind_of(request), answered)
        return found if isinstance(found, str) else found(request)

    return written(folder, name, Cap(n), answer, given(**more))


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_jsonl(folder / SAMPLES)


def messages(folder: Path) -> list[str]:
    return [(row.get("messages") or row["prompt"])[0]["content"] for row in rows(folder)]


def test_plain_asks_what_the_control_of_a_run_asks(tmp_path: Path) -> None:
    _, asked = run(tmp_path / "a", "plain", {}, n=40)
    assert asked == [plain_request(n, given().settings) for n in range(48)]


def test_self_instruct_asks_for_lists_after_three_examples_and_drops_what_it_should(tmp_path: Path) -> None:
    dropped = [
        "Draw me a picture of a river in winter", "Why so, then?", "Write a program that counts rivers",
        "~~ what of the river and the mountain ~~",
    ]  # fmt: skip

    def listed(request: Request) -> str | Reply:
        one, other = sentence(request.sample_index), sentence(request.sample_index, 9)
        items = [one, other, f"{other} again", *dropped, sentence("cut")]
        text = "\n".join(f"{n}. {item}" for n, item in enumerate(items, start=4))
        return Reply(text, "length", 9, 90, 0.0)

    found, asked = run(tmp_path / "a", "self-instruct", {"self_instruct": listed}, n=16)
    for request in asked:
        examples = re.findall(r"(?m)^\d\. (.*)", request.messages[0].content)
        assert len(set(examples)) == 3 and set(examples) <= {*SHOWN}
        assert (request.prefix, request.max_tokens) == ("4.", 30 * 17 // 2)
    assert len(asked) == 4 + 8, "two of a list are accepted: eight lists give a wave's sixteen"
    assert found["n_rejected"] == {
        "much like another one": 12, "asks for what is no text: draw": 12, "not 4 to 150 words": 12,
        "begins as no item may": 24,
    }  # fmt: skip
    assert sentence("cut") not in messages(tmp_path / "a")
    assert not set(dropped) & set(messages(tmp_path / "a"))


def test_lists_of_a_chat_endpoint_begin_with_their_first_number(tmp_path: Path) -> None:
    def listed(request: Request) -> str:
        one, other = sentence(request.sample_index), sentence(request.sample_index, 5)
        return f"Here are more of these messages for you:\n4. {one}\n5) {other}"

    _, asked = run(tmp_path / "a", "self-instruct", {"self_instruct": listed}, n=16, asks="message")
    assert not any(request.prefix for request in asked)
    assert all(text.startswith("the ") for text in messages(tmp_path / "a"))


def test_evol_goes_on_from_what_was_accepted_and_no_more_than_four_times(tmp_path: Path) -> None:
    _, asked = run(tmp_path / "a", "evol-instruct", {}, n=300)
    kinds = Counter(map(kind_of, asked))
    assert kinds["evol"] > 2 * kinds["breadth"] > 0, "four ways of five go deeper"
    assert kinds["equal"] == kinds["reply"] == kinds["evol"] + kinds["breadth"]
    assert all(how in " ".join(r.messages[0].content for r in asked) for how in evol_instruct.DEEPER)
    depth = dict.fromkeys(SHOWN, 0)
    for request in asked:
        if kind_of(request) in {"evol", "breadth"}:
            before = request.messages[0].content.split("\n\n")[1].strip('"')
            depth[answered(request)] = depth[before] + 1
    assert max(depth.values()) == evol_instruct.ROUNDS


@pytest.mark.parametrize(
    ("kind", "answer", "reason"),
    [("equal", " equal", evol_instruct.SAME), ("reply", "Sorry, but that is nothing for me.", evol_instruct.NO_ANSWER),
     ("reply", "... and it is so!", evol_instruct.NO_ANSWER),
     ("evol", "The rewritten prompt is about a river in winter", evol_instruct.FROM_PROMPT)],
)  # fmt: skip
def test_evol_drops_what_gains_nothing(kind: str, answer: str, reason: str, tmp_path: Path) -> None:
    def sometimes(request: Request) -> str:
        return answer if request.sample_index % 3 else answered(request)

    found, _ = run(tmp_path / "a", "evol-instruct", {kind: sometimes})
    assert found["n_rejected"][reason] > 0
    assert found["n_accepted"] == 20


def test_what_answered_an_evolved_message_is_its_reply_and_a_labelled_one_is_not_answered(tmp_path: Path) -> None:
    _, asked = run(tmp_path / "a", "evol-instruct", {}, form="chat")
    n_drafts = sum(kind_of(request) in {"evol", "breadth"} for request in asked)
    assert sum(kind_of(request) == "reply" for request in asked) == n_drafts
    answers = {r.messages[0].content: answered(r) for r in asked if kind_of(r) == "reply"}
    turns = [[turn["content"] for turn in row["messages"]] for row in rows(tmp_path / "a")]
    assert all(answers[message] == reply for message, reply in turns)
    _, asked = run(tmp_path / "b", "evol-instruct", {"reply": "Sorry."}, label="toxic")
    assert "reply" not in map(kind_of, asked)


def test_magpie_begins_with_the_turn_of_the_user_and_keeps_what_is_rated_well(tmp_path: Path) -> None:
    def rating(request: Request) -> str:
        if any(text in request.messages[0].content for text in SHOWN):
            return " good"
        return (" very poor", " of some sort", " Poor.", " average", " excellent")[request.sample_index % 5]

    found, asked = run(tmp_path / "a", "magpie", {"rating": rating})
    first = [request for request in asked if request.role == "user"]
    assert all((request.messages, request.stop, request.prefix) == ((), "\n", "") for request in first)
    assert found["notes"] == []
    assert found["n_rejected"][magpie.POOR] > found["n_rejected"][magpie.NO_RATING] > 0
    assert Counter(map(kind_of, asked)) == {"rating": len(SHOWN) + len(first), "user": len(first)}
    found, asked = run(tmp_path / "b", "magpie", {}, many="letters of sailors")
    spoken = next(request for request in asked if request.role == "user")
    assert (spoken.messages[0].role, len(found["notes"])) == ("system", 1)
    assert "letters of sailors" in spoken.messages[0].content


def test_magpie_leaves_out_ratings_of_a_writer_that_finds_the_anchor_poor(tmp_path: Path) -> None:
    found, asked = run(tmp_path / "a", "magpie", {"rating": " poor"})
    assert (found["n_accepted"], found["n_rejected"]) == (20, {})
    assert sum(kind_of(request) == "rating" for request in asked) == len(SHOWN)
    assert found["notes"] == ["no ratings: the writer finds 12 of 12 texts of the anchor poor"]


def test_cot_takes_what_stands_behind_the_last_mark(tmp_path: Path) -> None:
    plans = {
        0: "no mark at all, only a plan of a river", 1: "Step 1. FINAL: is what I write then.\n**FINAL:** {}",
        2: "FINAL: {}",
    }  # fmt: skip

    def planned(request: Request) -> str:
        return plans[request.sample_index % 3].format(sentence(request.sample_index))

    found, asked = run(tmp_path / "a", "cot-self-instruct", {"plan": planned})
    assert found["n_rejected"] == {cot_self_instruct.NO_MESSAGE: 11}
    assert {len(re.findall('(?m)^"', r.messages[0].content)) for r in asked} == {2}
    assert all(text.startswith("the ") for text in messages(tmp_path / "a"))
    assert "no filter" in found["notes"][0]


def test_cot_asks_for_votes_on_labelled_messages(tmp_path: Path) -> None:
    def vote(request: Request) -> str:
        text = request.messages[0].content
        n_yes = 4 if "river" in text else 5
        return " yes" if request.sample_index % 8 < n_yes else " no, hardly"

    found, asked = run(tmp_path / "a", "cot-self-instruct", {"vote": vote}, n=200, label="toxic")
    votes = Counter(r.messages[0].content for r in asked if kind_of(r) == "vote")
    assert set(votes.values()) == {cot_self_instruct.N_VOTES}
    assert all(r.temperature == SynthesisSettings.temperature for r in asked if kind_of(r) == "vote")
    assert found["n_rejected"][cot_self_instruct.OUTVOTED] == sum("river" in text for text in votes) > 0
    assert found["notes"] == []


def test_cot_drops_the_half_whose_worst_reply_is_poorest(tmp_path: Path) -> None:
    marks: dict[str, list[float]] = {}

    def reward(message: str, reply: str) -> float:
        marks.setdefault(message, []).append(len(reply) + 0.01 * len(message))
        return marks[message][-1]

    found, _ = run(tmp_path / "a", "cot-self-instruct", {}, n=WAVE // 2, reward=reward)
    assert found["n_rejected"] == {cot_self_instruct.LOW_REWARD: WAVE // 2}
    assert {len(given_) for given_ in marks.values()} == {cot_self_instruct.N_REPLIES}
    lowest = {message: min(given_) for message, given_ in marks.items()}
    kept = set(messages(tmp_path / "a"))
    assert min(lowest[m] for m in kept) >= max(low for m, low in lowest.items() if m not in kept)


def test_sao_plays_every_persona_before_any_twice(tmp_path: Path) -> None:
    _, asked = run(tmp_path / "a", "sao", {}, n=120)
    personas = fill("sao_personas").splitlines()
    assert len({*personas}) == 60
    played = [re.findall("somebody: (.*)", request.messages[0].content)[0] for request in asked]
    assert Counter(played[:60]) == Counter(personas) == Counter(played[60:120])
    assert played[:60] != personas


def test_sao_makes_pairs_of_what_is_better_in_both_orders(tmp_path: Path) -> None:
    _, asked = run(tmp_path / "a", "sao", {}, form="preference")
    assert "worse" not in map(kind_of, asked), "the worse reply is there already"
    for row in rows(tmp_path / "a"):
        better, worse = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert f'"{better}"' > f'"{worse}"', "as the judge of this test has it"
    found, _ = run(tmp_path / "b", "sao", {"better": " first"}, form="preference")
    assert found["n_accepted"] == 0 and set(found["n_rejected"]) == {sao.TIE}
    found, asked = run(tmp_path / "c", "sao", {}, form="chat")
    assert Counter(map(kind_of, asked)) == {"persona": 2 * WAVE, "reply": 2 * WAVE}


def test_prismatic_keeps_what_falls_into_small_clusters_and_shows_it(tmp_path: Path) -> None:
    axis = np.eye(16)

    def gradients(texts: Any) -> np.ndarray:
        """Most of the anchor on one axis, each of the others on its own; new ones on that or on one of these."""
        alone = {text: n for n, text in enumerate(SHOWN) if n >= 5}
        return 3 * axis[[alone.get(text, 0 if text in SHOWN or "river" in text else 7) for text in texts]]

    found, asked = run(tmp_path / "a", "prismatic", {}, n=40, gradients=gradients)
    assert all(len(re.findall(r"(?m)^\d\. ", request.messages[0].content)) == 5 for request in asked)
    assert found["n_rejected"][prismatic.CROWDED] > 0
    later = " ".join(request.messages[0].content for request in asked[16:])
    assert any(text in later for text in messages(tmp_path / "a")[:16])


def test_a_candidate_is_crowded_where_its_nearest_centre_has_many() -> None:
    x = np.random.default_rng(0).normal(size=(140, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    pool, new = x[:100], x[100:]
    crowded = prismatic.is_crowded(pool, new, np.random.default_rng(1))
    centres, of = clusters(pool, 10, np.random.default_rng(1))
    sizes = [int((of == np.argmax(centres @ row)).sum()) for row in new]
    kept = [size for size, full in zip(sizes, crowded, strict=True) if not full]
    left = [size for size, full in zip(sizes, crowded, strict=True) if full]
    assert max(kept) <= min(left)
    assert len({*kept}) <= 5


def test_synalign_describes_each_group_once_and_keeps_the_heavier_half(tmp_path: Path) -> None:
    found, asked = run(tmp_path / "a", "synalign", {}, n=40)
    kinds = Counter(map(kind_of, asked))
    assert kinds["describe"] == len(SHOWN)
    assert found["n_rejected"] == {synalign.NO_WEIGHT: kinds["aligned"] // 2}
    for request in asked:
        assert len(re.findall(r"(?m)^\d\. ", request.messages[0].content)) == synalign.N_SHOWN
        assert (request.prefix, request.stop) == (("4.", "\n") if kind_of(request) == "aligned" else ("", ""))
    first = list(dict.fromkeys(r.messages[0].content for r in asked if kind_of(r) == "aligned"))
    assert all(any(text in prompt for prompt in first) for text in SHOWN)
    assert r'"calm tone\nplain style"' in first[0]


def test_synalign_prefers_what_is_like_the_examples(tmp_path: Path) -> None:
    def mixed(request: Request) -> str:
        n = request.sample_index
        return (
            f"{' '.join(SHOWN[n % len(SHOWN)].split()[1:5])} {n} of them" if n % 2 else f"a quite other thing than {n}"
        )

    run(tmp_path / "a", "synalign", {"aligned": mixed}, n=12)
    similar = (embed(messages(tmp_path / "a")) @ embed(SHOWN).T).max(axis=1)
    assert np.median(similar) > 0.5


@pytest.mark.parametrize(("name", "part"), [("prismatic", "gradients"), ("synalign", "embed")])
def test_what_a_method_needs_is_said(name: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="and none is given"):
        run(tmp_path / "a", name, {}, **{part: None})
    assert not (tmp_path / "a" / "manifest.json").exists()
