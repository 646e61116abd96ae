"""``engine tiers``."""

import click

from engine.api.curving import TierReport, describe_tiers
from engine.api.loading import load_universe
from engine.cli.options import format_option, print_csv, print_json, quiet_option, universe_option, warn
from engine.desk.rungs import show_tiers
from engine.desk.terminal import console


@click.command()
@universe_option
@format_option("table", "json", "csv")
@quiet_option
def command(universe: str, form: str, quiet: bool) -> None:
    """Show the curve: where its tiers lie, and who behaves like them.

    Members, straddlers, undeclared names that behave like a tier, and declared names that do
    not behave like theirs, from the model's tables alone. Estimates change no membership.
    """
    loaded = load_universe(universe)
    report = describe_tiers(loaded)
    warn(report.notices, (), quiet=quiet)
    if form == "json":
        print_json({"universe": loaded.universe.settings.id, **_document(report)})
    elif form == "csv":
        print_csv(report.evidence.shares)
    else:
        show_tiers(console(), report.as_of, report.tiers, report.evidence)


def _document(report: TierReport) -> dict[str, object]:
    evidence, contrasts = report.evidence, report.contrasts
    listed = evidence.shares["security_id"].unique().to_list()
    tiers = report.tiers["tier"].to_list()
    return {
        "model_as_of": report.as_of,
        "tiers": report.tiers.to_dicts(),
        "contrasts": contrasts
        and {
            name: dict(zip(tiers, column, strict=True))
            for name, column in zip(contrasts.names, contrasts.values.T.tolist(), strict=True)
        },
        "members": evidence.members.to_dicts(),
        "straddlers": evidence.straddlers.to_dicts(),
        "lookalikes": evidence.lookalikes.to_dicts(),
        "unlike": evidence.unlike.to_dicts(),
        "memberships": evidence.estimated.to_dicts(),
        "evidence": evidence.of(listed).to_dicts(),
    }
