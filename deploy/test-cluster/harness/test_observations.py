"""Tests of the figures that Observations computes from the reader's lines.

    python3 -B -m unittest discover -s deploy/test-cluster/harness
"""

import json
import sys
import tempfile
import unittest

from observations import Observations, TimedOut

# Prints a file at once and runs until its input ends, as the reader does.
READER = """
import sys
print(open(sys.argv[1]).read(), end='', flush=True)
sys.stdin.read()
"""


def line(at, generation, bound, epoch, trades, start=0):
    return {
        "at": at,
        "generation": generation,
        "committed": epoch,
        "bound": bound,
        "epoch": epoch,
        "start": start,
        "trades": trades,
    }


def observe(*lines):
    """Observations of the given lines."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("".join(json.dumps(each) + "\n" for each in lines))
        file.flush()
        made = Observations([sys.executable, "-c", READER, file.name])
        if lines:
            with made.changed:
                made.changed.wait_for(lambda: len(made.lines) == len(lines), timeout=30)
    return made


class Figures(unittest.TestCase):
    def check(self, *lines):
        made = observe(*lines)
        self.addCleanup(made.process.stdout.close)
        self.addCleanup(made.end)
        return made

    def test_a_bar_of_an_epoch_that_the_killed_generation_had_bound_is_not_fresh(self):
        lines = (
            line(1.0, 1, bound=7, epoch=5, trades=50),
            line(2.1, 1, bound=8, epoch=6, trades=60),
            line(3.0, 2, bound=8, epoch=8, trades=80),
            line(3.5, 2, bound=10, epoch=9, trades=90),
        )
        self.assertAlmostEqual(self.check(*lines).fresh_after(2.0, "fresh"), 1.5)

    def test_a_job_that_does_not_recover_times_out(self):
        lines = (line(1.0, 1, 7, 5, 50), line(2.1, 1, 7, 5, 50), line(3.0, 1, 7, 5, 50))
        with self.assertRaises(TimedOut):
            self.check(*lines).fresh_after(2.0, "fresh", timeout_s=0.5)

    def test_a_gap_is_the_time_between_fresh_bars_and_counts_its_ends(self):
        times = ((0.5, 1), (1.2, 2), (1.4, 2), (3.2, 3), (3.4, 4))
        made = self.check(*[line(at, 1, epoch, epoch, epoch) for at, epoch in times])
        self.assertAlmostEqual(made.gap(1.0, 3.5), 2.0)
        self.assertAlmostEqual(made.gap(1.0, 9.4), 6.0, msg="nothing fresh until the end")
        self.assertAlmostEqual(made.gap(0.6, 1.1), 0.5, msg="nothing fresh at all")

    def test_failed_polls_are_a_time_without_fresh_bars(self):
        lines = (line(1.0, 1, 1, 1, 1), {"at": 2.0, "error": "timed out"}, line(4.0, 1, 2, 2, 2))
        self.assertAlmostEqual(self.check(*lines).gap(1.0, 4.0), 3.0)

    def test_a_bar_that_goes_back_is_a_regression_and_the_next_window_is_not(self):
        forward = (line(1, 1, 5, 5, 50, start=0), line(2, 1, 6, 6, 3, start=60))
        self.assertEqual(self.check(*forward).regressions(), [])
        back = line(3, 1, 7, 7, 2, start=60)
        self.assertEqual(len(self.check(*forward, back).regressions()), 1)
        generations = (line(1, 2, 5, 5, 50), line(2, 1, 5, 5, 50))
        self.assertEqual(len(self.check(*generations).regressions()), 1, "the generation")


if __name__ == "__main__":
    unittest.main()
