"""Language models: the parts of a document, and its persons by other names.

Given names that are one token of the tokenizer trade places with others of their kind, the same in the whole text, so
that every token keeps its position and the text its meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from reseed import ReseedError
from reseed.activations.language import Hooked, Reader, TextBatch, reading, text_batches
from reseed.coverage.domain import Domain
from reseed.params import LanguageCapture
from reseed.text.sequences import STEP, TEXT, Sequences
from reseed.text.tokenizers import TextTokenizer

ROWS = 20_000
"""Test rows that are read, in whole sequences from the first on."""
NAMES = (
    (
        "Alice", "Amy", "Anna", "Carla", "Caroline", "Donna", "Elizabeth", "Ella", "Emily", "Emma", "Jane", "Janet",
        "Jen", "Jenny", "Jessica", "Julia", "Kate", "Katie", "Kelly", "Laura", "Lisa", "Lucy", "Maria", "Marie",
        "Martha", "Mary", "Megan", "Melissa", "Nancy", "Natalie", "Olivia", "Rachel", "Rebecca", "Samantha",
        "Sandra", "Sarah", "Sophia", "Susan", "Tina",
    ),
    (
        "Adam", "Alan", "Alex", "Andrew", "Ben", "Bob", "Brandon", "Brian", "Carl", "Carlos", "Charles", "Charlie",
        "Christopher", "Dan", "Daniel", "David", "Edward", "Eric", "Fred", "George", "Henry", "Jack", "Jacob",
        "Jake", "James", "Jason", "Jeff", "Jerry", "Jim", "Joe", "John", "Jonathan", "Joseph", "Josh", "Ken",
        "Kevin", "Kyle", "Larry", "Luke", "Martin", "Matthew", "Michael", "Mike", "Paul", "Peter", "Robert", "Ryan",
        "Sam", "Scott", "Stephen", "Steve", "Ted", "Thomas", "Tim", "Tom", "Tommy", "Tony", "William",
    ),
)  # fmt: skip
"""Given names that are no other word of English as well (not: Bill, Grace, Mark), for `she` and for `he`."""


def other_names(tokenizer: TextTokenizer) -> Tensor:
    """For every token [vocabulary] the one that takes its place: a permutation, without a fixed point among the names.

    Raises ReseedError if the tokenizer has fewer than two names of each kind as one token.
    """
    new = torch.arange(tokenizer.vocabulary)
    for kind in NAMES:
        found = 0
        for form in ("{}", " {}"):
            ids = (tokenizer.tokenizer.encode(form.format(name), add_special_tokens=False).ids for name in kind)
            single = [ids[0] for ids in ids if len(ids) == 1]
            left = [token for token in dict.fromkeys(single) if int(new[token]) == token != tokenizer.unknown]
            if len(left) > 1:
                new[torch.tensor(left)] = torch.tensor(left).roll(1)
                found += len(left)
        if not found:
            raise ReseedError(
                f"coverage: found fewer than two names such as {', '.join(kind[:3])} that are one token of the "
                "tokenizer, allowed: two or more, which can trade places"
            )
    return new


def _parts(sequences: Sequences, tokenizer: TextTokenizer, rows: int) -> Iterator[dict[str, Tensor]]:
    """Which of the text tokens of the test split are in each part, a shard at a time, `rows` of them at most."""
    written = tokenizer.decode([[token] for token in range(tokenizer.vocabulary)])
    numeral = torch.tensor([any(character.isdigit() for character in text) for text in written])
    for file in sequences.files("test"):
        shard = sequences.read(file)
        text, step = (shard["kind"] & TEXT) > 0, (shard["kind"] & STEP) > 0
        number, order = numeral[shard["tokens"].long()], text.cumsum(1)
        late = 2 * order > order[:, -1:]
        found = {
            "questions": ~step, "steps": step, "numbers": number, "words": ~number, "first_half": ~late,
            "second_half": late,
        }  # fmt: skip
        yield {name: mask[text][:rows] for name, mask in found.items()}
        rows -= min(rows, int(text.sum()))
        if not rows:
            return


def language_domain(
    model: Hooked, sequences: Sequences, tokenizer: TextTokenizer, where: LanguageCapture, device: torch.device
) -> Domain:
    """At most ROWS test rows at every token of the text, whichever of them the SAEs were trained on.

    Raises ReseedError for several hook points, and as `other_names` does.
    """
    if not isinstance(where.hook_name, str) or where.hook_name_out:
        raise ReseedError("coverage: found several hook points, allowed: SAEs of one")
    new = other_names(tokenizer)
    options = where.model_copy(update={"positions": "all", "rows": 10 * ROWS})
    batches = list(text_batches(sequences, "test", options))
    told = [replace(batch, tokens=new[batch.tokens]) for batch in batches]
    reader = Reader(model, options, device)
    with reading(reader) as in_order:
        own = torch.cat([rows["activations"].float().cpu() for _, rows in in_order(batches)])
        other = torch.cat([rows["activations"].float().cpu() for _, rows in in_order(told)])
    chosen = torch.cat([_same_token(*pair) for pair in zip(batches, told, strict=True)])
    found = list(_parts(sequences, tokenizer, len(own)))
    parts = {name: torch.cat([shard[name] for shard in found]) for name in found[0]}
    there = {name: mask for name, mask in parts.items() if mask.any()}
    return Domain(
        rows=own,
        target=own,
        parts={"all": [torch.ones(len(own), dtype=torch.bool)]} | {name: [mask] for name, mask in there.items()},
        class_name="part",
        classes=list(there.values()),
        tested=len(there) / len(parts),
        own=own[chosen],
        relabelled=other[chosen],
        relabelling="persons by other names",
    )


def _same_token(batch: TextBatch, told: TextBatch) -> Tensor:
    """Which wanted rows [rows] have kept their token and stand behind a name of their document that has not."""
    changed = batch.tokens != told.tokens
    document = torch.full((changed.numel(),), -1, dtype=torch.int32)
    document[batch.wanted] = batch.document
    document = document.view_as(changed)
    before = changed.cumsum(1) - changed.long()
    starts = torch.ones_like(changed)
    starts[:, 1:] = document[:, 1:] != document[:, :-1]
    behind = before > (before * starts).cummax(1).values  # the names before a document began are those of others
    return (behind & ~changed).flatten()[batch.wanted]
