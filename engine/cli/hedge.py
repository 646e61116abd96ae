"""``engine hedge``."""

from dataclasses import asdict
from pathlib import Path
from typing import get_args

import click

from engine.api.hedging import HedgeTerms, hedge_portfolios
from engine.cli.answers import print_answer, write_answer
from engine.cli.options import Books, book_options, format_option, quiet_option, warn
from engine.desk.hedges import show_hedges
from engine.desk.terminal import console
from engine.store.files import Source, decode_text, read_source
from engine.stress.hedge import Objective


@click.command()
@click.option("--scenario", help="Id of the library, or a YAML file; the universe's default when not given.")
@click.option("--budget", type=float, help="Largest loss of every book, fraction of NAV, instead of its mandate's.")
@click.option("--with", "names", default="etfs", show_default=True, help="etfs, names, or ids: SPY,SMH.")
@click.option("--objective", type=click.Choice(get_args(Objective)), default="cheapest", show_default=True)
@click.option("--max-trades", type=int, help="Most trades of one book.")
@click.option("--max-weight", type=float, default=0.25, show_default=True, help="Largest trade, fraction of NAV.")
@click.option("--charge-bps", type=float, default=1.0, show_default=True, help="Charge on a trade beside its spread.")
@click.option("--long-only", is_flag=True, help="Sell no more than a book holds.")
@click.option("--rebound", help="Story that may follow; overreaction where the library has it.")
@book_options
@click.option("--out", type=click.Path(), help="Also write the tables below this folder.")
@format_option("table", "json", "csv")
@quiet_option
def command(
    scenario: str | None,
    budget: float | None,
    names: str,
    objective: Objective,
    max_trades: int | None,
    max_weight: float,
    charge_bps: float,
    long_only: bool,
    rebound: str | None,
    books: Books,
    out: str | None,
    form: str,
    quiet: bool,
) -> int:
    """Find the fewest or cheapest trades that bring a stress loss inside its budget.

    Without options: the bundled books above their budget under the universe's default scenario,
    hedged with its ETFs at the least cost. The book itself is not changed.
    """
    terms = HedgeTerms(
        objective=objective,
        budget=budget,
        candidates=tuple(word.strip() for word in names.split(",") if word.strip()),
        max_trades=max_trades,
        max_weight=max_weight,
        charge_bps=charge_bps,
        long_only=long_only,
        rebound=rebound,
    )
    loaded = books.load()
    sources, texts, name = list[Source](), dict[str, str](), scenario
    if scenario is not None and scenario.endswith((".yaml", ".yml")):
        sources, name = [read_source(Path(scenario), scenario, may_be_empty=True)], None
        texts = {scenario: decode_text(sources[0])}
    result = hedge_portfolios(loaded, name, terms, texts=texts)
    warn(result.notices, result.refused, quiet=quiet)
    asked = {"command": "hedge", "scenario": result.scenario, "terms": asdict(terms)}
    write_answer(out, loaded, result, asked=asked, extra=sources)
    parents = frozenset(loaded.portfolios["parent_id"].drop_nulls().to_list())
    return print_answer(
        loaded,
        result,
        form=form,
        main="hedge_trades",
        show=lambda: show_hedges(console(), result.tables, loaded.curve.tiers.labels, parents),
    )
