"""Italian: letters to sounds. Source of the rules: Canepari, "Dizionario di pronuncia italiana" (2009).

Spelling does not tell the place of stress: it is on the last syllable but one, except for endings and common words
that have it earlier.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backends.workers.engines.speech.phonemes.rules import STRESS, thousands, words
from backends.workers.engines.speech.phonemes.words import Word

_VOWELS = frozenset("aeiouàèéìíòóùú")
_PLAIN = {"à": "a", "è": "ɛ", "é": "e", "ì": "i", "í": "i", "ò": "ɔ", "ó": "o", "ù": "u", "ú": "u"}
_FRONT = frozenset("eièéìí")
_VOICED = frozenset("bdgvlmnr")
_UNSTRESSED = frozenset(
    words(
        "il lo la i gli le un uno una l' un' di a da in con su per tra fra e ed o del dello della dei degli "
        "delle al allo "
        "alla ai agli alle dal dallo dalla dai dagli dalle nel nello nella nei negli nelle sul sullo sulla sui "
        "sugli sulle "
        "che mi ti si ci vi ne se"
    )
)
_EARLY = re.compile(
    r"(?:issim[oaie]|[ai]bil[ei]|evol[ei]|[^aeiou]ic[oaie]|[^aeiou]iche|[^aeiou]ici|[aei]gin[ei]|udin[ei]|olog[oaih]+|"
    r"ograf[oaie]|ometr[oi]|ofon[oi]|[eo]ssero|[aei]rono|ss[ie]mo|tori[oa]|aneo|er[ae]nno|[lt]rice|"
    r"ggere|ivere|ndere|ngere|orrere|rdere|scere|ncere|mpere|ttere|[aei]vano)$"
)
_LATE = frozenset(
    words(
        "amico amica antico antica nemico nemica fatica formica vescica ortica rubrica lassativo nicolo figliolo "
        "figliola "
        "spagnolo spagnola parola scuola suola gola sola solo viola volo polo molo colo stola aiola tagliola "
        "pistola cola "
        "lombrico pudico impudico ombelico caprice felice felici radici amici amiche antichi antiche"
    )
)
_EARLY_WORDS = frozenset(
    words(
        "sabato domenica tavola tavolo albero numero camera medico musica popolo essere uomini ultimo ultima "
        "prossimo "
        "prossima massimo minimo anima lettera opera isola macchina pagina facile difficile simile utile giovane "
        "giovani "
        "zucchero chilometro metro dollaro dollari euro subito libero libera povero povera rapido rapida tenero "
        "tenera "
        "umido umida caldo valido solido liquido timido rumore nuvola nuvole favola regola regole secolo secoli "
        "angolo "
        "piccolo piccola piccoli piccole credito debito abito ambito limite termine ordine margine immagine "
        "origine "
        "nobile mobile automobile stabile abile debole singolo singola titolo articolo spettacolo miracolo "
        "ostacolo "
        "vivere scrivere leggere prendere perdere mettere credere chiedere ridere correre vendere rispondere "
        "decidere "
        "conoscere nascere crescere vincere piangere spingere dipingere muovere rompere rendere scendere spendere "
        "accendere chiudere parlano mangiano giocano vogliono possono devono fanno dicono sanno vivono prendono "
        "vedono "
        "credono scrivono leggono abitano lavorano studiano telefono telefoni sedici undici dodici tredici "
        "quattordici "
        "quindici cinema compito carico manico stomaco pratico pubblico pubblica politico politica unico unica "
        "gemito attimo comodo metodo "
        "periodo episodio genere cenere polvere vescovo monaco maschera lampada bambola pentola fragola tegola "
        "mandorla "
        "zingaro vipera fabbrica arabo arabi barbaro sandalo scandalo platano organo "
        "ottimo pessimo intimo legittimo vittima lacrima bussola crimine femmina femmine "
        "semplice semplici doppio vertice codice indice giudice complice radice forbice pollice calice "
        "interprete principe ettaro napoli genova padova modena "
        "mantova bergamo taranto trapani cagliari africa america"
    )
)
_LETTERS = {
    "b": "bi", "c": "ʧi", "d": "di", "f": "ˈɛffe", "g": "ʤi", "h": "ˈakːa", "j": "ilˈuŋɡa", "k": "kˈapːa",
    "l": "ˈɛlle", "m": "ˈɛmme", "n": "ˈɛnne", "p": "pi", "q": "ku", "r": "ˈɛrre", "s": "ˈɛsse", "t": "ti",
    "v": "vu", "w": "vˈu dˈopːja", "x": "ˈiks", "z": "ʣˈɛta",
}  # fmt: skip
_WHOLE: Mapping[str, str] = {
    "è": "ˈɛ", "e": "e", "ho": "ˈɔ", "hai": "ˈaj", "ha": "ˈa", "hanno": "ˈanno", "poi": "pˈɔj",
    "aereo": "aˈɛreo", "aerei": "aˈɛrej", "aeroporto": "aeropˈɔrto",
}  # fmt: skip
_UNITS = words(
    "zero uno due tre quattro cinque sei sette otto nove dieci undici dodici tredici quattordici quindici sedici "
    "diciassette diciotto diciannove"
)
_TENS = words("venti trenta quaranta cinquanta sessanta settanta ottanta novanta")


class Italian:
    """See :class:`Language`."""

    script = "LATIN"
    symbols: Mapping[str, str] = {
        "%": "per cento", "€": "euro", "$": "dollari", "&": "e", "+": "più", "=": "uguale a", "@": "chiocciola",
        "°": "gradi", "/": "barra", "£": "sterline", "#": "cancelletto",
    }  # fmt: skip
    point = "virgola"

    def cardinal(self, number: int) -> str:
        """See :class:`Language`."""
        return thousands(
            number,
            below=_below_thousand,
            scales=(
                (10**9, lambda many, n: "un miliardo" if n == 1 else f"{many} miliardi"),
                (10**6, lambda many, n: "un milione" if n == 1 else f"{many} milioni"),
                (1000, lambda many, n: "mille" if n == 1 else f"{many} mila"),
            ),
        )

    def word(self, word: str, before: Sequence[Word]) -> str:
        """See :class:`Language`."""
        del before
        word = word.replace("\u2019", "'")
        if word in _WHOLE:
            return _WHOLE[word]
        head, apostrophe, tail = word.partition("'")
        if apostrophe and tail:  # l'acqua, dell'anno
            first = _sounds(head, stressed=False) if _VOWELS & set(head) else _letter(head)
            return first + self.word(tail, ())
        if not _VOWELS & set(word):
            return " ".join(_LETTERS.get(letter, "") for letter in word).strip()
        return _sounds(word.rstrip("'"), stressed=word not in _UNSTRESSED)


def _letter(letters: str) -> str:
    """A consonant before an apostrophe: ``l'``, ``c'``, ``d'``."""
    return {"c": "ʧ", "g": "ʤ"}.get(letters, letters)


