"""Rebuilds the market data and the demo books of the bundled universe from the raw price files.

Run by ``make universe`` where the price files are present; not part of the wheel. What is
written by hand (tiers, memberships with their reasons, scenarios, mandates, the recipes of
the books below) stays; prices, volumes, caps, spreads and share counts are computed.
Only figures as of the universe's date leave: one price, one volume, one cap a name.
"""

import datetime as dt
import sys
from pathlib import Path
from typing import Final

import polars as pl

AS_OF: Final = dt.date(2025, 1, 24)
ROOT: Final = Path(__file__).resolve().parent / "ai_curve"
VOLUME_DAYS: Final = 63
BENCHMARK: Final = "us_large_cap"

ISSUERS: Final = {
    "GOOG": "ALPHABET",
    "GOOGL": "ALPHABET",
    "FOX": "FOX_CORP",
    "FOXA": "FOX_CORP",
    "NWS": "NEWS_CORP",
    "NWSA": "NEWS_CORP",
}
"""Share classes of one company: they share one specific return and split its market cap."""

DEBT_LINES: Final = ("BEPH", "BEPI", "CMSA", "DTW", "DUKB", "PFH", "SOJC", "SOJD", "UNMA")
"""Exchange-traded notes that the raw list carries as stocks with the issuer's market cap."""

ETF_NAMES: Final = {
    "ACWI": "iShares MSCI ACWI ETF",
    "AGG": "iShares Core U.S. Aggregate Bond ETF",
    "BOTZ": "Global X Robotics and AI ETF",
    "CIBR": "First Trust Cybersecurity ETF",
    "DIA": "SPDR Dow Jones Industrial Average ETF",
    "GRID": "First Trust Smart Grid Infrastructure ETF",
    "IVV": "iShares Core S&P 500 ETF",
    "IWM": "iShares Russell 2000 ETF",
    "IYR": "iShares U.S. Real Estate ETF",
    "KWEB": "KraneShares CSI China Internet ETF",
    "MTUM": "iShares MSCI USA Momentum Factor ETF",
    "PAVE": "Global X U.S. Infrastructure Development ETF",
    "QUAL": "iShares MSCI USA Quality Factor ETF",
    "RSP": "Invesco S&P 500 Equal Weight ETF",
    "SIZE": "iShares MSCI USA Size Factor ETF",
    "SKYY": "First Trust Cloud Computing ETF",
    "SOXL": "Direxion Daily Semiconductor Bull 3X",
    "TLT": "iShares 20+ Year Treasury Bond ETF",
    "USMV": "iShares MSCI USA Min Vol Factor ETF",
    "VLUE": "iShares MSCI USA Value Factor ETF",
    "VOO": "Vanguard S&P 500 ETF",
    "VTV": "Vanguard Value ETF",
    "VUG": "Vanguard Growth ETF",
    "WCLD": "WisdomTree Cloud Computing Fund",
    "XLB": "Materials Select Sector SPDR",
    "XLC": "Communication Services Select Sector SPDR",
    "XLE": "Energy Select Sector SPDR",
    "XLF": "Financial Select Sector SPDR",
    "XLP": "Consumer Staples Select Sector SPDR",
    "XLRE": "Real Estate Select Sector SPDR",
    "XLV": "Health Care Select Sector SPDR",
    "XLY": "Consumer Discretionary Select Sector SPDR",
    "XSD": "SPDR S&P Semiconductor ETF",
}

HALF_SPREADS: Final = ((1e9, 1.0), (2e8, 2.0), (5e7, 4.0), (1e7, 8.0), (0.0, 15.0))
"""Half-spread in basis points by daily dollar volume: a desk's rule of thumb, judgement."""


