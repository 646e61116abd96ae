"""What a user hands in: prices, securities, books, benchmarks."""

import dataframely as dy

from engine.tables.columns import (
    KINDS,
    LARGEST,
    MONEY,
    SMALLEST_PRICE,
    count_column,
    date_column,
    id_column,
    number_column,
    one_of_column,
    text_column,
)


class Prices(dy.Schema):
    security_id = id_column(key=True)
    date = date_column(key=True)
    close = number_column("currency, total-return adjusted", "> 0", min_exclusive=SMALLEST_PRICE, max=LARGEST)
    volume = count_column("shares", nullable=True)


class Securities(dy.Schema):
    security_id = id_column(key=True)
    name = text_column(nullable=True)
    kind = one_of_column(KINDS)
    issuer_id = id_column(nullable=True)
    currency = text_column()
    exchange = text_column(nullable=True)
    gics_sector = text_column(nullable=True)
    gics_sub_industry = text_column(nullable=True)
    membership = text_column(nullable=True)
    membership_reason = text_column(nullable=True)
    price = number_column("currency", "> 0", nullable=True, min_exclusive=0.0)
    price_date = dy.Date(nullable=True)
    adv_base = number_column(f"{MONEY} a day", ">= 0", nullable=True, min=0.0)
    market_cap_base = number_column(MONEY, ">= 0", nullable=True, min=0.0)
    half_spread_bps = number_column("basis points", ">= 0", nullable=True, min=0.0, max=1000.0)
    lot_size = number_column("shares", "> 0", nullable=True, min_exclusive=0.0)
    isin = text_column(nullable=True)
    figi = text_column(nullable=True)


class Portfolios(dy.Schema):
    portfolio_id = id_column(key=True)
    name = text_column()
    parent_id = id_column(nullable=True)
    mandate_id = id_column(nullable=True)
    benchmark_id = id_column(nullable=True)
    base_currency = text_column()
    nav_base = number_column(MONEY, "> 0", nullable=True, min_exclusive=0.0)
    flow_base = number_column(MONEY, nullable=True)


class Holdings(dy.Schema):
    as_of = date_column(key=True)
    portfolio_id = id_column(key=True)
    security_id = id_column(key=True)
    quantity = number_column("shares; money for cash", min=-LARGEST, max=LARGEST)
    price = number_column("currency", "> 0", min_exclusive=0.0, max=LARGEST)
    currency = text_column()
    market_value_base = number_column(MONEY, min=-LARGEST, max=LARGEST)
    exposure_base = number_column(f"{MONEY}, by delta", nullable=True, min=-LARGEST, max=LARGEST)


class Compositions(dy.Schema):
    as_of = date_column(key=True)
    security_id = id_column(key=True)
    constituent_id = id_column(key=True)
    weight = number_column("fraction of the fund", "< 0 is a short")


class Benchmarks(dy.Schema):
    as_of = date_column(key=True)
    benchmark_id = id_column(key=True)
    security_id = id_column(key=True)
    weight = number_column("fraction of the benchmark", ">= 0", min=0.0)
