"""What the reader has seen, and the figures that follow from it."""

import json
import subprocess
import threading
import time


class Stuck(Exception):
    """Something that must happen has not happened in time."""


class Seen:
    """The reader's process and its lines, in the order of time."""

    def __init__(self, command):
        self.lines, self.news = [], threading.Condition()
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            with self.news:
                self.lines.append(json.loads(line))
                self.news.notify_all()

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)

    def since(self, at):
        """Lines of a head, from `at` on."""
        with self.news:
            return [line for line in self.lines if line["at"] >= at and "generation" in line]

    def until(self, what, condition, timeout_s, after=0.0):
        """The first line of a head later than `after` for which `condition` holds."""
        deadline, next_line = time.monotonic() + timeout_s, 0
        with self.news:
            while True:
                for line in self.lines[next_line:]:
                    if line["at"] > after and "generation" in line and condition(line):
                        return line
                next_line = len(self.lines)
                if self.process.poll() is not None:
                    raise Stuck("the reader has ended")
                if time.monotonic() > deadline:
                    last = self.lines[-1] if self.lines else "nothing"
                    raise Stuck(f"{what}: not within {timeout_s} s; last seen: {last}")
                self.news.wait(timeout=1)

    def fresh_after(self, killed_at, what, timeout_s=120):
        """Seconds from `killed_at` to the first row of a later generation, of an epoch above all that the one before it had bound."""
        with self.news:
            before = max((line["generation"] for line in self.lines if line["at"] < killed_at and "generation" in line), default=None)
        if before is None:
            raise Stuck(f"{what}: no job has been seen before")
        later = self.until(f"{what}: a later generation", lambda line: line["generation"] > before, timeout_s, killed_at)
        bound = max(line["bound"] for line in self.since(0) if line["generation"] <= before)
        return self.until(what, lambda line: line.get("epoch", 0) > bound, timeout_s, later["at"] - 0.001)["at"] - killed_at

    def epochs_on(self, count, what, timeout_s=60):
        """Waits until rows of `count` further epochs have been seen; returns when."""
        now = self.until(what, lambda line: "epoch" in line, timeout_s, time.monotonic())
        return self.until(what, lambda line: line.get("epoch", 0) >= now["epoch"] + count, timeout_s, now["at"])["at"]

    def gap(self, begin, end):
        """The longest time without a fresh row between two moments: of the newest row of an epoch not seen before, one to the next."""
        last, longest, newest = begin, 0.0, None
        for line in self.since(0):
            if "epoch" not in line or line["at"] > end:
                continue
            if newest is None or line["epoch"] > newest:
                newest = line["epoch"]
                if line["at"] >= begin:
                    longest = max(longest, line["at"] - last)
                    last = line["at"]
        return max(longest, end - last)

    def went_back(self):
        """Lines where the generation, the committed epoch or the row of a window was behind an earlier line."""
        faults, best, rows = [], {}, {}
        for line in self.since(0):
            for key in ("generation", "committed", "bound"):
                if line[key] < best.get(key, 0):
                    faults.append(f"{key} went back from {best[key]} to {line[key]}")
                best[key] = max(best.get(key, 0), line[key])
            if "start" in line:
                epoch, trades = rows.get(line["start"], (0, 0))
                if line["epoch"] < epoch or line["trades"] < trades:
                    faults.append(f"the row of {line['start']} went back from epoch {epoch}, {trades} trades to {line['epoch']}, {line['trades']}")
                rows[line["start"]] = (line["epoch"], line["trades"])
        return faults