def build_securities(raw: pl.DataFrame, prices: pl.DataFrame, declared: pl.DataFrame) -> pl.DataFrame:
    """The table ``securities``: raw columns renamed, gaps filled from prices up to the date.

    A missing price is the last close on or before the date (close is adjusted for later
    dividends, so up to a few percent low); a missing volume the median of close times
    shares over 63 days; a cap is shared out over the lines of its issuer.
    """
    seen = prices.filter(pl.col("date") <= AS_OF).sort("security_id", "date")
    last = seen.group_by("security_id").agg(pl.col("close").last(), pl.col("date").last().alias("last_date"))
    volume = (
        seen.group_by("security_id")
        .tail(VOLUME_DAYS)
        .group_by("security_id")
        .agg((pl.col("close") * pl.col("volume")).median().alias("traded"))
    )
    has_price = pl.col("price_20250124_split_adjusted").is_not_null()
    lines = pl.col("security_id").replace_strict(ISSUERS, default=None, return_dtype=pl.String)
    table = (
        raw.filter(~pl.col("security_id").is_in(DEBT_LINES))
        .join(last, on="security_id", validate="1:1")
        .join(volume, on="security_id", how="left", validate="1:1")
        .join(declared, on="security_id", how="left", validate="1:1")
        .with_columns(
            pl.coalesce(
                "name",
                pl.col("security_id").replace_strict(ETF_NAMES, default=None, return_dtype=pl.String),
                "security_id",
            ).alias("name"),
            pl.when("is_etf_or_index").then(pl.lit("etf")).otherwise(pl.lit("stock")).alias("kind"),
            lines.alias("issuer_id"),
            pl.coalesce("price_20250124_split_adjusted", "close").round(4).alias("price"),
            pl.when(has_price).then(pl.lit(AS_OF)).otherwise("last_date").alias("price_date"),
            ((pl.coalesce("adv_usd_20250124", "traded") / 1e3).round() * 1e3).alias("adv_base"),
            pl.coalesce("market_cap_usd_from_shares", "market_cap_usd_est").alias("cap"),
        )
    )
    share = pl.when(pl.col("issuer_id").is_null()).then(1).otherwise(pl.len().over("issuer_id"))
    spread = pl.lit(HALF_SPREADS[-1][1])
    for volume_above, bps in reversed(HALF_SPREADS[:-1]):
        spread = pl.when(pl.col("adv_base") >= volume_above).then(pl.lit(bps)).otherwise(spread)
    return table.with_columns(
        pl.when(pl.col("kind") == "stock").then((pl.col("cap") / share / 1e6).round() * 1e6).alias("market_cap_base"),
        spread.alias("half_spread_bps"),
        pl.lit(1.0).alias("lot_size"),
    ).select(
        "security_id", "name", "kind", "issuer_id", "currency", "exchange", "gics_sector", "gics_sub_industry",
        "membership", "membership_reason", "price", "price_date", "adv_base", "market_cap_base", "half_spread_bps",
        "lot_size",
    ).sort("security_id")  # fmt: skip


def build_benchmark(securities: pl.DataFrame) -> pl.DataFrame:
    """Cap-weighted large US companies: the stocks with a GICS sector."""
    members = securities.filter((pl.col("kind") == "stock") & pl.col("gics_sector").is_not_null())
    members = members.filter(pl.col("market_cap_base") > 0.0)
    return members.select(
        pl.lit(AS_OF).alias("as_of"),
        pl.lit(BENCHMARK).alias("benchmark_id"),
        "security_id",
        (pl.col("market_cap_base") / pl.col("market_cap_base").sum()).alias("weight"),
    ).sort("security_id")


def _equal(names: list[str], total: float) -> dict[str, float]:
    return {name: total / len(names) for name in names}


def _by_cap(securities: pl.DataFrame, names: list[str], total: float, power: float = 1.0) -> dict[str, float]:
    caps = securities.filter(pl.col("security_id").is_in(names)).select(
        "security_id", (pl.col("market_cap_base") ** power).alias("size")
    )
    known = caps.drop_nulls()
    whole = float(known["size"].sum())
    return {name: total * size / whole for name, size in known.sort("security_id").iter_rows()}


