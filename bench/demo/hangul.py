"""Korean verb endings and particles for the grammar markers (~는, ~니, ~면, ~려, ~ㄹ, ~은, ~을, ~이, ~과, ~로)."""

import re

_FIRST, _LAST = 0xAC00, 0xD7A3
_FINALS = 28
_RIEUL = 8
_MARK = re.compile(r"(\S)~(는|니|면|려|ㄹ|은|을|이|과|로)")
# marker: (form after a final consonant, form after a vowel)
_PARTICLES = {"은": ("은", "는"), "을": ("을", "를"), "이": ("이", "가"), "과": ("과", "와"), "로": ("으로", "로")}


def _final(char: str) -> int:
    """Index of the syllable's final consonant; 0 for none and for anything that is not a syllable."""
    return (ord(char) - _FIRST) % _FINALS if _FIRST <= ord(char) <= _LAST else 0


def _verb(char: str, ending: str) -> str:
    final = _final(char)
    if ending in "는니" and final == _RIEUL:  # 만들 + 는 -> 만드는
        return chr(ord(char) - _RIEUL) + ending
    if ending == "는":
        return char + ending
    if ending == "ㄹ":
        if final == _RIEUL:
            return char
        return char + "을" if final else chr(ord(char) + _RIEUL)
    return char + ("으" if final and final != _RIEUL else "") + ending


def inflect(text: str) -> str:
    """Replace every marker by the form that the syllable before it takes."""

    def form(match: re.Match[str]) -> str:
        char, marker = match.groups()
        if marker not in _PARTICLES:
            return _verb(char, marker)
        final = _final(char)
        after_vowel = not final or (marker == "로" and final == _RIEUL)
        return char + _PARTICLES[marker][after_vowel]

    return _MARK.sub(form, text)
