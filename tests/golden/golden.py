#!/usr/bin/env python3
"""Computes bars and views from recorded Finnhub frames, with Python's standard library only.

    golden.py [--policy all|sip|strict] [--sizes 1s,1m,5m,1h,1d] frames.jsonl > bars.csv
    golden.py --sizes 1m,session --anchor session|day|MILLISECONDS frames.jsonl > sessions.csv
    golden.py --views [--baskets baskets.csv] [--sizes 1s,1m,5m,1h,1d] frames.jsonl > views.csv

The first form prints the output of `tapeflow bars --format csv`, the second the same with the
column session (sessions.py says which trade is in which) and the columns of --anchor, the third
that of `tapeflow views --format csv` for all views, sizes and windows. The columns epoch, final,
revision and complete are empty, because they depend on the run and not on the trades.

All arithmetic is exact: prices and sizes are fractions.
"""

import argparse
import collections
import csv
import datetime
import decimal
import fractions
import json
import re
import sys

import sessions

UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
FOREX = {"OANDA", "FXCM", "FOREX", "IC MARKETS", "FXPRO", "PEPPERSTONE"}
VIEWS = "active", "movers", "baskets", "market"
VIEW_COLUMNS = [
    *"view,size,start,quote,rank,name,symbols,trades,volume,notional,vwap".split(","),
    *"open,close,change_pct,epoch".split(","),
]
# Stands for the length of a session, above that of a day.
SESSION = 86_400_001
ANCHOR_COLUMNS = ["cumulative_volume", "cumulative_notional", "cumulative_vwap"]
COLUMNS = [
    *"symbol,size,start,open,high,low,close,volume,notional,trades".split(","),
    *"vwap,first_trade,last_trade,epoch,final,revision,complete".split(","),
]

# The quote currency of a symbol, as the guide describes it.
UNKNOWN = "unknown"
MONEY = set(
    "AED ARS AUD BRL CAD CHF CLP CNH CNY COP CZK DKK EUR GBP HKD HUF IDR ILS INR ISK JPY KRW MXN"
    " MYR NGN NOK NZD PHP PLN RON RUB SAR SEK SGD THB TRY TWD UAH USD VND XAG XAU ZAR".split()
)
COINS = set(
    "BNB BTC BUSD DAI DOGE DOT ETH EURC FDUSD GUSD SOL TRX TUSD USDC USDT XRP".split()
)
BINANCE = set(
    "ARS AUD BRL COP CZK EUR GBP JPY MXN NGN PLN RON RUB TRY UAH ZAR"
    " BNB BTC BUSD DAI DOGE DOT ETH FDUSD SOL TRX TUSD USDC USDT XRP".split()
)

# Sale conditions that exclude a trade from prices or volume, by the SIP rules for US stocks. The
# other codes from 1 to 41 exclude nothing.
NO_PRICE = {3, 5, 10, 11, 12, 17, 22, 24, 25, 26, 27, 37} | {16, 20}
NO_VOLUME = {16, 20, 39}
IF_FIRST = {15, 18}
IF_SOLE = {9, 21, 30, 32}


def places8(number):
    """A decimal rounded half to even to eight places, as a fraction."""
    with decimal.localcontext() as context:
        context.prec = 100
        unit = decimal.Decimal(1).scaleb(-8)
        return fractions.Fraction(
            decimal.Decimal(number).quantize(unit, decimal.ROUND_HALF_EVEN)
        )


def plain(number, places):
    """The text of a fraction with at most `places` decimals, without exponent or trailing zeros."""
    if number is None:
        return ""
    units = number * 10**places
    assert units.denominator == 1, number
    whole, rest = divmod(abs(units.numerator), 10**places)
    text = f"{whole}.{rest:0{places}d}".rstrip("0").rstrip(".")
    return "-" + text if units < 0 else text


