"""French: letters to sounds, silent endings and the liaisons that are always made.

Sources of the rules: Fouché, "Traité de prononciation française" (1956); Catach, "L'orthographe française" (1980).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backends.workers.engines.speech.phonemes.rules import STRESS, thousands, words
from backends.workers.engines.speech.phonemes.words import Word

_AN, _EN, _ON, _UN = "ɑ\u0303", "ɛ\u0303", "ɔ\u0303", "œ\u0303"
_VOWELS = "aeiouyàâäéèêëîïôöùûüœæ"
_SOUNDS = "aeiouyøœɔɛɑə"
_BEFORE_VOWEL = re.compile(rf"h?[{_VOWELS}]")
_ASPIRATED = re.compile(
    r"(?:haut|hau|héros|hache|haie|haine|hall|halte|hamac|hanche|handicap|hangar|haricot|harpe|hasard|hâte|hausse|hasard|"
    r"hérisson|hibou|hic|hiérarchie|hockey|holland|homard|hongr|honte|hors|housse|huit|hurl|onz|oui|yaourt|yacht|yoga)"
)
_LIAISONS: Mapping[str, str] = {
    **dict.fromkeys(
        words(
            "les des ces mes tes ses nos vos nous vous ils elles aux deux trois six dix dans sans chez très "
            "quelques plusieurs autres petits grands bons sous certains leurs"
        ),
        "z",
    ),
    **dict.fromkeys(words("un mon ton son en on bien rien aucun bon"), "n"),
    **dict.fromkeys(words("est sont petit grand tout quand c'est cet vingt cent"), "t"),
}
"""Words whose last consonant is heard before a vowel."""
_UNSTRESSED = frozenset(
    words(
        "le la les un une des du de d' l' à au aux et ou où que qui ne se me te ce ces mon ma mes ton ta tes son "
        "sa ses notre "
        "votre leur en dans sur par pour avec sans est je tu il ils elle elles on nous vous y a c'est n' qu' j' "
        "s' m' t'"
    )
)
_WHOLE: Mapping[str, str] = {
    "soleil": "solɛj",    "dort": "dɔʁ",    "forêt": "foʁɛ",    "heureuse": "øʁøz",    "heureux": "øʁø",
       "exact": "ɛɡzakt",    "te": "tə",    "me": "mə",    "se": "sə",    "ne": "nə",    "ce": "sə",
          "que": "kə",    "je": "ʒə",    "de": "də",    "le": "lə",    "monsieur": "məsjø", "vingte": f"v{_EN}t",
          "messieurs": "mesjø", "femme": "fam", "femmes": "fam", "est": "ɛ", "et": "e", "es": "ɛ",
    "les": "le", "des": "de", "ces": "se", "mes": "me", "tes": "te", "ses": "se", "dix": "dis", "six": "sis",
    "huit": "yit", "vingt": f"v{_EN}", "sept": "sɛt", "cinq": f"s{_EN}k", "neuf": "nœf", "août": "ut", "œufs": "ø",
    "œuf": "œf", "bœufs": "bø", "second": f"səɡ{_ON}", "seconde": f"səɡ{_ON}d", "secondes": f"səɡ{_ON}d",
    "oignon": f"ɔnj{_ON}", "oignons": f"ɔnj{_ON}", "ville": "vil", "villes": "vil", "mille": "mil",
    "village": "vilaʒ", "villages": "vilaʒ", "tranquille": f"tʁ{_AN}kil", "million": f"milj{_ON}", "vous": "vu",
    "millions": f"milj{_ON}", "milliard": "miljaʁ", "milliards": "miljaʁ", "fils": "fis", "os": "ɔs",
    "mars": "maʁs",
    "sens": f"s{_AN}s", "tous": "tus", "plus": "ply", "ours": "uʁs", "jadis": "ʒadis", "gens": f"ʒ{_AN}",
    "nous": "nu",
    "avec": "avɛk", "donc": f"d{_ON}k", "parc": "paʁk", "sac": "sak", "lac": "lak", "public": "pyblik",
    "mer": "mɛʁ",
    "hiver": "ivɛʁ", "cher": "ʃɛʁ", "fier": "fjɛʁ", "hier": "jɛʁ", "fer": "fɛʁ", "ver": "vɛʁ",
    "enfer": f"{_AN}fɛʁ",
    "tabac": "taba", "estomac": "ɛstɔma", "porc": "pɔʁ", "clef": "kle", "nez": "ne", "pied": "pje", "pieds": "pje",
    "chef": "ʃɛf", "examen": f"ɛɡzam{_EN}", "eu": "y", "eue": "y", "temps": f"t{_AN}", "corps": "kɔʁ",
    "pays": "pei",
    "paysage": "peizaʒ", "abbaye": "abei", "hui": "ɥi", "aujourd'hui": "oʒuʁdɥi", "faisons": f"fəz{_ON}",
    "faisait": "fəzɛ", "dessus": "dəsy", "dessous": "dəsu", "ressembler": f"ʁəs{_AN}ble", "automne": "otɔn",
    "condamner": f"k{_ON}dane", "compte": f"k{_ON}t", "comptes": f"k{_ON}t", "compter": f"k{_ON}te", "ils": "il",
    "sculpture": "skyltyʁ", "baptême": "batɛm", "psychologie": "psikɔlɔʒi", "chorale": "kɔʁal", "écho": "eko",
    "orchestre": "ɔʁkɛstʁ", "technique": "tɛknik", "chaos": "kao", "chrétien": f"kʁetj{_EN}", "alcool": "alkɔl",
    "zoo": "zo", "football": "futbol", "week": "wik", "end": "ɛnd", "internet": f"{_EN}tɛʁnɛt", "net": "nɛt",
    "ouest": "wɛst", "sud": "syd", "nord": "nɔʁ", "gaz": "ɡaz", "bus": "bys", "virus": "viʁys", "jeans": "ʤin",
    "sont": f"s{_ON}", "ont": f"{_ON}", "font": f"f{_ON}", "vont": f"v{_ON}", "dont": f"d{_ON}", "pont": f"p{_ON}",
    "ai": "e", "paris": "paʁi", "bordeaux": "bɔʁdo", "y": "i", "où": "u", "qu": "k", "eût": "y", "album": "albɔm",
    "maximum": "maksimɔm", "minimum": "minimɔm", "forum": "fɔʁɔm", "boeuf": "bœf", "soeur": "sœʁ", "coeur": "kœʁ",
    "mangent": f"m{_AN}ʒ", "viennent": "vjɛn", "prennent": "pʁɛn", "doivent": "dwav", "peuvent": "pœv",
    "veulent": "vœl", "boivent": "bwav", "jouent": "ʒu", "donnent": "dɔn", "parlent": "paʁl", "aiment": "ɛm",
    "dorment": "dɔʁm", "étaient": "etɛ", "avaient": "avɛ", "disent": "diz", "savent": "sav", "tiennent": "tjɛn",
    "vivent": "viv", "travaillent": "tʁavaj", "restent": "ʁɛst", "pensent": f"p{_AN}s", "habitent": "abit",
}  # fmt: skip
_LETTERS = {
    "b": "be", "c": "se", "d": "de", "f": "ɛf", "g": "ʒe", "h": "aʃ", "j": "ʒi", "k": "ka", "l": "ɛl", "m": "ɛm",
    "n": "ɛn", "p": "pe", "q": "ky", "r": "ɛʁ", "s": "ɛs", "t": "te", "v": "ve", "w": "dubləve", "x": "iks",
    "z": "zɛd",
}  # fmt: skip
_UNITS = words(
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept "
    "dix-huit "
    "dix-neuf"
)
_TENS = words("vingt trente quarante cinquante soixante")


class French:
    """See :class:`Language`."""

    script = "LATIN"
    symbols: Mapping[str, str] = {
        "%": "pour cent", "€": "euros", "$": "dollars", "&": "et", "+": "plus", "=": "égale", "@": "arobase",
        "°": "degrés", "/": "barre", "£": "livres", "#": "dièse",
    }  # fmt: skip
    point = "virgule"

    def cardinal(self, number: int) -> str:
        """See :class:`Language`."""
        return thousands(
            number,
            below=_below_thousand,
            scales=(
                (10**9, lambda many, n: "un milliard" if n == 1 else f"{many} milliards"),
                (10**6, lambda many, n: "un million" if n == 1 else f"{many} millions"),
                (1000, lambda many, n: "mille" if n == 1 else f"{many} mille"),
            ),
        ).replace("-", " ")

    def word(self, word: str, before: Sequence[Word]) -> str:
        """See :class:`Language`."""
        word = word.replace("\u2019", "'")
        link = _liaison(word, before)
        if word in _WHOLE:
            return link + _stressed(_WHOLE[word], word)
        head, apostrophe, tail = word.partition("'")
        if apostrophe and tail:  # l'eau, qu'il
            return link + {"qu": "k", "c": "s", "g": "ʒ"}.get(head, _letters_of(head)) + self.word(tail, ())
        if not re.search(f"[{_VOWELS}]", word):
            return " ".join(_LETTERS.get(letter, "") for letter in word).strip()
        plural = _plural(before)
        return link + _stressed(_letters_of(word, plural=plural), word)


def _below_thousand(number: int) -> str:
    if number < 20:
        return _UNITS[number]
    if number < 70:
        tens, unit = divmod(number, 10)
        joined = " et un" if unit == 1 else f" {_UNITS[unit]}" if unit else ""
        return ("vingte" if tens == 2 and unit else _TENS[tens - 2]) + joined  # its t is heard
    if number < 80:
        return "soixante et onze" if number == 71 else f"soixante {_UNITS[number - 60]}"
    if number < 100:
        return "quatre vingts" if number == 80 else f"quatre vingt {_UNITS[number - 80]}"
    hundreds, rest = divmod(number, 100)
    name = "cent" if hundreds == 1 else f"{_UNITS[hundreds]} cent"
    return name + (f" {_below_thousand(rest)}" if rest else "")


def _liaison(word: str, before: Sequence[Word]) -> str:
    """The consonant that the word before gives to a word that begins with a vowel."""
    if not before or not _BEFORE_VOWEL.match(word) or _ASPIRATED.match(word):
        return ""
    return _LIAISONS.get(before[-1].text.lower().rpartition("'")[2], "")


def _plural(before: Sequence[Word]) -> bool:
    """Whether the subject before a word seems to be plural, so that ``-ent`` is the silent ending of a verb."""
    last_two = [each.text.lower() for each in before[-2:]]
    if not last_two:
        return False
    if last_two[-1] in ("ne", "n", "se", "s", "y", "en", "les", "me", "te", "qui") and len(last_two) > 1:
        last_two.pop()
    last = last_two[-1]
    return last in ("ils", "elles", "qui") or (
        last.endswith(("s", "x")) and len(last) > 3 and last not in _NO_NOUNS
    )


_NO_NOUNS = frozenset(
    words("dans sans mais très plus sous chez depuis après alors jamais toujours nous vous deux trois")
)


def _stressed(sounds: str, word: str) -> str:
    """The last full vowel of a word is stressed; articles and pronouns have no stress."""
    if word in _UNSTRESSED:
        return sounds
    places = [n for n, sound in enumerate(sounds) if sound in _SOUNDS and sound != "ə"]
    if not places:
        return sounds
    return sounds[: places[-1]] + STRESS + sounds[places[-1] :]


_ENDINGS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), sounds)
    for pattern, sounds in (
        (r"(?<=[aiïuoué])ent$", ""),  # voient
        (r"(?:aient|ais|ait|aits|aît)$", "ɛ"), (r"ai$", "ɛ"), (r"aies?$", "ɛ"),
        (r"(?<=.)ets?$", "ɛ"), (r"êts?$", "ɛ"), (r"(?<=.)ez$", "e"), (r"(?<=..)ers?$", "e"), (r"(?<=.)iers?$",
        "je"),
        (r"(?<=.)ées?$", "e"), (r"(?<=.)és?$", "e"), (r"(?<=[^aeiou])ies?$", "i"), (r"(?<=[^gq])ues?$", "y"),
        (r"stions?$", f"stj{_ON}"), (r"ques?$", "k"), (r"gues?$", "ɡ"), (r"eures?$", "œʁ"), (r"aines?$|eines?$",
        "ɛn"),
        (r"ains?$|eins?$|aints?$|eints?$", _EN), (r"oins?$|oints?$", f"w{_EN}"), (r"euilles?$", "œj"),
        (r"ouilles?$", "uj"), (r"eilles?$", "ɛj"), (r"ailles?$", "aj"), (r"oyens?$", f"waj{_EN}"),
        (r"eaux?$", "o"), (r"aux?$", "o"), (r"eux$", "ø"), (r"euse?s?$", "øz"), (r"eurs?$", "œʁ"), (r"œurs?$",
        "œʁ"),
        (r"oirs?$", "waʁ"), (r"oires?$", "waʁ"), (r"illes?$", "ij"),
        (r"euils?$", "œj"), (r"ails?$", "aj"), (r"eils?$", "ɛj"),
        (r"tions?$", f"sj{_ON}"), (r"ssions?$", f"sj{_ON}"), (r"sions?$", f"zj{_ON}"), (r"ements?$", f"m{_AN}"),
        (r"ents?$", _AN), (r"ants?$", _AN), (r"ands?$", _AN), (r"ancs?$", _AN), (r"amps?$", _AN), (r"ends?$", _AN),
        (r"onds?$", _ON), (r"onts?$", _ON), (r"ongs?$", _ON), (r"ombs?$", _ON), (r"ards?$", "aʁ"), (r"arts?$",
        "aʁ"),
        (r"ords?$", "ɔʁ"), (r"orts?$", "ɔʁ"), (r"ours?$", "uʁ"), (r"ourds?$", "uʁ"), (r"erts?$", "ɛʁ"), (r"ints?$",
        _EN),
        (r"iens?$", f"j{_EN}"), (r"éens?$", f"e{_EN}"),
        (r"yens?$", f"j{_EN}"), (r"ges?$", "ʒ"), (r"gnes?$", "ɲ"),
        (r"ines?$", "in"), (r"unes?$", "yn"), (r"ones?$", "ɔn"), (r"ommes?$", "ɔm"), (r"onnes?$", "ɔn"),
        (r"ennes?$", "ɛn"),
        (r"elles?$", "ɛl"), (r"ettes?$", "ɛt"), (r"esses?$", "ɛs"), (r"erres?$", "ɛʁ"), (r"êtes?$", "ɛt"),
        (r"ares?$", "aʁ"), (r"ires?$", "iʁ"), (r"ures?$", "yʁ"), (r"oses?$", "oz"), (r"ises?$", "iz"), (r"ases?$",
        "az"),
        (r"(?<=[aeiouyé])lt?s?$", "l"), (r"(?<=[bcdfgkpt])res?$", "ʁ"), (r"(?<=[bcdfgkp])les?$", "l"),
    )
)  # fmt: skip
"""Ends of words, the first that fits."""

_INNER: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), sounds)
    for pattern, sounds in (
        (r"eau", "o"), (r"œu|oeu", "œ"), (r"(?<![a-zé])eu", "ø"),
        (r"ain(?![aeiouyéèn])|aim(?![aeiouyéèm])|ein(?![aeiouyéèn])", _EN),
        (r"euil(?:l(?=[aeiouéè]))?|ueil(?:l(?=[aeiouéè]))?|œil", "œj"),
        (r"eil(?:l(?=[aeiouéè])|(?=$))", "ɛj"), (r"ail(?:l(?=[aeiouéè])|(?=$))", "aj"), (r"ouill(?=[aeiouéè])",
        "uj"),
        (r"(?<=[^aeou])ill(?=[aeiouéè])", "ij"), (r"aî|ai|ay(?![aeiouéè])|ei|ey(?![aeiouéè])", "ɛ"),
        (r"ay(?=[aeiouéè])", "ɛj"), (r"oy(?=[aeiouéè])", "waj"), (r"uy(?=[aeiouéè])", "ɥij"), (r"au", "o"),
        (r"oin(?![aeiouéèn])", f"w{_EN}"), (r"ien(?![aeiouéènt])", f"j{_EN}"), (r"oî|oi", "wa"),
        (r"oû|où|ou(?=[aeiéèoî])", "w"),
        (r"ou|oû|où", "u"), (r"eu(?=[zstx]|$)", "ø"), (r"eu|eû", "œ"), (r"ueu(?=[lr])", "œ"),
        (r"yn(?![aeiouyéèn])|ym(?=[bp])|in(?![aeiouyéèêàn])|im(?=[bp])", _EN),
        (r"an(?![aeiouyéèêâàn])|am(?=[bp])|en(?![aeiouyéèêâàn])|em(?=[bp])|emm(?=[aeio])|enn(?=ui|iv)", _AN),
        (r"on(?![aeiouyéèêàn])|om(?=[bp])", _ON), (r"un(?![aeiouyéèàn])|um(?=[bp])", _UN),
        (r"sch|sh|ch(?![rln])", "ʃ"), (r"ch", "k"), (r"ph", "f"), (r"th", "t"), (r"rh", "ʁ"), (r"gn", "ɲ"),
        (r"gu(?=[eiéèêî])", "ɡ"), (r"ge(?=[aouâô])", "ʒ"), (r"g(?=[eiyéèêîë])", "ʒ"), (r"gg", "ɡ"), (r"g", "ɡ"),
        (r"qu|q", "k"), (r"cc(?=[eiéè])", "ks"), (r"sc(?=[eiyéèê])", "s"), (r"ç", "s"), (r"c(?=[eiyéèêî])", "s"),
        (r"cc|ck|c", "k"), (r"(?<=[aeiouyéèêàâôî])s(?=[aeiouyéèêàâôîh])", "z"), (r"ss|s", "s"),
        (r"(?<=^e)x(?=[aeiouéèhy])|(?<=^he)x(?=[a])", "ɡz"), (r"xc(?=[eiéè])", "ks"), (r"x", "ks"),
        (r"ti(?=aire|al|el|on|eux|eu|en[ct])", "sj"), (r"j", "ʒ"), (r"w", "w"), (r"h", ""),
        (r"é|ée", "e"), (r"è|ê|ë", "ɛ"), (r"à|â|ä|a", "a"), (r"î|ï", "i"), (r"ô|ö", "o"), (r"û|ù|ü", "y"),
        (r"i(?=[aeouéèêâô])", "j"), (r"u(?=[iaeéèê])", "ɥ"), (r"y(?=[aeiouéè])", "j"), (r"i|y", "i"), (r"u", "y"),
        (r"oo", "u"), (r"o(?=se|tion|$)", "o"), (r"o", "ɔ"),
        (r"e(?=xx?|ss|tt|ll|rr|nn|mm|ff|cc|pp|gg)", "ɛ"), (r"e(?=[bcdfgklmnprstvxz](?:[bcdfgkmnpqstvxz]|$))", "ɛ"),
        (r"e(?=r[lr])", "ɛ"), (r"(?<=[aeiouéè])e", ""), (r"e$|es$", ""), (r"e", "ə"),
        (r"bb?", "b"), (r"dd?", "d"), (r"ff?", "f"), (r"k", "k"), (r"ll?", "l"), (r"mm?", "m"), (r"nn?", "n"),
        (r"pp?", "p"), (r"rr?", "ʁ"), (r"tt?", "t"), (r"v", "v"), (r"zz?", "z"), (r"'|-", ""),
    )
)  # fmt: skip
"""Letters within a word, the first that fits at a place."""


def _letters_of(word: str, *, plural: bool = False) -> str:
    """The sounds of a regular word."""
    if plural and word.endswith("ent") and not word.endswith("ment"):
        word = word[:-3] + "e"
    end = ""
    stem = word
    for pattern, sounds in _ENDINGS:
        if (found := pattern.search(word)) is not None:
            stem, end = word[: found.start()], sounds
            break
    else:
        stem = _silent(word)
    sounds = ""
    n = 0
    whole = stem if end == "" else stem + word[len(stem) :]
    while n < len(stem):
        for pattern, each in _INNER:
            if (found := pattern.match(whole, n)) is not None and found.end() > n:
                sounds += each
                n = found.end()
                break
        else:
            n += 1
    return _MUTE.sub(r"\1\2", sounds + end)


_MUTE = re.compile(rf"([{_SOUNDS}]\u0303?[^{_SOUNDS}\u0303])ə([^{_SOUNDS}\u0303][{_SOUNDS}])")
"""An e between single consonants is silent: acheter, samedi."""


def _silent(word: str) -> str:
    """Drop the consonants that are silent at the end of a word, and the silent e."""
    word = re.sub(r"(?<=[^aeiou])es$|(?<=[aeiouyéè])es$", "e", word)
    if word.endswith("e") and len(word) > 2:
        return word[:-1] + "e"
    if len(word) > 2:
        word = re.sub(r"(?<=.)[sxzpdt]+$", "", word) or word
    return word
