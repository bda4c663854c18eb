#!/usr/bin/env python3
"""Says which trading session a trade belongs to, with Python's standard library only.

    sessions.py FIRST_YEAR LAST_YEAR > trades.csv

prints made-up trades around every edge of every session, early day and daylight-saving day of these
years, each with the session that it belongs to: class,ms,codes,session,start,end. Codes are
separated by spaces. The session of a trade outside of all sessions is `closed`; start and end are
then those of the time between two sessions, within one date in New York.

It is written from the rules that the exchanges publish, and reads no file of tapeflow:

- NYSE Rule 7.2 and NYSE's announcements of holidays and early closings, with the closings that it
  announced for one date alone. Trading on the other US equity exchanges follows the same calendar.
- NYSE Arca's hours: early trading from 4:00, core from 9:30 to 16:00, late to 20:00; on early days
  core ends at 13:00 and late at 17:00.
- Codes 35 and 36 are closing prints, and belong to the core session that they close. Codes 24 and
  25 mark trades outside of core hours, so that one published during them was made before.
"""

import datetime
import functools
import sys
import zoneinfo

NEW_YORK = zoneinfo.ZoneInfo("America/New_York")
UTC = datetime.timezone.utc
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=UTC)
DAY_MS = 86_400_000
ONE_DAY = datetime.timedelta(days=1)
MON, TUE, WED, THU, FRI, SAT, SUN = range(7)

# Closings that no rule foretells: Ford, hurricane Sandy, G. H. W. Bush, Carter.
SINGLE = {(2007, 1, 2), (2012, 10, 29), (2012, 10, 30), (2018, 12, 5), (2025, 1, 9)}
CLOSING = {35, 36}
EXTENDED = {24, 25}


def good_friday(year):
    """Two days before Easter, which is the Sunday after the first full moon of spring.

    The moon is the ecclesiastical one: a cycle of 19 years, corrected by centuries.
    """
    golden, century = year % 19 + 1, year // 100 + 1
    epact = (11 * golden + 20 + (8 * century + 5) // 25 - 5 - (3 * century // 4 - 12)) % 30
    # Two full moons never share a date within a cycle: the late one of two moves up.
    if epact == 24 or (epact == 25 and golden > 11):
        epact += 1
    day_of_march = 44 - epact if epact <= 23 else 74 - epact
    moon = datetime.date(year, 3, 1) + datetime.timedelta(days=day_of_march - 1)
    easter = moon + datetime.timedelta(days=(SUN - moon.weekday()) % 7 or 7)
    return easter - 2 * ONE_DAY


def is_nth(date, weekday, nth):
    return date.weekday() == weekday and (date.day - 1) // 7 + 1 == nth


def is_fixed_holiday(date, month, day, saturday_is_friday=True):
    """A holiday of a fixed date: Sunday's is on Monday, Saturday's on Friday."""
    if (date.month, date.day) == (month, day):
        return date.weekday() < SAT
    before, after = date - ONE_DAY, date + ONE_DAY
    if date.weekday() == MON and (before.month, before.day) == (month, day):
        return True
    return saturday_is_friday and date.weekday() == FRI and (after.month, after.day) == (month, day)


def is_closed(date):
    if date.weekday() >= SAT or (date.year, date.month, date.day) in SINGLE:
        return True
    return (
        # New Year's Day on a Saturday would close the last day of an accounting year.
        is_fixed_holiday(date, 1, 1, saturday_is_friday=False)
        or (date.month == 1 and is_nth(date, MON, 3))
        or (date.month == 2 and is_nth(date, MON, 3))
        or date == good_friday(date.year)
        or (date.month == 5 and date.weekday() == MON and date.day > 24)
        or (date.year >= 2022 and is_fixed_holiday(date, 6, 19))
        or is_fixed_holiday(date, 7, 4)
        or (date.month == 9 and is_nth(date, MON, 1))
        or (date.month == 11 and is_nth(date, THU, 4))
        or is_fixed_holiday(date, 12, 25)
    )


def is_early(date):
    """The eve of Independence Day and of Christmas, if the holiday itself is the next trading day
    to be missed, and the day after Thanksgiving."""
    yesterday, tomorrow = date - ONE_DAY, date + ONE_DAY
    eve = (date.month, date.day) in ((7, 3), (12, 24)) and tomorrow.weekday() < SAT
    thanksgiving = yesterday.month == 11 and is_nth(yesterday, THU, 4)
    return (eve or thanksgiving) and not is_closed(date)


def at(date, hour, minute=0):
    """The milliseconds of a time of the clock in New York."""
    local = datetime.datetime.combine(date, datetime.time(hour, minute), NEW_YORK)
    return (local.astimezone(UTC) - EPOCH) // datetime.timedelta(milliseconds=1)


def date_of(ms):
    return (EPOCH + datetime.timedelta(milliseconds=ms)).astimezone(NEW_YORK).date()


@functools.lru_cache(maxsize=64)
def day(date):
    """What a date in New York consists of: [(name, start, end)]."""
    midnight, next_midnight = at(date, 0), at(date + ONE_DAY, 0)
    if is_closed(date):
        return [("closed", midnight, next_midnight)]
    close, end = (at(date, 13), at(date, 17)) if is_early(date) else (at(date, 16), at(date, 20))
    return [
        ("closed", midnight, at(date, 4)),
        ("pre", at(date, 4), at(date, 9, 30)),
        ("regular", at(date, 9, 30), close),
        ("post", close, end),
        ("closed", end, next_midnight),
    ]


def session_of(asset_class, ms, codes):
    """(session, start, end) of a trade."""
    if asset_class != "stock":
        start = ms // DAY_MS * DAY_MS
        return "day", start, start + DAY_MS
    parts = day(date_of(ms))
    (index,) = [n for n, (_, start, end) in enumerate(parts) if start <= ms < end]
    if len(parts) == 1:
        return parts[0]
    extended, closing = bool(EXTENDED & set(codes)), bool(CLOSING & set(codes))
    if extended:
        return parts[1] if index == 2 else parts[index]
    return parts[2] if closing and index > 2 else parts[index]


def edges(date):
    """The times around which a date's trades are made up, whether the date has sessions or not."""
    times = [at(date, hour) for hour in (0, 4, 13, 16, 17, 20)] + [at(date, 9, 30)]
    if at(date + ONE_DAY, 0) - at(date, 0) != DAY_MS:
        # The clocks change: every half hour of the date.
        times = range(at(date, 0), at(date + ONE_DAY, 0), DAY_MS // 48)
    return [edge + off for edge in times for off in (-1, 0, 1)]


def main():
    first, last = (int(year) for year in sys.argv[1:])
    date, out = datetime.date(first, 1, 1), []
    sets = [[], [12], [24], [35], [12, 36], [25, 35]]
    while date.year <= last:
        for ms in edges(date):
            # The day before New Year's Day is of another year.
            if not first <= date_of(ms).year <= last:
                continue
            for codes in sets:
                out.append(("stock", ms, codes))
        midnight = (date - EPOCH.date()) // ONE_DAY * DAY_MS
        for asset_class in ("crypto", "forex"):
            out += [(asset_class, midnight + off, [35]) for off in (-1, 0, 1)]
        date += ONE_DAY
    for asset_class, ms, codes in out:
        session, start, end = session_of(asset_class, ms, codes)
        spaced = " ".join(map(str, codes))
        sys.stdout.write(f"{asset_class},{ms},{spaced},{session},{start},{end}\n")


if __name__ == "__main__":
    main()
