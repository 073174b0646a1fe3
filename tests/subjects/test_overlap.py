"""Near-duplicates and benchmark overlap, against a brute-force comparison and planted cases."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pandas as pd
import pytest

from reseed.subjects.overlap import near_duplicates, overlap, sae_probes_folder, sae_probes_prompts, text_key, words


def jaccard(one: str, other: str) -> float:
    """Of the sets of word 5-grams, written anew."""
    sets = []
    for text in (one, other):
        found = words(text)
        sets.append({" ".join(found[i : i + 5]) for i in range(max(1, len(found) - 4))} if found else set())
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if sets[0] | sets[1] else 0.0


def texts(count: int, seed: int) -> list[str]:
    """Texts of 1 to 30 words out of few, many of them edited copies of others."""
    draw = random.Random(seed)
    made: list[str] = []
    for _ in range(count):
        if made and draw.random() < 0.6:
            copy = draw.choice(made).split()
            for _ in range(draw.randrange(4)):
                copy[draw.randrange(len(copy))] = draw.choice("abcdefgh")
            made.append(" ".join(copy))
        else:
            made.append(" ".join(draw.choice("abcdefgh") for _ in range(draw.randrange(1, 31))))
    return made


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(threshold: float) -> None:
    made = texts(300, seed=1)
    training, held_out = made[:200], made[200:]
    wanted = {}
    for i, text in enumerate(training):
        best = max(range(len(held_out)), key=lambda j: (jaccard(text, held_out[j]), -j))
        if jaccard(text, held_out[best]) >= threshold:
            wanted[i] = best
    assert near_duplicates(training, held_out, threshold) == wanted
    assert 0 < len(wanted) < len(training)


def test_case_spaces_and_punctuation_do_not_hide_a_duplicate() -> None:
    held_out = ["How many apples does Ada have left in all?"]
    assert near_duplicates(["how  many apples: does ADA have left, in all"], held_out, 1.0) == {0: 0}
    assert text_key("A b,  C!") == text_key("a B c") != text_key("a b")


def test_texts_without_words_are_no_duplicates() -> None:
    assert near_duplicates(["", "?!"], ["", "..."], 0.5) == {}


def holds(text: str, benchmark: str) -> bool:
    """The rule of `overlap`, by comparing the words themselves."""
    inside, asked = words(text), words(benchmark)
    if len(asked) < 8:
        return bool(asked) and inside == asked
    n = min(13, len(asked))
    pieces = {tuple(inside[i : i + n]) for i in range(len(inside) - n + 1)}
    return any(tuple(asked[i : i + n]) in pieces for i in range(len(asked) - n + 1))


def test_overlap_is_that_of_a_comparison_of_all_pairs() -> None:
    draw = random.Random(2)
    plain = [" ".join(draw.choice("abc") for _ in range(draw.randrange(1, 60))) for _ in range(60)]
    benchmark = [" ".join(draw.choice("abc") for _ in range(draw.randrange(1, 20))) for _ in range(60)]
    plain += benchmark[:5]
    wanted = {}
    for i, text in enumerate(plain):
        holding = [asked for asked in benchmark if holds(text, asked)]
        if holding:
            wanted[i] = holding[0]
    assert overlap(plain, iter(benchmark)) == wanted
    assert 0 < len(wanted) < len(plain)


def test_thirteen_words_in_a_row_overlap_and_twelve_do_not() -> None:
    prompt = " ".join(f"w{i}" for i in range(20))
    row = [f"x{i}" for i in range(50)]
    row[10:22] = prompt.split()[4:16]
    assert overlap([" ".join(row)], [prompt]) == {}
    row[22] = prompt.split()[16]
    assert overlap([" ".join(row)], [prompt]) == {0: prompt}


def test_words_in_a_row_do_not_run_from_one_text_into_the_next() -> None:
    prompt = " ".join(f"w{i}" for i in range(13))
    halves = [" ".join(prompt.split()[:6]), " ".join(prompt.split()[6:])]
    assert overlap(halves, [prompt]) == {}
    assert overlap([" ".join(halves)], [prompt]) == {0: prompt}


def test_no_texts_and_no_benchmark() -> None:
    assert overlap([], ["a b c d e f g h i"]) == {}
    assert overlap(["a b c"], []) == {}
    assert overlap(["a b c d e f g h"], ["", "?"]) == {}


def test_the_prompts_of_sae_probes_are_found_inside_a_training_text(tmp_path: Path) -> None:
    folder = sae_probes_folder()
    assert folder is not None, "sae-probes is a dependency, and its wheel holds its data"
    (tmp_path / "one").mkdir()
    shutil.copy(folder / "cleaned_data" / "100_news_fake.csv.zst", tmp_path / "one")
    prompts = list(sae_probes_prompts(tmp_path))
    longest = max(prompts, key=lambda prompt: len(words(prompt)))
    assert len(words(longest)) >= 13
    found = overlap(["nothing of it", f"Once upon a time: {longest.upper()} And so on."], prompts)
    assert list(found) == [1]


def test_every_data_set_of_sae_probes_has_prompts_that_the_check_can_read() -> None:
    folder = sae_probes_folder()
    assert folder is not None
    listed = pd.read_csv(folder / "probing_datasets_MASTER.csv.zst")
    binary = listed[listed["Data type"] == "Binary Classification"]["Dataset save name"]
    assert len(binary) == 113
    read = {path.name for path in folder.glob("*/*.csv*")}
    for name in binary:
        path = folder / f"{name}.zst"
        assert path.name in read
        assert "prompt" in pd.read_csv(path, nrows=1)


def test_words_that_all_texts_share_do_not_make_it_quadratic() -> None:
    made = [f"{i} how many of them are there in all if {i} more of them are bought {i * 7}" for i in range(8000)]
    started = time.process_time()
    assert near_duplicates(made[:4000], made[4000:], 0.8) == {}
    assert time.process_time() - started < 10  # comparing all pairs takes minutes
