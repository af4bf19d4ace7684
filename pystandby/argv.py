"""The fast reader of a restore's command line: exactly what click would make of it, or None for "ask click".

It knows the plain spellings only and makes no message: whatever is wrong, rare or doubtful is left to cli. Importing click
costs four times a start of Python, for every segment.
"""

from pystandby.options import ARGUMENTS, CHOICE, COMPRESS, FLAG, NUMBER, OPTIONS, VERBS, Option, Options

_SHORT = {option.short: option for option in OPTIONS if option.short}
_LONG = {option.long: option for option in OPTIONS}


def parse(arguments: "list[str]") -> "Options | None":
    """Read a command line without the program's name; None where click has to decide, say or show something."""
    if not arguments or arguments[0] in VERBS:
        return None
    options = Options()
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            words.extend(rest)
        elif word[:2] == "--":
            name, equals, value = word[2:].partition("=")
            option = _LONG.get(name)
            if option is None:
                return None
            if option.kind == FLAG:
                if equals:
                    return None
                setattr(options, option.attribute, option.limits[0])
            elif not _take(options, option, value if equals else next(rest, "")):
                return None
        elif word[:1] == "-":
            letters = word[1:]
            if not letters:
                return None
            while letters:
                option = _SHORT.get(letters[0])
                letters = letters[1:]
                if option is None:
                    return None
                if option.kind == FLAG:
                    setattr(options, option.attribute, option.limits[0])
                else:
                    if not _take(options, option, letters or next(rest, "")):
                        return None
                    letters = ""
        else:
            words.append(word)
    if not 3 <= len(words) <= 4 or not all(words):
        return None
    for name, word in zip(ARGUMENTS, words, strict=False):
        setattr(options, name, word)
    return options


def archive(arguments: "list[str]") -> "tuple[list[str], str] | None":
    """The words of "archive [--compress METHOD] ARCHIVE... %p %f" behind verb and option, and METHOD or nothing.

    None where click has to decide, say or show something.
    """
    words = arguments[1:]
    if arguments[:1] != ["archive"] or len(words) < 3 or is_restore(words):
        return None
    method = None
    if words[0] == "--compress":
        method, words = words[1], words[2:]
    elif words[0][:11] == "--compress=":
        method, words = words[0][11:], words[1:]
    if method not in (None, *COMPRESS) or len(words) < 3 or any(word[:1] in ("", "-") for word in words):
        return None
    return words, method or ""


def is_restore(words: "list[str]") -> bool:
    """Whether these are a restore_command's, whose archive only has the name of a verb."""
    return any(word.endswith(("RECOVERYXLOG", "RECOVERYHISTORY")) for word in words)


def _take(options: Options, option: Option, value: str) -> bool:
    """Set an option that takes a value; False where that is not plainly right."""
    if not value or value[0] == "-":
        return False
    if option.kind == NUMBER:
        number = whole_number(value)
        if number is None or not option.limits[0] <= number <= option.limits[1]:
            return False
        setattr(options, option.attribute, number)
        return True
    if option.kind == CHOICE and value not in option.words:
        return False
    setattr(options, option.attribute, value)
    return True


def whole_number(text: str) -> "int | None":
    """The number that up to ten plain decimal digits stand for, else None: no sign, blank, underscore or other script's digit."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else None