def effect(codes):
    """What sale conditions allow: (sets high and low, sets open and close, counts in volume).

    The second is "always", "first" (only if the trade is the first of the bar), "sole" (only if it
    is the only one) or "never".
    """
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
    """The start of the New York day of a time.

    Since 2007, daylight saving time lasts from the second Sunday of March, 2:00, to the first
    Sunday of November, 2:00 daylight saving time.
    """
    time = EPOCH + datetime.timedelta(milliseconds=ms)
    if time.year < 2008:
        sys.exit(f"{time}: times before 2008 are not supported, the calendar had other rules")

    def offset(utc):
        begin = datetime.datetime.combine(sunday(utc.year, 3, 2), datetime.time(7), UTC)
        end = datetime.datetime.combine(sunday(utc.year, 11, 1), datetime.time(6), UTC)
        return datetime.timedelta(hours=-4 if begin <= utc < end else -5)

    midnight = datetime.datetime.combine((time + offset(time)).date(), datetime.time(0), UTC)
    # The clock changes at 2:00 local time. So at midnight the offset is still the old one.
    start = midnight - offset(midnight + datetime.timedelta(hours=4))
    return (start - EPOCH) // datetime.timedelta(milliseconds=1)


def start_of(symbol, size_ms, ms):
    day_of_exchange = size_ms == 86_400_000 and ":" not in symbol
    return new_york_midnight(ms) if day_of_exchange else ms // size_ms * size_ms


