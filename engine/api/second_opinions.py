"""``ask_second_models``: which trades of a rebalance the second models ask for too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import polars as pl

from engine.api.explaining import Explanation
from engine.api.loading import LoadedUniverse
from engine.api.rebalancing import RebalanceResult, lay_out_books
from engine.book.answers import OPINION_COLUMNS
from engine.book.bench import lay_out
from engine.contracts import CONTRACTS
from engine.errors import ConfigurationError, UsageError
from engine.intake import Notice, notices_frame

DUST: Final = 1e-7
"""A second model asks for a trade of more than this fraction of NAV; the solver's own dust is no larger."""

KEY: Final = ("portfolio_id", "security_id")

Told = TypeVar("Told", RebalanceResult, Explanation)
"""What trades stand in: a rebalance, or the story of one book."""


def ask_second_models(loaded: LoadedUniverse, told: Told) -> Told:
    """Rebalance every book that trades again under each second model, and mark the trades they share.

    With the trade ``a_i`` that is published (sells < 0) and ``a_im`` of the same name under model
    ``m``, over the models that answer the book, the base among them::

        models_agreeing_i = 1 + #{m : a_im a_i > 0 and |a_im| > DUST}
        agreed_weight_i   = sign(a_i) min(|a_i|, min_m |a_im|) where all agree, else 0
        agreed_turnover   = sum_i |agreed_weight_i|

    A second model brings its exposures, factor covariance and specific variance, and with them its
    own shocks of every scenario, its factor limits and margins, its own answer, certified under it,
    and its own whole lots; where the firm shares out a day's volume, so does the model, over the
    same books. Held fixed: what a factor is and its past, tails, tiers with their slopes and
    memberships, proxies of names without a model, funds, holdings, benchmarks, mandates, spreads
    and volumes; where a mandate prices impact, the volatility in it is the model's own.

    As in every rebalance a limit of low priority may give way under a model. A model without a
    certified answer for a book says neither yes nor no: it does not count as asked there, and a
    warning names it. A book that no second model answers has ``models_asked`` 1 and no agreed
    figures. Books that do not trade are not asked about. Only the marks and the warnings are
    added: what is traded and certified stays as it was.

    Args:
        loaded: The universe whose books were rebalanced, with ``only`` the same books.
        told: The rebalance, or the story of one book, under the base model.

    Returns:
        The same with ``models_asked``, ``models_agreeing`` and ``agreed_weight`` in ``trades``,
        ``agreed_turnover`` of the stage ``after`` in ``portfolio_summary``, and the warnings.

    Raises:
        UsageError: the model has no alternatives.

    References:
        MATH 4. Closed form of one name, and counts by hand, tests/test_second_opinions.py.
    """
    if not loaded.alternatives:
        raise UsageError(
            f"universe {loaded.universe.settings.id} has no second models to ask; engine calibrate writes them"
        )
    trades = told.tables["trades"]
    books = trades["portfolio_id"].unique().sort().to_list()
    opinions: list[_Opinion] = [_ask(loaded, model, books) for model in loaded.alternatives]
    marked = mark_trades(
        trades,
        pl.concat([opinion.trades for opinion in opinions]),
        {book: sum(book not in opinion.silent for opinion in opinions) for book in books},
    )
    notices = (*told.notices, *(notice for opinion in opinions for notice in opinion.doubts))
    changed = {
        "trades": marked,
        "portfolio_summary": _with_agreed(told.tables["portfolio_summary"], marked),
        "exceptions": notices_frame(notices),
    }
    return replace(told, tables={**told.tables, **changed}, notices=notices)