def book_recipes(securities: pl.DataFrame, prices: pl.DataFrame) -> dict[str, tuple[float, dict[str, float]]]:
    """NAV and target weights of every demo book; what is left of 1 is cash."""
    large = securities.filter(pl.col("gics_sector").is_not_null() & (pl.col("market_cap_base") > 0)).sort(
        "market_cap_base", descending=True
    )

    def tier(name: str, least: float = 0.5) -> list[str]:
        share = pl.col("membership").str.extract(rf"{name}:([0-9.]+)", 1).cast(pl.Float64)
        return securities.filter(share >= least)["security_id"].to_list()

    def sector(*names: str, top: int) -> list[str]:
        return large.filter(pl.col("gics_sector").is_in(names)).head(top)["security_id"].to_list()

    year = (
        prices.filter(pl.col("date") <= AS_OF).sort("security_id", "date").group_by("security_id", maintain_order=True)
    )
    history = (
        year.tail(253)
        .group_by("security_id", maintain_order=True)
        .agg(
            (pl.col("close").last() / pl.col("close").first() - 1.0).alias("momentum"),
            (pl.col("close").pct_change().std()).alias("sd"),
            pl.len().alias("days"),
        )
    )
    ranked = large.join(history.filter(pl.col("days") == 253), on="security_id")
    momentum = ranked.sort("momentum", "security_id", descending=[True, False]).head(40)["security_id"].to_list()
    calm = ranked.sort("sd", "security_id").head(80)["security_id"].to_list()
    quality = sector("Health Care", top=14) + sector("Consumer Staples", top=10) + sector("Financials", top=12)
    quality += [
        "MSFT",
        "AAPL",
        "GOOGL",
        "V",
        "MA",
        "ACN",
        "ADBE",
        "HON",
        "UNP",
        "ETN",
        "CTAS",
        "LIN",
        "SHW",
        "HD",
        "MCD",
        "NKE",
        "CAT",
        "NEE",
    ]
    curve = [name for t in ("ai_semis", "electrical", "hyperscalers", "software") for name in _core(t)]
    chips, wires = tier("ai_semis"), tier("electrical")
    clouds, code = tier("hyperscalers", 0.4), tier("software", 0.4)
    fifteen = [
        "NVDA",
        "AVGO",
        "TSM",
        "MSFT",
        "META",
        "AMZN",
        "ETN",
        "GEV",
        "LLY",
        "COST",
        "JPM",
        "V",
        "NFLX",
        "NOW",
        "ISRG",
    ]
    everything = large["security_id"].to_list()
    adrs = ["TSM", "ASML", "SAP", "NVO", "TM", "SHEL", "HSBC", "UL", "BHP", "SONY", "BABA", "AZN", "NVS", "SNY", "RIO"]
    listed = set(securities["security_id"].to_list())
    return {
        "index_tracker": (20e9, _by_cap(securities, everything, 0.997)),
        "quality_core": (3.2e9, _by_cap(securities, sorted(set(quality)), 0.98, 0.5)),
        "ai_infrastructure": (1.4e9, _by_cap(securities, _core("ai_semis"), 0.52, 0.5) | _by_cap(securities, wires, 0.45, 0.5)),
        "chip_growth": (850e6, _merge(_by_cap(securities, chips, 0.55, 0.5), _by_cap(securities, clouds + sector("Consumer Discretionary", top=8), 0.43, 0.5))),
        "software_tilt": (620e6, _merge(_by_cap(securities, code, 0.60, 0.4), _by_cap(securities, clouds[:8] + sector("Financials", top=10) + chips[:6], 0.38, 0.5))),
        "power_and_grid": (480e6, _merge(_by_cap(securities, wires, 0.94, 0.5), _equal(["GRID", "XLU"], 0.04))),
        "equal_weight_curve": (310e6, _equal(curve, 0.99)),
        "concentrated_15": (2.1e9, _equal(fifteen, 0.98)),
        "balanced_60_40": (5.5e9, _merge(_by_cap(securities, everything[:60], 0.50), {"SMH": 0.04, "IGV": 0.03, "AGG": 0.27, "TLT": 0.10})),
        "cloud_platforms": (930e6, _by_cap(securities, clouds, 0.97, 0.4)),
        "dividend_income": (1.7e9, _by_cap(securities, sector("Utilities", top=12) + sector("Consumer Staples", top=14) + sector("Energy", top=10) + sector("Real Estate", top=8) + sector("Financials", top=10), 0.97, 0.5)),
        "low_volatility": (2.6e9, _equal(calm, 0.99)),
        "momentum_growth": (740e6, _by_cap(securities, momentum, 0.98, 0.3)),
        "sector_rotation": (260e6, {"SMH": 0.22, "XLK": 0.20, "XLI": 0.16, "XLU": 0.14, "XLF": 0.12, "XLV": 0.08, "AGG": 0.05}),
        "global_leaders": (1.1e9, _merge(_by_cap(securities, [n for n in adrs if n in listed], 0.45, 0.5), _by_cap(securities, everything[:25], 0.52, 0.5))),
        "family_office": (20e6, {"NVDA": 0.14, "VRT": 0.06, "VST": 0.05, "MSFT": 0.10, "AMZN": 0.08, "BRK-B": 0.12, "JPM": 0.08, "XOM": 0.06, "UNH": 0.05, "AGG": 0.15, "CRM": 0.05}),
    }  # fmt: skip