def size_ms(text):
    if text == "session":
        return SESSION
    return int(text[:-1]) * {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[text[-1]]


def read(path):
    """Trades in the order of the file. Between trades of equal time, the order decides."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            frame = json.loads(line, parse_float=decimal.Decimal, parse_int=decimal.Decimal)
            if frame.get("type") != "trade":
                continue
            for trade in frame.get("data") or []:
                size = places8(trade["v"])
                if size > 0:
                    time, price = int(trade["t"]), places8(trade["p"])
                    codes = [int(code) for code in trade.get("c") or []]
                    yield trade["s"], time, price, size, effect(trade.get("c")), codes


def numbers(trades, policy):
    """The bar of one window: [open, high, low, close], volume, notional, number of trades.

    `trades` is in the order of the file. Sorting by time keeps it between equal times.
    """
    trades = sorted(trades, key=lambda trade: trade[0])
    priced = [price for _, price, _, (high_low, _, _) in trades if high_low]
    setting = [(price, sets) for _, price, _, (_, sets, _) in trades if sets != "never"]
    leading = [price for price, sets in setting if sets in ("always", "first")]
    always = [price for price, sets in setting if sets == "always"]
    only = setting[0][0] if len(setting) == 1 else None
    opening = leading[0] if leading else only
    closing = always[-1] if always else leading[0] if leading else only
    counts = {
        "all": lambda effect: True,
        "sip": lambda effect: effect[2],
        "strict": lambda effect: effect[2] and effect[0],
    }[policy]
    counted = [(price, size) for _, price, size, effect in trades if counts(effect)]
    volume = sum((size for _, size in counted), fractions.Fraction(0))
    notional = sum((price * size for price, size in counted), fractions.Fraction(0))
    high, low = max(priced, default=None), min(priced, default=None)
    return [opening, high, low, closing], volume, notional, len(counted)


def vwap(volume, notional):
    # round() rounds half to even.
    return plain(fractions.Fraction(round(notional / volume * 10**8), 10**8), 8) if volume else ""


def bar_columns(trades, policy):
    """The columns open to vwap of a bar."""
    prices, volume, notional, count = numbers(trades, policy)
    sums = [plain(volume, 8), plain(notional, 16), count, vwap(volume, notional)]
    return [plain(price, 8) for price in prices] + sums


def end_of(symbol, length, start):
    """The end of a window."""
    if length == SESSION:
        return sessions.session_of(class_of(symbol), start, [])[2]
    if length == 86_400_000 and class_of(symbol) == "stock":
        return new_york_midnight(start + 26 * 3_600_000)
    return start + length


def anchor_of(anchor, symbol, end):
    """From when values accumulate for a window that ends at `end`; None for none."""
    if anchor == "session":
        name, start, _ = sessions.session_of(class_of(symbol), end - 1, [])
        return None if name == "closed" else start
    start = start_of(symbol, 86_400_000, end - 1) if anchor == "day" else int(anchor)
    return start if start < end else None


def cumulative_columns(trades, span, policy):
    """Volume, notional and VWAP of all trades of a symbol in a span of time."""
    if span[0] is None:
        return ["", "", ""]
    inside = [trade for trade in trades if span[0] <= trade[0] < span[1]]
    _, volume, notional, _ = numbers(inside, policy)
    return [plain(volume, 8), plain(notional, 16), vwap(volume, notional)]


def utc(ms):
    return (EPOCH + datetime.timedelta(milliseconds=ms)).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_ms(ms):
    """To the millisecond, without zeros at the end."""
    fraction = f".{ms % 1000:03}".rstrip("0").rstrip(".")
    return utc(ms)[:-1] + fraction + "Z"


def class_of(symbol):
    venue, colon, _ = symbol.partition(":")
    return "stock" if not colon else "forex" if venue in FOREX else "crypto"


def quote_of(symbol):
    """The currency in which a symbol is quoted."""
    venue, colon, name = symbol.partition(":")
    if not colon:
        _, dot, suffix = symbol.rpartition(".")
        return "USD" if not dot or suffix in ("A", "B", "C") else UNKNOWN
    if venue in ("BITTREX", "POLONIEX"):
        return UNKNOWN
    pair = re.fullmatch(".*[-_/]([^-_/]*)", name)
    if pair:
        return pair[1] if pair[1] in MONEY | COINS else UNKNOWN
    if venue == "BINANCE":
        # From the left, the first suffix is the longest; the base has a letter at least.
        suffixes = (name[at:] for at in range(1, len(name)))
        return next((suffix for suffix in suffixes if suffix in BINANCE), UNKNOWN)
    if venue in FOREX and len(name) == 6 and {name[:3], name[3:]} <= MONEY | COINS:
        return name[3:]
    return UNKNOWN


def read_baskets(path):
    """{basket: {symbol: weight}}"""
    baskets = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                name, symbol, weight = (field.strip() for field in line.split(","))
                baskets.setdefault(name, {})[symbol] = fractions.Fraction(weight)
    return baskets


def total(quote, name, members):
    """An entry that sums up weighted bars, of [(weight, bar)]."""
    zero = fractions.Fraction(0)
    volume = sum((weight * bar[1] for weight, bar in members), zero)
    notional = sum((weight * bar[2] for weight, bar in members), zero)
    count = sum(bar[3] for _, bar in members)
    return quote, name, len(members), count, volume, notional, None, None


def in_market(quote, name, bars):
    """An entry of the market. Units of different symbols do not add up, nor do currencies."""
    _, _, symbols, count, _, notional, _, _ = total(quote, name, [(1, bar) for bar in bars])
    notional = None if quote == UNKNOWN else notional
    return quote, name, symbols, count, None, notional, None, None


def entries(bars, baskets):
    """The entries of one window by view, from {symbol: numbers}, without empty views."""

    def move(symbol):
        opening, _, _, closing = bars[symbol][0]
        return 0 if opening is None or closing is None else abs(closing - opening) / opening

    def of_symbol(symbol):
        prices, volume, notional, count = bars[symbol]
        return quote_of(symbol), symbol, 1, count, volume, notional, prices[0], prices[3]

    # The sorts below keep this order between equal symbols.
    by_name = sorted(bars, key=str.encode)
    active = []
    for quote in sorted({quote_of(symbol) for symbol in bars} - {UNKNOWN}):
        quoted = [symbol for symbol in by_name if quote_of(symbol) == quote]
        active += sorted(quoted, key=lambda symbol: -bars[symbol][2])[:10]
    movers = sorted(by_name, key=lambda symbol: -move(symbol))[:10]
    classes = {}
    for symbol, bar in bars.items():
        classes.setdefault((quote_of(symbol), class_of(symbol)), []).append(bar)
    found = {
        "active": [of_symbol(symbol) for symbol in active],
        "movers": [of_symbol(symbol) for symbol in movers if move(symbol)],
        "market": [in_market(*key, classes[key]) for key in sorted(classes)],
    }
    in_baskets = []
    for name in sorted(baskets, key=str.encode):
        weights = baskets[name].items()
        (quote,) = {quote_of(symbol) for symbol in baskets[name]}
        if members := [(weight, bars[symbol]) for symbol, weight in weights if symbol in bars]:
            in_baskets.append(total(quote, name, members))
    in_baskets.sort(key=lambda entry: entry[0])
    return {**found, "baskets": in_baskets} if in_baskets else found


def write_views(out, windows, sizes, baskets):
    by_window = {}
    for (symbol, length, start), trades in windows.items():
        if length >= 60_000 and length != SESSION:
            by_window.setdefault((length, start), {})[symbol] = numbers(trades, "sip")
    views = {window: entries(bars, baskets) for window, bars in sorted(by_window.items())}
    out.writerow(VIEW_COLUMNS)
    for view in VIEWS:
        # Weights have four decimals.
        places = 4 if view == "baskets" else 0
        for (length, start), found in views.items():
            window = [view, sizes[length], utc(start)]
            ranks = collections.Counter()
            for quote, *entry in found.get(view, []):
                # Movers are ranked together, everything else within its quote currency.
                within = None if view == "movers" else quote
                ranks[within] += 1
                columns = entry_columns(entry, places)
                out.writerow([*window, quote, ranks[within], *columns, ""])


def entry_columns(entry, places):
    """The columns name to change_pct of an entry, which is without its quote currency."""
    name, symbols, count, volume, notional, opening, closing = entry
    change = ""
    if opening is not None and closing is not None:
        change = vwap(opening, (closing - opening) * 100)
    sums = [plain(volume, 8 + places), plain(notional, 16 + places), vwap(volume, notional)]
    return [name, symbols, count, *sums, plain(opening, 8), plain(closing, 8), change]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("frames")
    parser.add_argument("--policy", choices=["all", "sip", "strict"], default="sip")
    parser.add_argument("--sizes", default="1s,1m,5m,1h,1d")
    parser.add_argument("--anchor")
    parser.add_argument("--views", action="store_true")
    parser.add_argument("--baskets")
    arguments = parser.parse_args()
    sizes = {size_ms(text): text for text in arguments.sizes.split(",")}
    windows, names, of_symbol = {}, {}, {}
    for symbol, *trade, codes in read(arguments.frames):
        of_symbol.setdefault(symbol, []).append(trade)
        for length in sizes:
            if length == SESSION:
                name, start, _ = sessions.session_of(class_of(symbol), trade[0], codes)
                if name != "closed":
                    windows.setdefault((symbol, length, start), []).append(trade)
                    names[symbol, start] = name
                continue
            window = symbol, length, start_of(symbol, length, trade[0])
            windows.setdefault(window, []).append(trade)
    out = csv.writer(sys.stdout, lineterminator="\n")
    if arguments.views:
        baskets = read_baskets(arguments.baskets) if arguments.baskets else {}
        return write_views(out, windows, sizes, baskets)
    with_session = SESSION in sizes
    more = ["session"] * with_session + ANCHOR_COLUMNS * bool(arguments.anchor)
    out.writerow([*COLUMNS, *more])
    for window in sorted(windows, key=lambda window: (window[0].encode(), window[1:])):
        symbol, length, start = window
        columns = bar_columns(windows[window], arguments.policy)
        times = [trade[0] for trade in windows[window]]
        columns += [utc_ms(min(times)), utc_ms(max(times))]
        session = [names.get((symbol, start), "")] if length == SESSION else [""] * with_session
        if arguments.anchor:
            end = end_of(symbol, length, start)
            span = anchor_of(arguments.anchor, symbol, end), end
            session += cumulative_columns(of_symbol[symbol], span, arguments.policy)
        out.writerow([symbol, sizes[length], utc(start), *columns, "", "", "", "", *session])


if __name__ == "__main__":
    main()