def mark_trades(trades: pl.DataFrame, asked: pl.DataFrame, others: Mapping[str, int]) -> pl.DataFrame:
    """The trades with how many models ask for each, and for how much of it.

    Args:
        trades: Table ``trades``.
        asked: ``portfolio_id``, ``security_id``, ``asked_weight`` of every model that answered, a row a
            model and name that it trades.
        others: How many second models answered, by portfolio.
    """
    shared = (
        trades.select(*KEY, "trade_weight")
        .join(asked, on=KEY, validate="1:m")
        .filter((pl.col("asked_weight") * pl.col("trade_weight") > 0.0) & (pl.col("asked_weight").abs() > DUST))
        .group_by(KEY)
        .agg(pl.len().cast(pl.Int64).alias("same"), pl.col("asked_weight").abs().min().alias("least"))
    )
    heard = pl.DataFrame(
        {"portfolio_id": list(others), "others": list(others.values())},
        schema={"portfolio_id": pl.String, "others": pl.Int64},
    )
    others_agree = pl.col("same").fill_null(0)
    least = pl.min_horizontal(pl.col("trade_weight").abs(), "least") * pl.col("trade_weight").sign()
    frame = (
        trades.drop(OPINION_COLUMNS)
        .join(heard, on="portfolio_id", how="left", validate="m:1")
        .join(shared, on=KEY, how="left", validate="1:1")
        .with_columns(
            (1 + pl.col("others")).alias("models_asked"),
            (1 + others_agree).alias("models_agreeing"),
            pl.when(pl.col("others") > 0)
            .then(pl.when(others_agree == pl.col("others")).then(least).otherwise(0.0))
            .alias("agreed_weight"),
        )
    )
    return frame.select(list(CONTRACTS["trades"].columns)).sort(KEY)


@dataclass(frozen=True, slots=True)
class _Opinion:
    """What one second model asks for.

    Args:
        model: Its name.
        trades: ``portfolio_id``, ``security_id``, ``asked_weight`` of the books it answers.
        silent: Why it does not answer, by portfolio.
    """

    model: str
    trades: pl.DataFrame
    silent: Mapping[str, str]

    @property
    def doubts(self) -> list[Notice]:
        """A warning for every book that it does not answer."""
        return [
            Notice(
                "book.second_model",
                "warn",
                f"the second model {self.model!r} has no answer here ({why}); it is not counted among the models asked",
                "model",
                book,
            )
            for book, why in self.silent.items()
        ]


def _ask(loaded: LoadedUniverse, model: str, books: Sequence[str]) -> _Opinion:
    """Solve books under one second model."""
    frames = [pl.DataFrame(schema={**dict.fromkeys(KEY, pl.String), "asked_weight": pl.Float64})]
    other = replace(loaded, model=loaded.alternatives[model], alternatives={})
    try:
        ready, task = lay_out_books(other)
    except ConfigurationError:
        return _Opinion(model, frames[0], dict.fromkeys(books, "no scenario can run under it"))
    bench = lay_out(ready.portfolios, task)
    aside = {notice.portfolio_id: notice.message for notice in bench.notices if notice.severity == "quarantine"}
    silent: dict[str, str] = {}
    for book in books:
        if book not in bench.ids:
            silent[book] = aside[book]
            continue
        problem, answer, _ = bench.settle(book)
        if answer.outcome != "certified":
            proven = answer.outcome == "infeasible"
            silent[book] = "its limits conflict under it: proven" if proven else "no answer could be certified"
            continue
        columns = (problem.names.labels, answer.final - problem.start)
        named = pl.DataFrame(dict(zip(("security_id", "asked_weight"), columns, strict=True)))
        traded = named.filter(pl.col("asked_weight") != 0.0)
        frames.append(traded.select(pl.lit(book).alias("portfolio_id"), "security_id", "asked_weight"))
    return _Opinion(model, pl.concat(frames), silent)


def _with_agreed(summary: pl.DataFrame, marked: pl.DataFrame) -> pl.DataFrame:
    """The summary with the turnover that all models agree on, where any second one was heard."""
    sums = (
        marked.drop_nulls("agreed_weight")
        .group_by("portfolio_id")
        .agg(pl.lit("after").first().alias("stage"), pl.col("agreed_weight").abs().sum().alias("agreed_turnover"))
    )
    joined = summary.drop("agreed_turnover").join(sums, on=["portfolio_id", "stage"], how="left", validate="1:1")
    return joined.select(list(CONTRACTS["portfolio_summary"].columns)).sort("portfolio_id", "stage")
