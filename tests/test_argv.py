"""The two readers of the command line: the fast one says what click says, or nothing."""

from __future__ import annotations

import random
from collections import Counter

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pystandby import argv, cli
from pystandby.options import OPTIONS, Options

WORDS = ["/archive", "000000010000000000000005", "pg_wal/RECOVERYXLOG"]

DEFAULTS: dict[str, object] = {
    "archivelocation": "/archive",
    "nextwalfile": "000000010000000000000005",
    "xlogfilepath": "pg_wal/RECOVERYXLOG",
    "restartwalfile": None,
    "copy": True,
    "debug": False,
    "keep": 0,
    "link": False,
    "retries": 3,
    "sleep": 5,
    "trigger": None,
    "max_wait": 0,
    "watch": True,
    "wait": "auto",
    "verify": "auto",
    "stable": None,
    "delay": 0,
    "removal_pause": None,
    "look_ahead": 8,
    "on_failure": "abort",
    "on_new_timeline": "wait",
    "promote": False,
    "trust_trigger": False,
}


def values(options: Options) -> dict[str, object]:
    return {name: getattr(options, name) for name in Options.__slots__}


def typed(options: Options) -> dict[str, tuple[type, object]]:
    """With the types: True is not 1 here."""
    return {name: (type(value), value) for name, value in values(options).items()}


def by_click(arguments: list[str]) -> Options | None:
    """What click makes of a command line; None for an error, help or version."""
    try:
        return cli.parse(arguments)
    except (click.ClickException, click.exceptions.Exit):
        return None


def test_defaults() -> None:
    fast = argv.parse(WORDS)
    assert fast is not None
    assert values(fast) == DEFAULTS
    assert values(cli.parse(WORDS)) == DEFAULTS


SPELLINGS: list[tuple[list[str], dict[str, object]]] = [
    (["-c"], {}),
    (["-l"], {"link": True}),
    (["-d"], {"debug": True}),
    (["-s", "2"], {"sleep": 2}),
    (["-s2"], {"sleep": 2}),
    (["-ds", "2"], {"debug": True, "sleep": 2}),
    (["-ds2"], {"debug": True, "sleep": 2}),
    (["-cdls60"], {"debug": True, "link": True, "sleep": 60}),
    (["-d", "-d", "-s1", "-s", "3"], {"debug": True, "sleep": 3}),
    (["-t", "/tmp/trigger"], {"trigger": "/tmp/trigger"}),
    (["-t/tmp/trigger"], {"trigger": "/tmp/trigger"}),
    (["-dt/tmp/trigger"], {"debug": True, "trigger": "/tmp/trigger"}),
    (["-t", "a b=c"], {"trigger": "a b=c"}),
    (["-td"], {"trigger": "d"}),
    (["-k", "0"], {}),
    (["-k256", "-r0", "-w7200"], {"keep": 256, "retries": 0, "max_wait": 7200}),
    (["-k", "2147483647"], {"keep": 2147483647}),
    (["-s", "05"], {"sleep": 5}),
    (["--copy", "--link", "--debug"], {"link": True, "debug": True}),
    (["--sleep", "2"], {"sleep": 2}),
    (["--sleep=2"], {"sleep": 2}),
    (["--keep=7", "--retries", "1", "--max-wait=0"], {"keep": 7, "retries": 1}),
    (["--trigger=/tmp/a=b"], {"trigger": "/tmp/a=b"}),
    (["--trigger", "/tmp/a"], {"trigger": "/tmp/a"}),
    (["--poll"], {"watch": False}),
    (["--watch"], {}),
    (["--poll", "--watch"], {}),
    (["--watch", "--poll"], {"watch": False}),
    (["--poll", "--watch", "--poll"], {"watch": False}),
    (["--wait", "never"], {"wait": "never"}),
    (["--wait=always"], {"wait": "always"}),
    (["--verify=pages"], {"verify": "pages"}),
    (["--verify", "size"], {"verify": "size"}),
    (["--verify=none"], {"verify": "none"}),
    (["--stable=0"], {"stable": 0}),
    (["--stable", "3600"], {"stable": 3600}),
    (["--look-ahead=64"], {"look_ahead": 64}),
    (["--delay=3600"], {"delay": 3600}),
    (["--removal-pause", "p"], {"removal_pause": "p"}),
    (["--on-failure=end-recovery"], {"on_failure": "end-recovery"}),
    (["--on-new-timeline", "stop"], {"on_new_timeline": "stop"}),
    (["--promote"], {"promote": True}),
    (["--trust-trigger"], {"trust_trigger": True}),
]


