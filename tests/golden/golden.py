#!/usr/bin/env python3
"""Bars from recorded Finnhub frames, as `tapeflow bars --format csv` prints them; the standard library alone, nothing of ours.

    golden.py [--policy all|sip|strict] [--sizes 1s,1m,5m,1h,1d] frames.jsonl > bars.csv
    golden.py --views [--baskets baskets.csv] [--sizes 1s,1m,5m,1h,1d] frames.jsonl > views.csv

With --views, the lists of `tapeflow top --format csv` instead, of all views, sizes and windows.

Exact: prices and sizes are fractions of their decimal texts. epoch, final and revision stay empty: they are labels, not values.
"""

import argparse
import csv
import datetime
import decimal
import fractions
import json
import sys

UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
FOREX = {"OANDA", "FXCM", "FOREX", "IC MARKETS", "FXPRO", "PEPPERSTONE"}
VIEWS = "active", "movers", "baskets", "market"
VIEW_COLUMNS = "view,size,start,rank,name,symbols,trades,volume,notional,vwap,open,close,change,epoch".split(",")
COLUMNS = "symbol,size,start,open,high,low,close,volume,notional,trades,vwap,epoch,final,revision".split(",")

# The consolidated tape's table, by what a code denies; every other code up to 41 denies nothing.
NO_PRICE = {3, 5, 10, 11, 12, 17, 22, 24, 25, 26, 27, 37} | {16, 20}
NO_VOLUME = {16, 20, 39}
IF_FIRST = {15, 18}
IF_SOLE = {9, 21, 30, 32}


def places8(number):
    """A decimal rounded half-even to eight places, as a fraction."""
    with decimal.localcontext() as context:
        context.prec = 100
        return fractions.Fraction(decimal.Decimal(number).quantize(decimal.Decimal(1).scaleb(-8), decimal.ROUND_HALF_EVEN))


def plain(number, places):
    """The text of a fraction that has at most so many places: no exponent, no trailing zeros."""
    if number is None:
        return ""
    units = number * 10**places
    assert units.denominator == 1, number
    whole, rest = divmod(abs(units.numerator), 10**places)
    text = f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")
    return "-" + text if units < 0 else text


def effect(codes):
    """(moves high and low, sets open and close: always, first, sole or never, counts its size)"""
    numbers = [int(code) if code.isdigit() else 0 for code in codes or [] if code is not None]
    volume = not any(n in NO_VOLUME for n in numbers)
    if any(n in NO_PRICE or not 1 <= n <= 41 for n in numbers):
        return False, "never", volume
    if any(n in IF_SOLE for n in numbers):
        return True, "sole", volume
    if any(n in IF_FIRST for n in numbers):
        return True, "first", volume
    return True, "always", volume


def sunday(year, month, nth):
    """The nth Sunday of a month."""
    first = datetime.date(year, month, 1)
    return first + datetime.timedelta(days=(6 - first.weekday()) % 7 + 7 * (nth - 1))


def new_york_midnight(ms):
    """The start of the New York day that holds a time: from 2007 on summer time lasts from the second Sunday of March, 2:00, to the first of
    November, 2:00 summer time."""
    time = EPOCH + datetime.timedelta(milliseconds=ms)
    if time.year < 2008:
        sys.exit(f"{time}: the rules of New York before 2007 are not written down here")

    def offset(utc):
        begin = datetime.datetime.combine(sunday(utc.year, 3, 2), datetime.time(7), UTC)
        end = datetime.datetime.combine(sunday(utc.year, 11, 1), datetime.time(6), UTC)
        return datetime.timedelta(hours=-4 if begin <= utc < end else -5)

    midnight = datetime.datetime.combine((time + offset(time)).date(), datetime.time(0), UTC)
    # The change comes hours after midnight: at midnight itself the offset is the evening's before.
    start = midnight - offset(midnight + datetime.timedelta(hours=4))
    return (start - EPOCH) // datetime.timedelta(milliseconds=1)


def start_of(symbol, size_ms, ms):
    day_of_exchange = size_ms == 86_400_000 and ":" not in symbol
    return new_york_midnight(ms) if day_of_exchange else ms // size_ms * size_ms


