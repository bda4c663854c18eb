#!/usr/bin/env python3
"""Plots VWAP against the closing price, from the CSV of `tapeflow bars`.

    tapeflow bars --symbol AAPL --size 1m --format csv | python3 examples/plot_vwap.py

Where matplotlib is missing, or with --text, it draws with characters instead. `--out FILE` writes a
picture rather than opening a window.
"""

import argparse
import csv
import sys
from datetime import datetime
from decimal import Decimal


def read(lines, symbol, size):
    """The start, close and VWAP of each bar that has a price and volume, and the bars' symbol."""
    bars = []
    rows = csv.DictReader(lines)
    missing = {"symbol", "size", "start", "close", "vwap"} - set(rows.fieldnames or ())
    if missing:
        sys.exit(f"not the CSV of `tapeflow bars`: it lacks {', '.join(sorted(missing))}")
    for row in rows:
        symbol, size = symbol or row["symbol"], size or row["size"]
        # A bar without a price (odd lots alone) has no close; one without volume has no VWAP.
        if (row["symbol"], row["size"]) != (symbol, size) or not row["close"] or not row["vwap"]:
            continue
        start = datetime.fromisoformat(row["start"].replace("Z", "+00:00"))
        bars.append((start, Decimal(row["close"]), Decimal(row["vwap"])))
    return sorted(bars), symbol


def draw_text(bars, width):
    """One line a bar: C for the close, V for the VWAP, * where they meet."""
    values = [value for _, *pair in bars for value in pair]
    low, high = min(values), max(values)

    def column(value):
        return int((value - low) / (high - low) * (width - 1)) if high > low else 0

    lines = []
    for start, close, vwap in bars:
        line = [" "] * width
        line[column(close)] = "C"
        line[column(vwap)] = "*" if column(vwap) == column(close) else "V"
        lines.append(f"{start:%m-%d %H:%M} |{''.join(line)}| {close} {vwap}")
    return "\n".join(lines)


def draw_picture(bars, symbol, out):
    import matplotlib

    if out:
        matplotlib.use("Agg")
    from matplotlib import pyplot

    starts = [start for start, _, _ in bars]
    figure, axes = pyplot.subplots(figsize=(10, 5))
    axes.plot(starts, [close for _, close, _ in bars], label="close", linewidth=1)
    axes.plot(starts, [vwap for _, _, vwap in bars], label="VWAP", linewidth=1)
    axes.set_title(symbol)
    axes.legend()
    figure.autofmt_xdate()
    if out:
        figure.savefig(out, dpi=150)
    else:
        pyplot.show()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", help="CSV of `tapeflow bars`; standard input without it")
    parser.add_argument("--symbol", help="which symbol; the first in the file without it")
    parser.add_argument("--size", help="which window size; the first in the file without it")
    parser.add_argument("--text", action="store_true", help="draw with characters")
    parser.add_argument("--out", metavar="FILE", help="write a picture: .png, .svg or .pdf")
    arguments = parser.parse_args()
    if arguments.file:
        with open(arguments.file, newline="", encoding="utf-8") as lines:
            bars, symbol = read(lines, arguments.symbol, arguments.size)
    else:
        bars, symbol = read(sys.stdin, arguments.symbol, arguments.size)
    if not bars:
        sys.exit(f"no bars of {symbol or 'any symbol'} with a price and volume in the input")
    if not arguments.text:
        try:
            draw_picture(bars, symbol, arguments.out)
            return
        except ImportError:
            if arguments.out:
                sys.exit("--out needs matplotlib: pip install matplotlib")
    print(f"{symbol}: C close, V VWAP, * both")
    print(draw_text(bars, 60))


if __name__ == "__main__":
    main()