@pytest.mark.parametrize(("options", "expected"), SPELLINGS, ids=[" ".join(words) for words, _ in SPELLINGS])
def test_spelling(options: list[str], expected: dict[str, object]) -> None:
    # Before, between and behind the arguments, and before "--".
    for line in (
        [*options, *WORDS],
        [*WORDS, *options],
        [WORDS[0], *options, *WORDS[1:]],
        [*options, "--", *WORDS],
        [WORDS[0], *options, "--", *WORDS[1:]],
    ):
        assert values(cli.parse(line)) == {**DEFAULTS, **expected}, line
        fast = argv.parse(line)
        # None would be right, and ten times as slow: these are the spellings that people use.
        assert fast is not None, line
        assert values(fast) == {**DEFAULTS, **expected}, line


def test_restartwalfile() -> None:
    for line in ([*WORDS, "0" * 24], [*WORDS, "--", "0" * 24], [*WORDS, "-d", "0" * 24]):
        for options in (argv.parse(line), cli.parse(line)):
            assert options is not None
            assert options.restartwalfile == "0" * 24


def test_nothing_is_an_option_behind_two_dashes() -> None:
    line = ["--", "-d", "--help", "--", "-s"]
    for options in (argv.parse(line), cli.parse(line)):
        assert options is not None
        assert (options.archivelocation, options.nextwalfile, options.xlogfilepath, options.restartwalfile) == (
            "-d",
            "--help",
            "--",
            "-s",
        )
        assert not options.debug


@pytest.mark.parametrize(
    "verb", ["archive", "archive-cleanup", "recovery-end", "trigger", "status", "report", "verify", "check", "demo"]
)
def test_a_verb_is_left_to_click(verb: str) -> None:
    assert argv.parse([verb, *WORDS]) is None
    assert argv.parse([verb, *WORDS[1:]]) is None
    # Anywhere else it is a word like others.
    fast = argv.parse(["-d", verb, *WORDS[1:]])
    assert fast is not None
    assert fast.archivelocation == verb


# Both readers on random lines -----------------------------------------------------------------------------------------

NAMES = [f"--{option.long}" for option in OPTIONS]
LETTERS = [option.short for option in OPTIONS if option.short]

VALUES = [
    *("0", "1", "2", "5", "60", "61", "3600", "3601", "64", "65", "2147483647", "2147483648", "00000000003", "007", "9" * 30),
    *(
        "-1",
        "+3",
        "1_0",
        " 3",
        "3 ",
        "3\n",
        "0x3",
        "1e1",
        "3.0",
        "\u0663",
        "\uff13",
        "²",
        "",
        "-",
        "--",
        "---",
        "=",
        "=3",
        "--=",
        "-=3",
    ),
    *(
        "auto",
        "always",
        "never",
        "pages",
        "size",
        "none",
        "abort",
        "end-recovery",
        "wait",
        "stop",
        "AUTO",
        "Never",
        "alway",
        "auto ",
    ),
    *(
        "/archive",
        "pg_wal/RECOVERYXLOG",
        "0" * 24,
        "000000010000000000000005",
        "/tmp/trigger",
        "a b",
        "ä",
        "\udcff",
        "a=b",
        "%",
        "*",
    ),
    *("true", "True", "1", "yes", "no", "off"),
    *("-d", "-x", "-t", "-dd", "--debug", "--no-debug", "--unknown", "--help", "-?", "-V", "--version", "-h"),
    *("demo", "archive", "trigger", "status"),
]


