"""``engine mandates``: validate, schema, show."""

import json
from pathlib import Path

import click

from engine.api.mandating import Rules, check_mandates, load_rules, show_rules
from engine.cli.options import format_option, print_json, universe_option
from engine.desk.mandates import show_mandate
from engine.desk.terminal import console
from engine.errors import EXIT_OK, ConfigurationError, UsageError
from engine.mandates.mandate import mandate_schema
from engine.store.files import decode_text, read_source


@click.group()
def command() -> None:
    """Check mandates, show what they allow, print their schema."""


@command.command("validate")
@click.argument("mandates", nargs=-1, metavar="[FILE]...")
@universe_option
def validate_command(mandates: tuple[str, ...], universe: str) -> int:
    """Check mandates (YAML files or ids); all of the universe when none is named."""
    rules, names = _named(load_rules(universe), mandates)
    answers = check_mandates(rules, names)
    for name, faults in answers.items():
        if not faults:
            click.echo(f"{name}: ok")
    if wrong := [fault for faults in answers.values() for fault in faults]:
        raise ConfigurationError(wrong)
    return EXIT_OK


@command.command("schema")
def schema_command() -> int:
    """The JSON Schema of a mandate file, for an editor."""
    click.echo(json.dumps(mandate_schema(), indent=2))
    return EXIT_OK


@command.command("show")
@click.argument("mandate")
@universe_option
@format_option("table", "json")
def show_command(mandate: str, universe: str, form: str) -> int:
    """What a mandate (an id, or a YAML file) allows, and which books are managed by it."""
    rules, (name,) = _named(load_rules(universe), (mandate,))
    found, books = show_rules(rules, name)
    if form == "json":
        print_json({"mandate": found.model_dump(mode="json"), "portfolios": list(books)})
    else:
        show_mandate(console(), found, books)
    return EXIT_OK


def _named(rules: Rules, wanted: tuple[str, ...]) -> tuple[Rules, tuple[str, ...]]:
    """The rules with every file that is named, and the ids of what is named."""
    files: dict[str, str] = {}
    for one in wanted:
        if one.endswith(".yaml"):
            other = files.setdefault(Path(one).stem, one)
            if other != one:
                raise UsageError(f"{other} and {one} have one name; check them one at a time")
    texts = {one: decode_text(read_source(Path(one), one, may_be_empty=True)) for one in files.values()}
    return rules.with_texts(texts), tuple(Path(one).stem if one.endswith(".yaml") else one for one in wanted)
