"""The lines of the reader, and the figures computed from them."""

import json
import subprocess
import threading
import time


class TimedOut(Exception):
    """An event did not happen in time."""


class Observations:
    """The reader's process and its lines, ordered by time."""

    def __init__(self, command):
        self.lines, self.changed = [], threading.Condition()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(json.loads(line))
                self.changed.notify_all()

    def end(self):
        self.process.stdin.close()
        self.process.wait(timeout=20)

    def since(self, at):
        """The lines with a checkpoint from `at` on."""
        with self.changed:
            return [line for line in self.lines if line["at"] >= at and "generation" in line]

    def until(self, what, condition, timeout_s, after=0.0):
        """Waits for a line with a checkpoint, later than `after`, for which `condition` holds."""
        deadline, next_line = time.monotonic() + timeout_s, 0
        with self.changed:
            while True:
                for line in self.lines[next_line:]:
                    if line["at"] > after and "generation" in line and condition(line):
                        return line
                next_line = len(self.lines)
                if self.process.poll() is not None:
                    raise TimedOut(f"{what}: the reader exited")
                if time.monotonic() > deadline:
                    last = self.lines[-1] if self.lines else "none"
                    raise TimedOut(f"{what}: not within {timeout_s} s; last line: {last}")
                self.changed.wait(timeout=1)

    def fresh_after(self, killed_at, what, timeout_s=120):
        """Seconds from `killed_at` to the first fresh bar of a later generation.

        The epoch of the bar must be above all that the earlier generations had bound: the later
        generation may write those again.
        """
        with self.changed:
            earlier = [
                line["generation"]
                for line in self.lines
                if line["at"] < killed_at and "generation" in line
            ]
        if not earlier:
            raise TimedOut(f"{what}: no generation was observed before the kill")
        before = max(earlier)
        later = self.until(
            f"{what}: a later generation",
            lambda line: line["generation"] > before,
            timeout_s,
            killed_at,
        )
        bound = max(line["bound"] for line in self.since(0) if line["generation"] <= before)
        fresh = self.until(
            what, lambda line: line.get("epoch", 0) > bound, timeout_s, later["at"] - 0.001
        )
        return fresh["at"] - killed_at

    def epochs_on(self, count, what, timeout_s=60):
        """Waits until the bar is `count` epochs further; returns the time of that line."""
        now = self.until(what, lambda line: "epoch" in line, timeout_s, time.monotonic())
        wanted = now["epoch"] + count
        line = self.until(
            what, lambda line: line.get("epoch", 0) >= wanted, timeout_s, now["at"]
        )
        return line["at"]

    def gap(self, begin, end):
        """The longest time without a fresh bar between two times, which count as its ends.

        A fresh bar is the first line with a newer epoch.
        """
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

    def regressions(self):
        """Lines whose generation, epochs or bar are behind those of an earlier line."""
        errors, best, bars = [], {}, {}
        for line in self.since(0):
            for key in ("generation", "committed", "bound"):
                if line[key] < best.get(key, 0):
                    errors.append(f"{key} went back from {best[key]} to {line[key]}")
                best[key] = max(best.get(key, 0), line[key])
            if "start" in line:
                epoch, trades = bars.get(line["start"], (0, 0))
                if line["epoch"] < epoch or line["trades"] < trades:
                    errors.append(
                        f"the bar of {line['start']} went back from epoch {epoch} and {trades}"
                        f" trades to epoch {line['epoch']} and {line['trades']} trades"
                    )
                bars[line["start"]] = (line["epoch"], line["trades"])
        return errors
