"""A reward head as the judge of answers: what its pairs prefer, in both orders, and the command with it."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_run
from facsynth.evaluating.fitting import Setup
from facsynth.evaluating.rated import Rater
from facsynth.evaluating.reward import read_pairs
from facsynth.records import no_progress
from facsynth.settings import ModelBlock
from facsynth.tasks.instruction import Duel, Verdict
from fault_server import FaultServer
from test_instruction import Bench
from tiny import save_model
from tiny_cli import facsynth


def preferences(path: Path, n: int) -> Path:
    """Pairs of which the reply with granite is the better one."""
    rows = [
        {"prompt": f"{tiny_run.WORDS[k % 20]}?", "chosen": f"granite {k}", "rejected": f"chalk {k}"} for k in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_reward_head_judges_by_what_its_pairs_prefer(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", n_blocks=2)
    pairs = read_pairs([str(preferences(tmp_path / "pairs.jsonl", 40))])
    setup = Setup(
        "instruction", ModelBlock(path=str(model), dtype="float32"), "head", [0], tmp_path, tmp_path, no_progress
    )
    duels = [Duel(f"s{k}", f"{tiny_run.WORDS[k]}?", f"granite {k + 50}", f"chalk {k + 50}") for k in range(8)]
    found = Rater(pairs, setup).verdicts(duels)
    assert found == [Verdict("A", "B", 1.0)] * 8
    turned = Rater(pairs, setup).verdicts([d._replace(ours=d.reference, reference=d.ours) for d in duels])
    assert turned == [Verdict("B", "A", 0.0)] * 8
    (even,) = Rater(pairs, setup).verdicts([Duel("s", "Which?", "granite", "granite")])
    assert even == Verdict(None, None, 0.5)


def test_the_command_takes_pairs_in_the_place_of_a_judge(tmp_path: Path, server: FaultServer) -> None:
    bench = Bench(tmp_path, server)
    words = (
        "eval", "instruction", "--test", bench.reference, "--reference", bench.reference, "--model", bench.model,
        "--dtype", "float32", "--answer-tokens", 8,
    )  # fmt: skip
    done = facsynth(*words, "--judge-pairs", preferences(tmp_path / "p.jsonl", 40), "-o", tmp_path / "r", "--json")
    assert done.code == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["judge"].startswith("stand-in: a reward head on 40 pairs") and "a stand-in" in done.stderr
    assert record["judging"]["letters"]["A"] == record["judging"]["letters"]["B"]
    few = facsynth(*words, "--judge-pairs", preferences(tmp_path / "few.jsonl", 4), "-o", tmp_path / "few")
    assert (few.code, "4 pairs, and 10 are needed" in few.stderr) == (1, True)
    both = bench.run("both", "--judge-pairs", tmp_path / "p.jsonl")
    assert (both.code, "Name one of them" in both.stderr) == (2, True)