def _below_thousand(number: int) -> str:
    if number < 20:
        return _UNITS[number]
    if number < 100:
        tens, unit = divmod(number, 10)
        name = _TENS[tens - 2]
        if not unit:
            return name
        return (name[:-1] if unit in (1, 8) else name) + ("tré" if unit == 3 else _UNITS[unit])
    hundreds, rest = divmod(number, 100)
    name = "cento" if hundreds == 1 else f"{_UNITS[hundreds]}cento"
    return name + (f" {_below_thousand(rest)}" if rest else "")


def _sounds(word: str, *, stressed: bool) -> str:
    sounds: list[str] = []
    nuclei: list[int] = []
    accent: int | None = None
    n = 0
    while n < len(word):
        if word[n] in _VOWELS:
            sound, length, nucleus = _vowel(word, n)
            if nucleus:
                if word[n] in _PLAIN:
                    accent = len(nuclei)
                nuclei.append(len(sounds))
            sounds.append(sound)
            n += length
        else:
            sound, length = _consonant(word, n)
            sounds.append(sound)
            n += length
    if nuclei and stressed:
        place = _stress(word, len(nuclei)) if accent is None else accent
        at = nuclei[place]
        sounds[at] = STRESS + _open(word, sounds, at) if accent is None else STRESS + sounds[at]
    text = "".join(sounds)
    if text.endswith("i") and text[-2:] != (STRESS + "i"):
        text = text[:-1] + "ɪ"
    return text


def _stress(word: str, count: int) -> int:
    """The stressed nucleus among ``count``."""
    if word.endswith(("ai", "ei", "oi")) and count > 1:  # the i is no vowel of its own: vorrei
        return count - 1
    if count < 3 or word in _LATE:
        return max(0, count - 2) if word[-1] in "aeiou" or count < 2 else count - 1
    if word in _EARLY_WORDS or _EARLY.search(word):
        return count - 3
    return count - 2 if word[-1] in "aeiou" else count - 1