def random_line(rng: random.Random) -> list[str]:
    """A command line, mostly right; now and then anything."""
    line: list[str] = []
    words = list(WORDS) if rng.random() < 0.8 else [rng.choice(VALUES) for _ in range(rng.randrange(6))]
    if rng.random() < 0.4:
        words.append(rng.choice(["0" * 24, "000000010000000000000003"]))
    for word in words:
        for _ in range(rng.choice((0, 0, 1, 2))):
            line += random_option(rng)
        if rng.random() < 0.02:
            line.append("--")
        line.append(word)
    for _ in range(rng.choice((0, 0, 0, 1))):
        line += random_option(rng)
    if rng.random() < 0.02:
        line.insert(rng.randrange(len(line) + 1), rng.choice(VALUES))
    return line


def random_option(rng: random.Random) -> list[str]:
    option = rng.choice(OPTIONS)
    flag = f"--{option.long}"
    if not option.metavar:
        kind = rng.random()
        if kind < 0.05:
            return [f"{flag}={rng.choice(VALUES)}"]
        if option.short and kind < 0.6:
            return [f"-{option.short}{rng.choice(['', '', '', *LETTERS])}"]
        return [flag]
    if rng.random() < 0.85:
        good = [*option.words, *map(str, option.limits), "3"] if option.words or option.limits else ["/tmp/trigger", "t"]
        value = rng.choice(good if not option.words else list(option.words))
    else:
        value = rng.choice(VALUES)
    spelling = rng.random()
    if option.short and spelling < 0.2:
        return [f"-{option.short}{value}"]
    if option.short and spelling < 0.35:
        return [f"-{rng.choice('cdl')}{option.short}", value]
    if option.short and spelling < 0.4:
        return [f"-{option.short}={value}"]
    if option.short and spelling < 0.6:
        return [f"-{option.short}", value]
    if spelling < 0.97:
        return [f"{flag}={value}"] if spelling < 0.8 else [flag, value]
    return [flag]


@pytest.mark.parametrize("seed", range(4))
def test_the_fast_reader_says_what_click_says_or_nothing(seed: int) -> None:
    rng = random.Random(seed)
    count: Counter[str] = Counter()
    for _ in range(30_000):
        line = random_line(rng)
        fast = argv.parse(line)
        if fast is None:
            # Every tenth, to know how much the fast reader leaves over that it could have read.
            if rng.random() < 0.1:
                count["of those left to click, right" if by_click(line) else "of those left to click, wrong"] += 1
            count["left to click"] += 1
            continue
        slow = by_click(line)
        assert slow is not None, f"click reads no options in {line}, the fast reader does"
        assert typed(fast) == typed(slow), line
        count["read fast"] += 1
    # Else the test would show nothing: it must be able to fail on right lines and on wrong ones.
    assert count["read fast"] > 10_000, count
    assert count["left to click"] > 6_000, count
    assert count["of those left to click, wrong"] > 300, count
    # What the fast reader could have read costs ten times as much; it may be rare spellings only.
    assert count["of those left to click, right"] * 10 < 0.1 * count["read fast"], count


_WORD = st.one_of(
    st.sampled_from([*WORDS, *VALUES, *NAMES, *(f"-{letter}" for letter in LETTERS), *(f"{name}=" for name in NAMES)]),
    st.builds("{}={}".format, st.sampled_from(NAMES), st.sampled_from(VALUES)),
    st.builds("-{}{}".format, st.sampled_from(LETTERS), st.sampled_from(VALUES)),
    st.text(max_size=4),
)


@settings(max_examples=2000, deadline=None)
@example(["-w=3", *WORDS])
@example(["--debug=1", *WORDS])
@example(["--keep=", *WORDS])
@example([*WORDS, "--keep"])
@example([*WORDS, "-k"])
@example(["-k\u0663", *WORDS])
@example(["-k+3", *WORDS])
@example(["-k1_0", *WORDS])
@example(["-t", "--", *WORDS])
@example(["-", *WORDS[1:]])
@given(st.lists(_WORD, max_size=9))
def test_the_fast_reader_says_what_click_says_or_nothing_on_odd_lines(line: list[str]) -> None:
    fast = argv.parse(line)
    if fast is not None:
        slow = by_click(line)
        assert slow is not None
        assert typed(fast) == typed(slow)


@settings(max_examples=500, deadline=None)
@given(st.text())
def test_a_number_is_plain_digits(text: str) -> None:
    number = argv.whole_number(text)
    plain = 0 < len(text) <= 10 and all(letter in "0123456789" for letter in text)
    assert number == (int(text) if plain else None)
