"""``engine calibrate``."""

import datetime as dt
from pathlib import Path

import click
import numpy as np

from engine.api.calibrating import calibrate_model
from engine.cli.options import MarketDate, format_option, print_json, quiet_option, universe_option, warn
from engine.desk.terminal import console, show_calibration
from engine.errors import UsageError
from engine.store.runs import write_model


@click.command()
@click.option("--prices", type=click.Path(), help="Price table (Parquet or CSV). Required.")
@click.option("--securities", type=click.Path(), help="Securities to use instead of the universe's.")
@click.option("--baskets", type=click.Path(), help="CSV (tier, security_id) to use instead of the universe's core.")
@universe_option
@click.option("--as-of", type=MarketDate(), help="Calibration date; the latest price when not given.")
@click.option("--out", type=click.Path(), default="model", show_default=True, help="Folder of the model.")
@click.option("--validation", type=click.Path(), help="Run folder of engine validate; its headline goes into the card.")
@format_option("table", "json")
@quiet_option
def command(
    prices: str | None,
    securities: str | None,
    baskets: str | None,
    universe: str,
    as_of: dt.date | None,
    out: str,
    validation: str | None,
    form: str,
    quiet: bool,
) -> None:
    """Turn prices into the risk model of a universe.

    Baskets become pure factors, factors become shrunk exposures, and both become factor
    covariance and specific risk. Nothing after the calibration date is looked at.
    """
    if prices is None:
        raise UsageError("calibrate needs --prices FILE (columns security_id, date, close); no prices are bundled")
    result = calibrate_model(
        prices, universe=universe, securities=securities, baskets=baskets, as_of=as_of, validation=validation
    )
    warn(result.calibration.notices, (), quiet=quiet)
    hashes = write_model(Path(out), result.tables, result.card)
    if form == "json":
        print_json({**result.card, "tables": hashes, "out": out})
        return
    model = result.calibration.model
    volatility = np.sqrt(np.diag(model.factor_covariance))
    show_calibration(console(), result.card, dict(zip(model.factors.labels, volatility, strict=True)), out)