def _open(word: str, sounds: Sequence[str], at: int) -> str:
    """A stressed ``e`` or ``o``: open after ``i`` and ``u``, closed in some endings, else open."""
    vowel = sounds[at]
    if vowel not in "eo":
        return vowel
    wide = {"e": "ɛ", "o": "ɔ"}[vowel]
    if at and sounds[at - 1] in ("j", "w") and not word.endswith(("ione", "ioni")):
        return wide
    if word.endswith(
        (
            "one",
            "oni",
            "ore",
            "ori",
            "oso",
            "osa",
            "osi",
            "ose",
            "mente",
            "mento",
            "menti",
            "ese",
            "esi",
            "ezza",
            "etto",
            "etti",
            "ette",
            "etta",
            "ere",
            "eva",
            "evo",
            "evi",
            "ono",
            "orno",
            "orni",
            "ome",
            "eno",
        )
    ):
        return vowel
    return wide


def _vowel(word: str, n: int) -> tuple[str, int, bool]:
    """The sound at ``n``, its length in letters, and whether it is the vowel of a syllable."""
    letter, following, last = word[n], word[n + 1 : n + 2], word[n - 1 : n]
    if letter == "i" and following in _VOWELS and following and (n == 0 or last not in _VOWELS):
        if n + 2 == len(word) and following in "ao" and _syllables(word[:n]) == 0:  # via, mio
            return "i", 1, True
        return "j", 1, False
    if letter == "u" and following in _VOWELS and following and (n == 0 or last not in _VOWELS):
        if n + 2 == len(word) and _syllables(word[:n]) == 0 and last not in "qg":  # tuo, due
            return "u", 1, True
        return "w", 1, False
    if letter in "iu" and last in _VOWELS and last and (not following or following not in _VOWELS):
        return ("j" if letter == "i" else "ʊ"), 1, False
    return _PLAIN.get(letter, letter), 1, True


def _syllables(word: str) -> int:
    return len(re.findall(r"[aeiouàèéìòù]+", word))


_MANY = (
    ("sch", "sk"), ("cch", "kː"), ("ggh", "ɡː"), ("ch", "k"), ("gh", "ɡ"), ("gn", "ɲ"), ("zz", "ʦː"), ("cq", "kː"),
    ("qu", "kw"), ("ss", "S"), ("ph", "f"), ("th", "t"),
)  # fmt: skip


def _consonant(word: str, n: int) -> tuple[str, int]:
    """The sound of the letters at ``n``, and their count."""
    rest = word[n:]
    for letters, sound in _MANY:
        if rest.startswith(letters):
            return sound, len(letters)
    if (soft := _soft(rest)) is not None:
        return soft
    letter, double = rest[0], rest[1:2] == rest[0]
    if letter == "z":
        return ("ʣ" if n == 0 else "ʦ"), 1
    if letter == "s":
        between = n > 0 and word[n - 1] in _VOWELS and rest[1:2] in _VOWELS and bool(rest[1:2])
        return ("z" if between or (rest[1:2] in _VOICED and rest[1:2]) else "s"), 1
    if letter == "n" and rest[1:2] in ("c", "g", "q", "k") and rest[1:2] and _soft(rest[1:]) is None:
        return "n", 1
    sound = _SINGLE.get(letter, "")
    if double and sound:
        return (sound * 2 if letter in "lmnrf" else f"{sound}ː"), 2
    return sound, 1


def _soft(rest: str) -> tuple[str, int] | None:
    """``c``, ``g`` and ``sc`` before a front vowel, ``gl`` before ``i``; the ``i`` is silent before a vowel."""
    for letters, sound in (("gli", "ʎ"), ("sc", "ʃ"), ("cc", "ʧː"), ("gg", "ʤː"), ("c", "ʧ"), ("g", "ʤ")):
        if not rest.startswith(letters):
            continue
        after = rest[len(letters) :]
        if letters == "gli":
            silent = bool(after) and after[0] in _VOWELS
            return (sound, 3 if silent else 2)
        if after[:1] in _FRONT and after:
            silent = after[0] == "i" and after[1:2] in _VOWELS and bool(after[1:2])
            return sound, len(letters) + (1 if silent else 0)
        return None
    return None


_SINGLE = {
    "b": "b", "c": "k", "d": "d", "f": "f", "g": "ɡ", "h": "", "j": "j", "k": "k", "l": "l", "m": "m", "n": "n",
    "p": "p", "q": "k", "r": "r", "t": "t", "v": "v", "w": "w", "x": "ks", "y": "i", "'": "",
}  # fmt: skip
