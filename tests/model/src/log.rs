//! The log and how a reader counts it: which records count, which are late, and where cuts fall.
//!
//! A record's fate depends on the records below it in its partition and on nothing else. A process
//! that starts at a cut therefore needs what the cut carries: the duplicate filter and the largest
//! event time, both as of that cut.

/// Partitions of the log.
pub const PARTITIONS: usize = 2;
/// The most records a log may have: each takes three bits of a [`Totals`].
pub const RECORDS: usize = 5;
/// Keys: one symbol, one window each.
pub const KEYS: usize = 2;
/// How far below the highest sequence a late one is still told from a repeat (64 in the real
/// filter).
const SEQUENCE_WINDOW: u8 = 2;
/// How many sessions a partition remembers (64 in the real filter).
const SESSIONS_REMEMBERED: usize = 1;
/// The length of a window, in units of event time.
const WINDOW: u8 = 10;

/// A moment by the trades' own clock; 0 stands for "none yet".
pub type EventTime = u8;

/// Where a key's window starts.
#[must_use]
pub fn start_of(key: usize) -> EventTime {
    if key == 0 { 1 } else { 1 + WINDOW }
}

/// One trade in the log.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// Its partition.
    pub partition: usize,
    /// The bar it belongs to.
    pub key: usize,
    /// When it happened.
    pub event: EventTime,
    /// Who published it.
    pub session: u8,
    /// Its number within the session.
    pub sequence: u8,
    /// Its place in its partition; set by [`Log::new`].
    pub offset: u8,
}

/// Where an epoch ends: for each partition the offset of the first record that is not in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Debug)]
pub struct Cut(pub u8);

impl Cut {
    /// A cut at these offsets.
    #[must_use]
    pub fn at(next: [u8; PARTITIONS]) -> Self {
        Self(next[0] | next[1] << 4)
    }

    /// The offset in one partition.
    #[must_use]
    pub fn next(self, partition: usize) -> u8 {
        self.0 >> (4 * partition) & 15
    }

    /// Whether everything below the other cut lies below this one.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        (0..PARTITIONS).all(|partition| self.next(partition) >= other.next(partition))
    }

    /// Whether the record lies below.
    #[must_use]
    pub fn contains(self, record: &Record) -> bool {
        record.offset < self.next(record.partition)
    }
}

/// What a bar holds: for each record how often it was counted (0 to 3), and whether it was counted
/// as late.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Totals(pub u16);

impl Totals {
    /// Counts a record once more.
    #[must_use]
    pub fn and(self, record: usize, late: bool) -> Self {
        let more = if self.0 >> (3 * record) & 3 < 3 {
            1 << (3 * record)
        } else {
            0
        };
        Self((self.0 + more) | u16::from(late) << (3 * record + 2))
    }
}

impl std::fmt::Debug for Totals {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut list = to.debug_list();
        for record in 0..RECORDS {
            match self.0 >> (3 * record) & 7 {
                0 => {}
                1 => drop(list.entry(&format_args!("r{record}"))),
                5 => drop(list.entry(&format_args!("r{record} late"))),
                bits => drop(list.entry(&format_args!(
                    "r{record} x{}{}",
                    bits & 3,
                    if bits > 3 { " late" } else { "" }
                ))),
            }
        }
        list.finish()
    }
}

/// What a process makes of the records from its start on: bit n stands for record n.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Reading {
    /// Records that count.
    pub counted: u8,
    /// Those of them that came after their window had closed.
    pub late: u8,
}

impl Reading {
    /// Whether the record counts.
    #[must_use]
    pub fn counts(self, record: usize) -> bool {
        self.counted >> record & 1 == 1
    }

    /// Adds a record to a bar, the way this reading sees it.
    #[must_use]
    pub fn add(self, totals: Totals, record: usize) -> Totals {
        totals.and(record, self.late >> record & 1 == 1)
    }
}

/// What decides about the next record of one partition: the duplicate filter, in small, and the
/// watermark so far.
#[derive(Clone, Default)]
struct Decisions {
    /// (session, highest, bits of those seen below), least recently used first.
    sessions: Vec<(u8, u8, u8)>,
    watermark: EventTime,
}

impl Decisions {
    /// Whether the sequence is new, as `DuplicateFilter::observe` decides it.
    fn hear(&mut self, session: u8, sequence: u8) -> bool {
        let Some(at) = self.sessions.iter().position(|window| window.0 == session) else {
            if self.sessions.len() == SESSIONS_REMEMBERED {
                self.sessions.remove(0);
            }
            self.sessions.push((session, sequence, 1));
            return true;
        };
        let (_, mut highest, mut seen) = self.sessions.remove(at);
        let fresh = if sequence > highest {
            let step = sequence - highest;
            seen = if step < SEQUENCE_WINDOW {
                seen << step | 1
            } else {
                1
            };
            highest = sequence;
            true
        } else {
            let below = highest - sequence;
            let fresh = below < SEQUENCE_WINDOW && seen >> below & 1 == 0;
            seen |= if fresh { 1 << below } else { 0 };
            fresh
        };
        self.sessions
            .push((session, highest, seen & ((1 << SEQUENCE_WINDOW) - 1)));
        fresh
    }

