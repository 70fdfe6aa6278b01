"""Summaries and translations, which no program can check: a judge compares them with a text of a person's hand.

The judge sees neither which text is whose nor the name of a model, and is asked in both orders.
"""

from __future__ import annotations

from random import Random

from server.calibration.examinee import Examinee

_TEXTS: tuple[tuple[str, str], ...] = (
    (
        "The town council decided on Monday to close the old swimming pool at the end of the year. Repairs "
        "would cost four million euros, which the town does not have. A citizens' group has collected six "
        "thousand signatures against it and offers to run the pool itself. The council will hear the group "
        "in May.",
        "For lack of four million euros for repairs, the council will close the old pool at the year's end; "
        "in May it hears a citizens' group that opposes this and would run the pool itself.",
    ),
    (
        "Researchers let two hundred volunteers learn word lists in the evening. Half of them slept "
        "afterwards, the others stayed awake until noon. The sleepers remembered a third more words. After "
        "a week the difference was smaller, but still there. The authors warn that all volunteers were "
        "students under thirty.",
        "In a study of two hundred young students, those who slept after learning words remembered a third "
        "more; a week later the advantage was smaller but remained.",
    ),
    (
        "The update of the app moves the search to the bottom of the screen and adds a dark mode. It also "
        "fixes the fault by which photos were uploaded twice. Users of old phones must wait: for them, the "
        "update comes in March, because the new camera needs more memory than their phones have at present.",
        "The update moves the search down, adds a dark mode and stops double uploads of photos; old phones "
        "get it in March because the camera needs more memory.",
    ),
)
_TRANSLATIONS: tuple[tuple[str, str, str], ...] = (
    ("German", "The keys are on the table.", "Die Schlüssel liegen auf dem Tisch."),
    ("French", "We will call you as soon as the parcel arrives.", "Nous vous appellerons dès l'arrivée du colis."),
    ("Spanish", "She had already left when I opened the letter.", "Ya se había ido cuando abrí la carta."),
    ("Italian", "Could you tell me where the station is?", "Potrebbe dirmi dov'è la stazione?"),
    ("Portuguese", "It has been raining since yesterday morning.", "Está chovendo desde ontem de manhã."),
)


async def summaries(dice: Random, model: Examinee) -> float:
    """Summarise a text as well as a person."""
    text, reference = dice.choice(_TEXTS)
    prompt = f"Summarise this text in one sentence:\n\n{text}"
    return await model.compared(prompt, await model.text(prompt, tokens=120), reference)


async def translations(dice: Random, model: Examinee) -> float:
    """Translate a sentence as well as a person."""
    language, text, reference = dice.choice(_TRANSLATIONS)
    prompt = f"Translate into {language}. Answer with the translation alone.\n\n{text}"
    return await model.compared(prompt, await model.text(prompt, tokens=120), reference)
