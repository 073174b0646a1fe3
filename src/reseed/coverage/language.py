"""Language models: the parts of a document, and its persons by other names.

Given names that are one token of the tokenizer, wherever they stand as a word of their own, trade places with others of
their kind, the same in every text, so that every token keeps its position and the text its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

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
"""Given names that are no other word of English as well (not: Bill, Grace, Mark), of `she` and of `he`."""


@dataclass(frozen=True)
class OtherNames:
    """new [vocabulary]: for every token the one that takes its place, a permutation without a fixed point among names.

    continues [vocabulary]: whether a token may go on with the word that the token before it began; letters
    [vocabulary]: whether its text ends with a letter.
    """

    new: Tensor
    continues: Tensor
    letters: Tensor

    def told(self, tokens: Tensor) -> Tensor:
        """tokens [b, n] with the names that are whole words replaced; the last of a row is none, as it may go on."""
        goes_on = self.continues[tokens]
        followed = torch.ones_like(goes_on)
        followed[:, :-1] = goes_on[:, 1:]
        preceded = torch.zeros_like(goes_on)
        preceded[:, 1:] = goes_on[:, 1:] & self.letters[tokens[:, :-1]]
        return torch.where(followed | preceded, tokens, self.new[tokens])


def other_names(tokenizer: TextTokenizer) -> OtherNames:
    """Names in another order, those of each kind that are one token both after a space and without one.

    Raises ReseedError if the tokenizer has fewer than two of a kind.
    """
    new = torch.arange(tokenizer.vocabulary)
    for kind in NAMES:
        forms = [(_one_token(tokenizer, name), _one_token(tokenizer, f" {name}")) for name in kind]
        found = torch.tensor([form for form in forms if None not in form], dtype=torch.long).reshape(-1, 2)
        if len(found) < 2:
            raise ReseedError(
                f"coverage: found {len(found)} names such as {', '.join(kind[:3])} that are one token of the "
                "tokenizer, allowed: two or more, which can trade places"
            )
        new[found] = found.roll(1, 0)
    texts = _texts(tokenizer)
    return OtherNames(
        new,
        torch.tensor([_continues(tokenizer, token, text) for token, text in enumerate(texts)]),
        torch.tensor([text[-1:].isalpha() for text in texts]),
    )


def _one_token(tokenizer: TextTokenizer, text: str) -> int | None:
    ids: list[int] = tokenizer.tokenizer.encode(text, add_special_tokens=False).ids
    return ids[0] if len(ids) == 1 and ids[0] != tokenizer.unknown else None


def _texts(tokenizer: TextTokenizer) -> list[str]:
    """The text of every token by itself."""
    return tokenizer.decode([[token] for token in range(tokenizer.vocabulary)])


def _continues(tokenizer: TextTokenizer, token: int, text: str) -> bool:
    model, piece = json.loads(tokenizer.content)["model"], tokenizer.tokenizer.id_to_token(token) or ""
    if model.get("type") == "WordPiece":
        return piece.startswith(model.get("continuing_subword_prefix", "##"))
    if model.get("type") == "WordLevel":
        return False
    return not piece.startswith(("Ġ", "▁")) and text[:1].isalpha()


def _parts(sequences: Sequences, tokenizer: TextTokenizer, rows: int) -> Iterator[dict[str, Tensor]]:
    """Which of the text tokens of the test split are in each part, a shard at a time, `rows` of them at most.

    early and late: in the first and the second half of what the model reads at once.
    """
    numeral = torch.tensor([any(character.isdigit() for character in text) for text in _texts(tokenizer)])
    for file in sequences.files("test"):
        shard = sequences.read(file)
        text, step = (shard["kind"] & TEXT) > 0, (shard["kind"] & STEP) > 0
        number, order = numeral[shard["tokens"].long()], text.cumsum(1)
        late = 2 * order > order[:, -1:]
        found = {
            "steps": step, "outside_steps": ~step, "numbers": number, "words": ~number, "early": ~late, "late": late,
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
    names = other_names(tokenizer)
    options = where.model_copy(update={"positions": "all", "rows": 10 * ROWS})
    batches = list(text_batches(sequences, "test", options))
    told = [replace(batch, tokens=names.told(batch.tokens)) for batch in batches]
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
        alike=torch.cat([batch.tokens.flatten()[batch.wanted] for batch in batches])[chosen],
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