    /// Takes a record: `None` if it is a repeat, else whether it is late.
    fn take(&mut self, record: &Record) -> Option<bool> {
        if !self.hear(record.session, record.sequence) {
            return None;
        }
        let late = start_of(record.key) + WINDOW <= self.watermark;
        self.watermark = self.watermark.max(record.event);
        Some(late)
    }
}

/// A fixed log. That records arrive over time needs no modelling: a cut may end anywhere.
#[derive(Clone, Debug)]
pub struct Log {
    /// The records, numbered from 0 over all partitions.
    pub records: Vec<Record>,
    /// What a reader that never stopped would make of it.
    pub truth: Reading,
}

impl Log {
    /// A log of these records, each partition in the order given.
    ///
    /// # Panics
    /// If there are more than [`RECORDS`].
    #[must_use]
    pub fn new(mut records: Vec<Record>) -> Self {
        assert!(records.len() <= RECORDS, "at most {RECORDS} records fit");
        let mut next = [0; PARTITIONS];
        for record in &mut records {
            record.offset = next[record.partition];
            next[record.partition] += 1;
        }
        let mut log = Self {
            records,
            truth: Reading::default(),
        };
        log.truth = log.reading(Cut::default(), Cut::default(), Cut::default());
        log
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> Cut {
        Cut::at([0, 1].map(|partition| {
            u8::try_from(
                self.records
                    .iter()
                    .filter(|r| r.partition == partition)
                    .count(),
            )
            .unwrap_or(u8::MAX)
        }))
    }

    /// What a process makes of the records from `from` on, if its filter is as of the cut `filter`,
    /// and its largest event times as of `watermark`. Right is one cut for all three.
    #[must_use]
    pub fn reading(&self, from: Cut, filter: Cut, watermark: Cut) -> Reading {
        let mut reading = Reading::default();
        for partition in 0..PARTITIONS {
            let as_of = |cut: Cut| {
                let mut decisions = Decisions::default();
                let below = self
                    .records
                    .iter()
                    .filter(|r| r.partition == partition && cut.contains(r));
                for record in below {
                    decisions.take(record);
                }
                decisions
            };
            let mut decisions = Decisions {
                sessions: as_of(filter).sessions,
                watermark: as_of(watermark).watermark,
            };
            for (at, record) in self
                .records
                .iter()
                .enumerate()
                .filter(|(_, r)| r.partition == partition && !from.contains(r))
            {
                if let Some(late) = decisions.take(record) {
                    reading.counted |= 1 << at;
                    reading.late |= u8::from(late) << at;
                }
            }
        }
        reading
    }

    /// The watermark below the cut, of the records that count in these partitions.
    #[must_use]
    pub fn watermark(&self, cut: Cut, partitions: std::ops::Range<usize>) -> EventTime {
        let records = self.records.iter().enumerate().filter(|(at, r)| {
            self.truth.counts(*at) && partitions.contains(&r.partition) && cut.contains(r)
        });
        records.map(|(_, record)| record.event).max().unwrap_or(0)
    }

    /// The independent recomputation: what a bar must hold as of a cut.
    #[must_use]
    pub fn fold(&self, key: usize, cut: Cut) -> Totals {
        let records = self
            .records
            .iter()
            .enumerate()
            .filter(|(at, r)| r.key == key && self.truth.counts(*at) && cut.contains(r));
        records.fold(Totals::default(), |totals, (at, _)| {
            self.truth.add(totals, at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: usize, key: usize, event: EventTime, session: u8, sequence: u8) -> Record {
        Record {
            partition,
            key,
            event,
            session,
            sequence,
            offset: 0,
        }
    }

    #[test]
    fn a_reader_that_starts_at_any_cut_makes_the_same_of_the_rest() {
        let log = Log::new(vec![
            record(0, 0, 1, 1, 1),
            record(0, 1, 11, 1, 1),
            record(0, 1, 12, 1, 2),
            record(0, 0, 2, 2, 1),
            record(0, 0, 3, 2, 1),
        ]);
        check(&log, 0b01101, 0b01000);
    }

    #[test]
    fn a_sequence_below_the_window_counts_as_seen_and_one_of_a_forgotten_session_as_new() {
        let below = [(1, 1), (1, 4), (1, 3), (1, 2), (1, 4)]
            .map(|(session, sequence)| record(0, 0, 1, session, sequence));
        check(&Log::new(below.to_vec()), 0b00111, 0);
        let forgotten = [(1, 1), (1, 1), (2, 1), (1, 1), (2, 1)]
            .map(|(session, sequence)| record(0, 0, 1, session, sequence));
        check(&Log::new(forgotten.to_vec()), 0b11101, 0);
    }

    fn check(log: &Log, counted: u8, late: u8) {
        assert_eq!(
            (log.truth.counted, log.truth.late),
            (counted, late),
            "what counts, and what comes after its window"
        );
        for next in 0..=5 {
            let cut = Cut::at([next, 0]);
            let rest = 0b11111 << next & 0b11111;
            let reading = log.reading(cut, cut, cut);
            assert_eq!(
                (reading.counted, reading.late),
                (counted & rest, late & rest),
                "from {next} on"
            );
        }
    }

    #[test]
    fn totals_show_what_was_counted_twice() {
        assert_eq!(
            format!(
                "{:?}",
                Totals::default().and(0, false).and(2, true).and(2, true)
            ),
            "[r0, r2 x2 late]"
        );
    }
}
