#!/usr/bin/env python3
"""Bars from recorded Finnhub frames, as `tapeflow bars --format csv` prints them; the standard library alone, nothing of ours.

    golden.py [--policy all|sip|strict] [--sizes 1s,1m,5m,1h,1d] frames.jsonl > bars.csv

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


def row(trades, policy):
    """Open, high, low, close, volume, notional, trades, vwap of the trades of one window, given in file order."""
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
    # Python rounds halves to even.
    vwap = fractions.Fraction(round(notional / volume * 10**8), 10**8) if volume else None
    prices = [opening, max(priced, default=None), min(priced, default=None), closing]
    return [plain(p, 8) for p in prices] + [plain(volume, 8), plain(notional, 16), len(counted), plain(vwap, 8)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frames")
    parser.add_argument("--policy", choices=["all", "sip", "strict"], default="sip")
    parser.add_argument("--sizes", default="1s,1m,5m,1h,1d")
    arguments = parser.parse_args()
    sizes = {size_ms(text): text for text in arguments.sizes.split(",")}
    windows = {}
    for symbol, ms, price, size, what in read(arguments.frames):
        for length in sizes:
            windows.setdefault((symbol, length, start_of(symbol, length, ms)), []).append((ms, price, size, what))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(COLUMNS)
    for (symbol, length, start), trades in sorted(windows.items(), key=lambda item: (item[0][0].encode(), item[0][1:])):
        begin = (EPOCH + datetime.timedelta(milliseconds=start)).strftime("%Y-%m-%dT%H:%M:%SZ")
        out.writerow([symbol, sizes[length], begin, *row(trades, arguments.policy), "", "", ""])


if __name__ == "__main__":
    main()