def _merge(*parts: dict[str, float]) -> dict[str, float]:
    names = sorted(set().union(*parts))
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _core(tier: str) -> list[str]:
    baskets = pl.read_csv(_raw_folder() / "baskets.csv")
    return baskets.filter(pl.col("tier") == tier)["security_id"].to_list()


def build_holdings(securities: pl.DataFrame, prices: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, float]]:
    """Whole shares of every recipe, the remainder in dollars; and the NAVs."""
    price = dict(securities.select("security_id", "price").iter_rows())
    rows: list[dict[str, object]] = []
    navs: dict[str, float] = {}
    for book, (nav, weights) in sorted(book_recipes(securities, prices).items()):
        spent = 0.0
        for name, weight in sorted(weights.items()):
            quantity = float(int(weight * nav / price[name]))
            if quantity > 0.0:
                value = round(quantity * price[name], 2)
                spent += value
                rows.append(_line(book, name, quantity, price[name], value))
        cash = round(nav - spent, 2)
        rows.append(_line(book, "CASH:USD", cash, 1.0, cash))
        navs[book] = nav
    frame = pl.DataFrame(rows, schema_overrides={"exposure_base": pl.Float64})
    return frame.sort("as_of", "portfolio_id", "security_id"), navs


def _line(book: str, name: str, quantity: float, price: float, value: float) -> dict[str, object]:
    return {
        "as_of": AS_OF,
        "portfolio_id": book,
        "security_id": name,
        "quantity": quantity,
        "price": price,
        "currency": "USD",
        "market_value_base": value,
        "exposure_base": None,
    }


def _raw_folder() -> Path:
    return Path(sys.argv[1])


def main() -> None:
    """Write securities.csv, benchmarks.parquet and holdings; ``engine calibrate`` does the rest."""
    raw = pl.read_parquet(_raw_folder() / "securities.parquet")
    prices = pl.read_parquet(_raw_folder() / "prices.parquet").filter(pl.col("date") <= AS_OF)
    declared = pl.read_csv(ROOT / "securities.csv", infer_schema=False).select(
        "security_id", "membership", "membership_reason"
    )
    securities = build_securities(raw, prices, declared)
    securities.write_csv(ROOT / "securities.csv")
    build_benchmark(securities).write_parquet(ROOT / "benchmarks.parquet")
    holdings, navs = build_holdings(securities, prices)
    holdings.write_parquet(ROOT / "holdings" / f"{AS_OF}.parquet")
    print(f"{securities.height} securities, {len(navs)} books, {holdings.height} holdings as of {AS_OF}")


if __name__ == "__main__":
    main()