def size_ms(text):
    return int(text[:-1]) * {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[text[-1]]


def read(path):
    """Trades in the order of the file, which decides between equal times."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            frame = json.loads(line, parse_float=decimal.Decimal, parse_int=decimal.Decimal)
            for trade in frame.get("data") or [] if frame.get("type") == "trade" else []:
                size = places8(trade["v"])
                if size > 0:
                    yield trade["s"], int(trade["t"]), places8(trade["p"]), size, effect(trade.get("c"))


def numbers(trades, policy):
    """Of the trades of one window, given in file order: [open, high, low, close], volume, notional, number of trades."""
    trades = [t for _, t in sorted(enumerate(trades), key=lambda pair: (pair[1][0], pair[0]))]
    priced = [price for _, price, _, (high_low, _, _) in trades if high_low]
    setting = [(price, sets) for _, price, _, (_, sets, _) in trades if sets != "never"]
    leading = [price for price, sets in setting if sets in ("always", "first")]
    always = [price for price, sets in setting if sets == "always"]
    only = setting[0][0] if len(setting) == 1 else None
    opening = leading[0] if leading else only
    closing = always[-1] if always else leading[0] if leading else only
    wanted = {"all": lambda e: True, "sip": lambda e: e[2], "strict": lambda e: e[2] and e[0]}[policy]
    counted = [(price, size) for _, price, size, e in trades if wanted(e)]
    volume = sum((size for _, size in counted), fractions.Fraction(0))
    notional = sum((price * size for price, size in counted), fractions.Fraction(0))
    return [opening, max(priced, default=None), min(priced, default=None), closing], volume, notional, len(counted)


def vwap(volume, notional):
    # Python rounds halves to even.
    return plain(fractions.Fraction(round(notional / volume * 10**8), 10**8), 8) if volume else ""


def row(trades, policy):
    """Open, high, low, close, volume, notional, trades, vwap as text."""
    prices, volume, notional, count = numbers(trades, policy)
    return [plain(p, 8) for p in prices] + [plain(volume, 8), plain(notional, 16), count, vwap(volume, notional)]


def utc(ms):
    return (EPOCH + datetime.timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%SZ")


def class_of(symbol):
    venue, colon, _ = symbol.partition(":")
    return "stock" if not colon else "forex" if venue in FOREX else "crypto"


def read_baskets(path):
    """{basket: {symbol: weight}}"""
    baskets = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                name, symbol, weight = (field.strip() for field in line.split(","))
                baskets.setdefault(name, {})[symbol] = fractions.Fraction(weight)
    return baskets


def summed(name, members):
    """One line of a list of sums, of [(weight, row)]."""
    total = [sum((weight * row[column] for weight, row in members), fractions.Fraction(0)) for column in (1, 2)]
    return name, len(members), sum(row[3] for _, row in members), *total, None, None


def lists(rows, baskets):
    """The lists of one window, by view, of {symbol: numbers}; a view without a list is left out."""

    def share(symbol):
        opening, _, _, closing = rows[symbol][0]
        return abs(closing - opening) / opening if opening is not None and closing is not None else 0

    def of_symbol(symbol):
        prices, volume, notional, count = rows[symbol]
        return symbol, 1, count, volume, notional, prices[0], prices[3]

    by_name = sorted(rows, key=str.encode)
    found = {
        # Sorting keeps the order of equals: by name.
        "active": [of_symbol(s) for s in sorted(by_name, key=lambda s: -rows[s][2])[:10]],
        "movers": [of_symbol(s) for s in sorted(by_name, key=lambda s: -share(s))[:10] if share(s)],
        "market": [summed(c, [(1, rows[s]) for s in rows if class_of(s) == c]) for c in sorted(set(map(class_of, rows)))],
    }
    weighed = {name: [(weight, rows[s]) for s, weight in members.items() if s in rows] for name, members in baskets.items()}
    in_window = [summed(name, weighed[name]) for name in sorted(weighed, key=str.encode) if weighed[name]]
    return {**found, "baskets": in_window} if in_window else found


def write_views(out, windows, sizes, baskets):
    by_window = {}
    for (symbol, length, start), trades in windows.items():
        if length >= 60_000:
            by_window.setdefault((length, start), {})[symbol] = numbers(trades, "sip")
    made = {window: lists(rows, baskets) for window, rows in sorted(by_window.items())}
    out.writerow(VIEW_COLUMNS)
    for view in VIEWS:
        for (length, start), found in made.items():
            for rank, (name, symbols, count, volume, notional, opening, closing) in enumerate(found.get(view, []), 1):
                places = 4 if view == "baskets" else 0
                change = ""
                if opening is not None and closing is not None:
                    change = f"{decimal.Decimal(round((closing - opening) / opening * 10_000)).scaleb(-2):.2f}"
                sums = [plain(volume, 8 + places), plain(notional, 16 + places), vwap(volume, notional)]
                prices = [plain(opening, 8), plain(closing, 8)]
                out.writerow([view, sizes[length], utc(start), rank, name, symbols, count, *sums, *prices, change, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frames")
    parser.add_argument("--policy", choices=["all", "sip", "strict"], default="sip")
    parser.add_argument("--sizes", default="1s,1m,5m,1h,1d")
    parser.add_argument("--views", action="store_true")
    parser.add_argument("--baskets")
    arguments = parser.parse_args()
    sizes = {size_ms(text): text for text in arguments.sizes.split(",")}
    windows = {}
    for symbol, ms, price, size, what in read(arguments.frames):
        for length in sizes:
            windows.setdefault((symbol, length, start_of(symbol, length, ms)), []).append((ms, price, size, what))
    out = csv.writer(sys.stdout, lineterminator="\n")
    if arguments.views:
        return write_views(out, windows, sizes, read_baskets(arguments.baskets) if arguments.baskets else {})
    out.writerow(COLUMNS)
    for (symbol, length, start), trades in sorted(windows.items(), key=lambda item: (item[0][0].encode(), item[0][1:])):
        out.writerow([symbol, sizes[length], utc(start), *row(trades, arguments.policy), "", "", ""])


if __name__ == "__main__":
    main()
