"""``engine scenarios``: list, show, validate, schema, diff, drivers, hindsight."""

import json
from pathlib import Path

import click

from engine.api.hindsight import score_library
from engine.api.stories import Stories, check_stories, list_stories, load_stories, tell_story, what_if
from engine.cli.options import format_option, print_csv, print_json, quiet_option, universe_option, warn
from engine.desk.scores import show_hindsight
from engine.desk.stories import show_differences, show_library, show_story, show_what_if
from engine.desk.terminal import console
from engine.errors import EXIT_OK, EXIT_PARTIAL, ConfigurationError, UsageError
from engine.scenarios.kinds import scenario_schema
from engine.scenarios.numbers import differences, stated_numbers
from engine.store.files import decode_text, read_source


@click.group()
def command() -> None:
    """List, show, check and compare scenarios; ask what other economics do."""


@command.command("list")
@universe_option
@format_option("table", "json", "csv")
def list_command(universe: str, form: str) -> int:
    """Every scenario of the library with its kind, horizon and approval."""
    stories = list_stories(load_stories(universe))
    if form == "json":
        print_json({"scenarios": stories.to_dicts()})
    elif form == "csv":
        print_csv(stories)
    else:
        show_library(console(), stories)
    return EXIT_OK


@command.command("show")
@click.argument("scenario")
@universe_option
@format_option("table", "json")
def show_command(scenario: str, universe: str, form: str) -> int:
    """What a scenario (an id, or a YAML file) says, does to the curve, and how plausible it is."""
    stories, (name,) = _named(load_stories(universe), (scenario,))
    story = tell_story(stories, name)
    body, numbers = story.scenario.body, stated_numbers(story.scenario.body)
    if form == "json":
        document = {
            "scenario": body.model_dump(mode="json"),
            "sha256": story.scenario.sha256,
            "curve": story.response.to_dicts(),
            "plausibility": dict(story.summary),
        }
        print_json(document)
        return EXIT_OK
    approval = f"approved by {body.approved_by}" if body.approved_by else "not approved"
    until = f", valid until {body.valid_until}" if body.valid_until else ""
    head = {**story.summary, "narrative": body.narrative, "sources": body.sources, "approval": f"{approval}{until}"}
    rows = [(number.what, number.value, number.low, number.high, number.source) for number in numbers]
    show_story(console(), head, rows, story.response)
    return EXIT_OK


@command.command("validate")
@click.argument("scenarios", nargs=-1)
@universe_option
def validate_command(scenarios: tuple[str, ...], universe: str) -> int:
    """Check scenarios (ids or YAML files); the whole library when none is named."""
    stories, names = _named(load_stories(universe), scenarios)
    answers = check_stories(stories, names)
    for name, faults in answers.items():
        if not faults:
            click.echo(f"{name}: ok")
    if wrong := [fault for faults in answers.values() for fault in faults]:
        raise ConfigurationError(list(dict.fromkeys(wrong)))
    return EXIT_OK


@command.command("schema")
def schema_command() -> int:
    """The JSON Schema of a scenario file, for an editor."""
    click.echo(json.dumps(scenario_schema(), indent=2))
    return EXIT_OK


@command.command("diff")
@click.argument("one")
@click.argument("other")
@universe_option
@format_option("table", "json")
def diff_command(one: str, other: str, universe: str, form: str) -> int:
    """What two scenarios (ids or YAML files) say differently."""
    base = load_stories(universe)
    # Each is read on its own: two files may hold the same id.
    bodies = []
    for wanted in (one, other):
        stories, (name,) = _named(base, (wanted,))
        bodies.append(stories.library.scenario(name).body)
    rows = differences(bodies[0], bodies[1])
    if form == "json":
        print_json(
            {
                "one": one,
                "other": other,
                "differences": [dict(zip(("place", "one", "other"), r, strict=True)) for r in rows],
            }
        )
    else:
        show_differences(console(), (one, other), rows)
    return EXIT_OK


@command.command("drivers")
@click.argument("scenario", default="same_with_less")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="Another driver, e.g. e_T=0.5; repeatable.")
@click.option(
    "--observed", multiple=True, metavar="NAME=RETURN", help="A move to explain: a tier, or demand=-0.17; repeatable."
)
@universe_option
@format_option("table", "json")
def drivers_command(
    scenario: str, changes: tuple[str, ...], observed: tuple[str, ...], universe: str, form: str
) -> int:
    """What other economics would do to the curve, and what an observed move says about them."""
    stories, (name,) = _named(load_stories(universe), (scenario,))
    answer = what_if(stories, name, _pairs(changes, "--set"), _pairs(observed, "--observed"))
    if form == "json":
        print_json(
            {
                "scenario": name,
                "demand": {"as_written": answer.before.demand, "now": answer.after.demand},
                "demand_range": list(answer.after.demand_range),
                "curve": answer.response.to_dicts(),
                "implied_weights": answer.weights.to_dicts(),
            }
        )
    else:
        demand = (answer.before.demand, answer.after.demand, answer.after.demand_range)
        show_what_if(console(), name, demand, answer.response, answer.weights)
    return EXIT_OK


@command.command("hindsight")
@click.option("--prices", type=click.Path(), help="Price table (Parquet or CSV). Required.")
@click.option(
    "--controls", type=click.IntRange(1), default=20, show_default=True, help="Ordinary days to score on too."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the ordinary days.")
@universe_option
@format_option("table", "json", "csv")
@quiet_option
def hindsight_command(prices: str | None, controls: int, seed: int, universe: str, form: str, quiet: bool) -> int:
    """Score the scenarios on the days they describe, and on ordinary days."""
    if prices is None:
        raise UsageError("hindsight needs --prices FILE; no prices are bundled")
    result = score_library(prices, universe=universe, controls=controls, seed=seed)
    warn(result.notices, (), quiet=quiet)
    if form == "json":
        print_json({**{name: table.to_dicts() for name, table in result.tables.items()}, "controls": result.controls})
    elif form == "csv":
        print_csv(result.tables["hindsight"])
    else:
        show_hindsight(console(), result.tables, result.controls)
    return EXIT_PARTIAL if any(notice.code == "hindsight.day" for notice in result.notices) else EXIT_OK


def _named(stories: Stories, wanted: tuple[str, ...]) -> tuple[Stories, tuple[str, ...]]:
    """The stories with every file that is named, and the ids of what is named."""
    names: list[str] = []
    for one in wanted:
        if one.endswith((".yaml", ".yml")):
            text = decode_text(read_source(Path(one), one, may_be_empty=True))
            stories, added = stories.with_texts({one: text})
            names += added
        else:
            names.append(one)
    return stories, tuple(names)


def _pairs(words: tuple[str, ...], option: str) -> dict[str, float]:
    pairs: dict[str, float] = {}
    for word in words:
        name, equals, number = word.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if not equals or not name.strip() or not abs(value) < float("inf"):
            raise UsageError(f"{option} {word!r}: write NAME=NUMBER, e.g. e_T=0.5")
        if name.strip() in pairs:
            raise UsageError(f"{option} names {name.strip()} twice; give it once")
        pairs[name.strip()] = value
    return pairs
