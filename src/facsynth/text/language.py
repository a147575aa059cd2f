"""Whether a short answer is in English: by its script, and by the small words of a few other languages."""

from __future__ import annotations

import re
import unicodedata

_SMALL_WORDS = {
    "German": "der das und ist nicht ein eine von zu mit auf für über den dem des wird oder wörter",
    "French": "le la les des et est une dans pour sur que qui avec aux du ou texte mots",
    "Spanish": "el la los las y es una en para por que del texto palabras sobre",
    "Portuguese": "os é uma em para por que da dos das ou texto palavras sobre",
    "Italian": "il lo gli le è una per che della di testo parole",
    "Dutch": "het een en niet van te met op voor over dat tekst woorden",
    "Polish": "w na z nie jest się że dla lub tekst słowa oraz",
}
_ENGLISH = "the a an of to in and or is are with for on at by as that this it from about text texts words"
FOREIGN_SHARE = 0.35
"""Of the words of a foreign sentence that are such small ones, at least."""


def other_language(text: str) -> str:
    """The language or script of `text`, where that is plainly not English; else empty.

    An explanation quotes words of other languages now and then, so most of it has to be foreign.
    """
    letters = [character for character in text if character.isalpha()]
    foreign = [c for c in letters if not unicodedata.name(c, "").startswith("LATIN")]
    if letters and len(foreign) > len(letters) / 2:
        return unicodedata.name(foreign[0], "another script").split()[0].capitalize() + " script"
    words = re.findall(r"\w+", re.sub(r"""(["'`“‘«]).+?["'`”’»]""", " ", text.lower()))  # what is quoted is not its own
    n_english = sum(word in _ENGLISH.split() for word in words)
    words = [word for word in words if len(word) > 1]
    counts = {name: sum(word in small.split() for word in words) for name, small in _SMALL_WORDS.items()}
    best = max(counts, key=lambda name: counts[name])
    is_foreign = counts[best] >= 3 and counts[best] > max(2 * n_english, FOREIGN_SHARE * len(words))
    return best if is_foreign and best.lower() not in words else ""  # which says it in English
