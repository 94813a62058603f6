"""Encodes user text into token ids that are never control or verdict tokens."""

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
    """Strip content as the checkpoint's template does: Jinja's `trim` is Python's strip."""
    return _STRIPPERS[how](text)


def assemble(pieces: Sequence[Piece], texts: dict[Role, str]) -> str:
    """Join static text and content into one string."""
    text = ""
    for piece in pieces:
        text += strip(texts[piece.role], piece.strip) if piece.role else piece.text
        if piece.strip == "through":
            text = text.rstrip()
    return text


def span_ids(span: Sequence[Piece], texts: dict[Role, str], ids: Callable[[str], list[int]]) -> list[int]:
    """Token ids of a span. The text between control tokens is encoded as one string, as no merge crosses them."""
    encoded: list[int] = []
    for control, run in groupby(span, lambda piece: bool(piece.ids)):
        pieces = list(run)
        encoded += [id for piece in pieces for id in piece.ids] if control else ids(assemble(pieces, texts))
    return encoded


def checked(text: object, name: str) -> str:
    """The text, if it can be encoded. Raises InputError for other types, BadText for lone surrogates."""
    if not isinstance(text, str):
        raise InputError(f"{name} is {type(text).__name__}, expected str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadText(
            f"{name} has a lone surrogate at character {error.start}, which no tokenizer can encode; "
            "replace it (for example with U+FFFD) or refuse the message"
        ) from None
    return text


class ContentTokenizer:
    """The checkpoint's tokenizer without its reserved tokens: no text becomes a control or verdict token.

    It is immutable, so threads may share it.
    """

    def __init__(self, path: Path, limit: int, reserved: dict[str, int], literals: Collection[str]) -> None:
        self._reserved = {id: text for text, id in reserved.items()}
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise GuardError(f"{path.name} is not a tokenizer this version reads ({error})") from None
        if not self._reserved.keys().isdisjoint(self._tokenizer.get_added_tokens_decoder()):
            raise GuardError(f"{path.name} adds control tokens, so text could become one; export the guard again")
        # The file may enable truncation, which would cut text silently.
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
        """The tokenizer of a guard. Raises GuardError for an invalid file."""
        return cls(
            directory / "tokenizer.json", manifest.vocab, manifest.reserved, [*manifest.reserved, *manifest.literals]
        )

    def shown(self, id: int) -> str:
        """The text of one token, reserved tokens included."""
        if id in self._reserved:
            return self._reserved[id]
        token = self._tokenizer.id_to_token(id) or ""
        # A decoder drops the leading space of the first token.
        return token.replace("▁", " ") if "▁" in token else str(self._tokenizer.decode([id]))

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer, reserved tokens included."""
        return "".join(
            "".join(map(self.shown, run)) if reserved else self._decoded(list(run))
            for reserved, run in groupby(ids, self._reserved.__contains__)
        )

    def _decoded(self, ids: list[int]) -> str:
        # A decoder drops the leading space of a text, but not after other tokens.
        once, twice = (str(self._tokenizer.decode(run, skip_special_tokens=False)) for run in (ids, ids * 2))
        return twice[len(once) :]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text. Raises BadText if one is reserved, which only a broken tokenizer produces."""
        ids: list[int] = self._encode(text).ids
        if not self._reserved.keys().isdisjoint(ids):
            matches = sorted(self._reserved.keys() & ids)
            raise BadText(f"the text encodes to control or verdict tokens {matches}; it cannot be judged safely")
        return ids

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """The character range of each token of `text`."""
        offsets: list[tuple[int, int]] = self._encode(text).offsets
        return offsets

    def _encode(self, text: str) -> Encoding:
        try:
            return self._tokenizer.encode(text, add_special_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of the Rust library is not an Exception
            raise BadText(f"the tokenizer cannot encode the text ({error}); shorten it or refuse it") from None

    def suspicious_literals(self, text: str) -> tuple[str, ...]:
        """Pieces of the guard's own prompt that occur in the text, in order of first occurrence."""
        return tuple(dict.fromkeys(self._literals.findall(text)))
