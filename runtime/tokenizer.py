"""From user text to token ids that can be nothing but text."""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from pathlib import Path

from tokenizers import Encoding, Tokenizer

from .errors import BadText, GuardError, InputError
from .format.manifest import Manifest, Piece, Role, Strip

_STRIPPERS: dict[Strip, Callable[[str], str]] = {
    "none": lambda text: text,
    "left": str.lstrip,
    "right": str.rstrip,
    "both": str.strip,
    "through": str.rstrip,
}


def strip(text: str, how: Strip) -> str:
    """What the checkpoint's template does to content: Python's own strip, as Jinja's `trim` does it."""
    return _STRIPPERS[how](text)


def assemble(pieces: Sequence[Piece], texts: dict[Role, str]) -> str:
    """Static text and content as one text."""
    text = ""
    for piece in pieces:
        text += strip(texts[piece.role], piece.strip) if piece.role else piece.text
        if piece.strip == "through":
            text = text.rstrip()
    return text


def span_ids(span: Sequence[Piece], texts: dict[Role, str], ids: Callable[[str], list[int]]) -> list[int]:
    """Token ids of a span. Text is tokenized as a whole between control tokens, across which nothing merges."""
    found: list[int] = []
    for control, run in groupby(span, lambda piece: bool(piece.ids)):
        pieces = list(run)
        found += [id for piece in pieces for id in piece.ids] if control else ids(assemble(pieces, texts))
    return found


def checked(text: object, what: str) -> str:
    """`text` if it can be judged. Raises InputError for other types, BadText for lone surrogates."""
    if not isinstance(text, str):
        raise InputError(f"{what} is {type(text).__name__}, expected str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadText(
            f"{what} has a lone surrogate at character {error.start}, which no tokenizer can encode; "
            "replace it (for example with U+FFFD) or refuse the message"
        ) from None
    return text


class ContentTokenizer:
    """The checkpoint's tokenizer without its reserved tokens: no text can become a control or verdict token.

    Safe to share between threads: nothing of it is changed after it is made.
    """

    def __init__(self, path: Path, limit: int, reserved: dict[str, int], literals: Collection[str]) -> None:
        self._reserved = {id: text for text, id in reserved.items()}
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise GuardError(f"{path.name} is not a tokenizer this version reads ({error})") from None
        if not self._reserved.keys().isdisjoint(self._tokenizer.get_added_tokens_decoder()):
            raise GuardError(f"{path.name} adds control tokens, so text could become one; export the guard again")
        # Nothing is cut silently, whatever the file asks for.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # Longest first, so that "<|eot_id|>" is reported rather than a shorter literal inside it.
        ordered = sorted(literals, key=len, reverse=True)
        self._literals = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
        if max(vocabulary.values(), default=-1) >= limit:
            raise GuardError(f"{path.name} has token ids beyond the model's {limit}; export the guard again")
        self.longest_token = max(map(len, vocabulary), default=1)

    @classmethod
    def of(cls, directory: Path, manifest: Manifest) -> "ContentTokenizer":
        """That of a guard. Raises GuardError for a file that is none."""
        return cls(
            directory / "tokenizer.json", manifest.vocab, manifest.reserved, [*manifest.reserved, *manifest.literals]
        )

    def shown(self, id: int) -> str:
        """A token as a reader would write it, reserved ones included."""
        if id in self._reserved:
            return self._reserved[id]
        token = self._tokenizer.id_to_token(id) or ""
        # A decoder drops the space of a first token.
        return token.replace("▁", " ") if "▁" in token else str(self._tokenizer.decode([id]))

    def text(self, ids: Sequence[int]) -> str:
        """An answer as a reader would write it, reserved tokens included."""
        return "".join(
            "".join(map(self.shown, run)) if reserved else self._decoded(list(run))
            for reserved, run in groupby(ids, self._reserved.__contains__)
        )

    def _decoded(self, ids: list[int]) -> str:
        # A decoder drops the space that a text begins with, but not where the same tokens stand before it.
        alone, twice = (str(self._tokenizer.decode(run, skip_special_tokens=False)) for run in (ids, ids * 2))
        return twice[len(alone) :]

    def ids(self, text: str) -> list[int]:
        """Token ids of a span. Raises BadText if one is reserved, which only a broken tokenizer can give."""
        ids: list[int] = self._encode(text).ids
        if not self._reserved.keys().isdisjoint(ids):
            found = sorted(self._reserved.keys() & ids)
            raise BadText(f"the text encodes to control or verdict tokens {found}; it cannot be judged safely")
        return ids

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Character range of each token of `text`."""
        offsets: list[tuple[int, int]] = self._encode(text).offsets
        return offsets

    def _encode(self, text: str) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the Rust library is no Exception; the text is not to be quoted
            raise BadText(f"the tokenizer cannot encode the text ({error}); shorten it or refuse it") from None

    def suspicious_literals(self, text: str) -> tuple[str, ...]:
        """Pieces of the guard's own prompt that stand in the text, in order of first appearance."""
        return tuple(dict.fromkeys(self._literals.findall(text)))
