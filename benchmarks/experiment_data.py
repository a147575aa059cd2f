"""The files that the experiments of docs/RESULTS.md draw from, out of public data sets: parts that share no text.

    python benchmarks/experiment_data.py DATA OUT

OUT/toxicity: labelled messages. anchor: half of the toxic rows of ToxicChat's training part and all red-team
instructions, and as many that are not toxic: half of ToxicChat's, and instructions; known: the
other half of the toxic rows, benign: further instructions, from which seed sets are drawn; pool: the other rows
of ToxicChat, none of them toxic; test: its validation part. They hold offensive texts.
OUT/selection: another anchor for the same test: what of the first is ToxicChat's, as a user's own traffic would be;
pool: rows of many kinds, the rest of ToxicChat, red-team and other instructions; benign: for seed sets.
OUT/traffic: the same anchor, and a wider test: all of ToxicChat that is not in it; known: red-team instructions, of
which a seed set has its toxic rows then.
OUT/steering, OUT/reward: halves of the training parts, and the validation parts.
OUT/instruction: chats; test: 100 instructions of AlpacaEval's, reference: text-davinci-003's answers to them; judge:
pairs of answers of other models to other instructions, as people judged them (PandaLM, Auto-J).
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BEHAVIOURS = (
    "sycophancy", "survival-instinct", "myopic-reward", "refusal", "corrigible-neutral-HHH", "coordinate-other-ais",
)  # fmt: skip


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def message(text: str, label: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "label": label}


def once(rows: Iterable[dict[str, Any]], known: set[str]) -> list[dict[str, Any]]:
    """Rows whose text is not known yet."""
    found = []
    for row in rows:
        text = row["messages"][0]["content"].strip()
        if text and text not in known:
            known.add(text)
            found.append(row)
    return found


def chats(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message(row["instance"], int(row["annotations"]["toxicity"]["majority_human"])) for row in rows]


def prompt_of(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n\n{row.get('input') or ''}".strip()


def instructions(rows: list[dict[str, Any]], label: int) -> list[dict[str, Any]]:
    return [message(prompt_of(row), label) for row in rows]


def toxicity(data: Path, out: Path) -> None:
    known: set[str] = set()
    rng = random.Random("toxicity")
    test = once(chats(read(data / "toxicchat_validation.jsonl.gz")), known)
    train = once(chats(read(data / "toxicchat_train.jsonl.gz")), known)
    red = once(instructions(read(data / "redteam_instructions.jsonl.gz"), 1), known)
    benign = once(instructions(read(data / "benign_instructions.jsonl.gz"), 0), known)
    rng.shuffle(train)
    rng.shuffle(benign)
    toxic, others = ([row for row in train if row["label"] == label] for label in (1, 0))
    half = len(toxic) // 2
    positive = [*toxic[:half], *red]
    n_chats = min(len(others) // 2, len(positive))
    n_other = len(positive) - n_chats
    negative, benign = [*others[:n_chats], *benign[:n_other]], benign[n_other:]
    write(out / "anchor.jsonl", [*positive, *negative])
    write(out / "known.jsonl", toxic[half:])
    write(out / "benign.jsonl", benign)
    write(out / "pool.jsonl", others[n_chats:])
    write(out / "test.jsonl", test)
    n_mixed = 2_000
    mixed = [*others[n_chats:], *toxic[half:], *random.Random("mixed").sample(red, 1_000), *benign[-n_mixed:]]
    selection = out.parent / "selection"
    write(selection / "anchor.jsonl", [*toxic[:half], *others[:n_chats]])
    write(selection / "pool.jsonl", mixed)
    write(selection / "benign.jsonl", benign[:-n_mixed])
    write(out.parent / "traffic" / "test.jsonl", [*test, *toxic[half:], *others[n_chats:]])
    write(out.parent / "traffic" / "known.jsonl", red)


def halves(rows: list[dict[str, Any]], key: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rng = random.Random(key)
    shuffled = rng.sample(rows, len(rows))
    return shuffled[: len(rows) // 2], shuffled[len(rows) // 2 :]


def chat(prompt: str, reply: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]}


def answered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chats of rows with instruction, input and output."""
    return [chat(prompt_of(row), row["output"]) for row in rows]


def preferred(prompt: str, replies: tuple[str, str], votes: list[int]) -> list[dict[str, Any]]:
    """A pair of what most people voted for, 0 or 1; none where they are even."""
    first, second = votes.count(0), votes.count(1)
    if first == second:
        return []
    better = int(second > first)
    return [{"prompt": prompt, "chosen": replies[better], "rejected": replies[1 - better]}]


def judged(data: Path) -> Iterator[dict[str, Any]]:
    for row in read(data / "autoj_pairwise_train.jsonl.gz"):  # 0: the first, 1: the second, 2: a tie
        yield from preferred(row["prompt"], (row["response 1"], row["response 2"]), [int(row["label"])])
    for row in read(data / "pandalm_human_train.jsonl.gz"):  # 1: the first, 2: the second, 0: a tie
        votes = [int(row[f"annotator{n}"]) - 1 for n in (1, 2, 3)]
        yield from preferred(prompt_of(row), (row["response1"], row["response2"]), votes)


def instruction(data: Path, rewards: Path, out: Path) -> None:
    seeds = [{**row, **row["instances"][0]} for row in read(data / "self_instruct_seed_tasks.jsonl.gz")]
    write(out / "anchor.jsonl", answered([*read(data / "alpaca_en_demo.jsonl.gz"), *seeds]))
    write(out / "rest.jsonl", answered(read(data / "small_instruction_data.jsonl.gz")))
    outputs = random.Random("test").sample(read(data / "alpacaeval_dev_outputs_text_davinci_003.jsonl.gz"), 100)
    asked = {row["instruction"] for row in outputs}
    write(out / "test.jsonl", ({"instruction": row["instruction"], "dataset": row["dataset"]} for row in outputs))
    write(out / "reference.jsonl", (chat(row["instruction"], row["output"]) for row in outputs))
    write(out / "judge.jsonl", (row for row in judged(rewards) if row["prompt"] not in asked))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    toxicity(asked.data / "toxicity", asked.out / "toxicity")
    for name in BEHAVIOURS:
        anchor, rest = halves(read(asked.data / "steering" / f"{name}_train.jsonl.gz"), name)
        write(asked.out / "steering" / name / "anchor.jsonl", anchor)
        write(asked.out / "steering" / name / "rest.jsonl", rest)
        write(
            asked.out / "steering" / name / "test.jsonl", read(asked.data / "steering" / f"{name}_validation.jsonl.gz")
        )
    anchor, rest = halves(read(asked.data / "reward" / "hh_harmless_base_train.jsonl.gz"), "reward")
    write(asked.out / "reward" / "anchor.jsonl", anchor)
    write(asked.out / "reward" / "rest.jsonl", rest)
    write(asked.out / "reward" / "test.jsonl", read(asked.data / "reward" / "hh_harmless_base_validation.jsonl.gz"))
    instruction(asked.data / "instruction", asked.data / "reward", asked.out / "instruction")


if __name__ == "__main__":
    main()
