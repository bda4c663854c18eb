//! The duplicate filters of a checkpoint in few bytes.
//!
//! A checkpoint is rewritten with every epoch, and most of it would be filters: up to 64 sessions
//! in each partition of each binding. Three facts keep them small:
//!
//! * One session usually writes to all partitions: its 16 bytes are written once.
//! * Between two bindings few sessions send a record, and those end up last in their filter. So a
//!   binding has only what changed since the one before, and the first one has everything.
//! * Nearly all windows are dense: every sequence up to the highest one was seen.
//!
//! ```text
//!  binding    := count, sessions that no earlier binding names (16 bytes each), partition*
//!  partition  := dropped, count, window*
//!  window     := session (its number), highest, flags, [seen], [to], age (next - last)
//! ```
//!
//! Numbers are LEB128 varints, signed ones in zigzag; `seen` has eight bytes. The filter of a
//! partition is the one before, without the sessions of its windows and without the first `dropped`
//! of the others, followed by its windows.

use std::collections::HashMap;

use tapeflow_schemas::{Offset, SessionId};

use super::{Cut, SessionPlace, SessionWindow};
use crate::dedup::SESSIONS_REMEMBERED;

/// Flag of a window of which every sequence was seen: it has no `seen`.
const DENSE: u64 = 1;
/// Flag of [`SessionPlace::First`].
const FIRST: u64 = 2;
/// Flag of [`SessionPlace::Leapt`]: the window has `to`.
const LEAPT: u64 = 4;

/// Writes the filters of the bindings of one checkpoint, in order.
#[derive(Default)]
pub(super) struct Writer {
    numbers: HashMap<SessionId, u64>,
    before: Vec<Vec<SessionWindow>>,
}

/// Reads what a [`Writer`] has written, in the same order.
#[derive(Clone, Default)]
pub(super) struct Reader {
    sessions: Vec<SessionId>,
    before: Vec<Vec<SessionWindow>>,
}

impl Writer {
    /// The bytes of one binding's filters.
    pub(super) fn binding(&mut self, cuts: &[Cut]) -> Vec<u8> {
        self.before.resize(cuts.len(), Vec::new());
        let (mut named, mut bytes, mut count) = (Vec::new(), Vec::new(), 0);
        for (cut, before) in cuts.iter().zip(&mut self.before) {
            let (dropped, changed) = difference(before, &cut.filter);
            put(&mut bytes, dropped as u64);
            put(&mut bytes, changed.len() as u64);
            for window in changed {
                let next = self.numbers.len() as u64;
                let number = *self.numbers.entry(window.session).or_insert_with(|| {
                    named.extend(window.session.0);
                    count += 1;
                    next
                });
                put_window(&mut bytes, number, window, cut.next);
            }
            before.clone_from(&cut.filter);
        }
        let mut all = Vec::with_capacity(4 + named.len() + bytes.len());
        put(&mut all, count);
        all.extend(named);
        all.extend(bytes);
        all
    }
}

/// How a filter follows from the one before: how many of the unchanged sessions are gone, and the
/// windows after those that stay.
fn difference<'a>(
    before: &[SessionWindow],
    now: &'a [SessionWindow],
) -> (usize, &'a [SessionWindow]) {
    let stay = now
        .iter()
        .take_while(|window| before.contains(window))
        .count();
    let (stay, changed) = now.split_at(stay);
    let others = without(before, changed);
    match others.len().checked_sub(stay.len()) {
        Some(dropped) if others[dropped..] == *stay => (dropped, changed),
        // Records alone never lead here, because a filter is in the order of last records.
        _ => (without(before, now).len(), now),
    }
}

fn without(windows: &[SessionWindow], changed: &[SessionWindow]) -> Vec<SessionWindow> {
    windows
        .iter()
        .filter(|window| changed.iter().all(|new| new.session != window.session))
        .copied()
        .collect()
}

/// The `seen` of a session of which every sequence from 1 was seen.
fn dense(highest: u64) -> u64 {
    if highest >= 64 {
        u64::MAX
    } else {
        (1 << highest) - 1
    }
}

fn put_window(bytes: &mut Vec<u8>, number: u64, window: &SessionWindow, next: Offset) {
    put(bytes, number);
    put(bytes, window.highest);
    let is_dense = window.seen == dense(window.highest);
    let place = match window.place {
        SessionPlace::Known => 0,
        SessionPlace::First => FIRST,
        SessionPlace::Leapt { .. } => LEAPT,
    };
    put(bytes, place | if is_dense { DENSE } else { 0 });
    if !is_dense {
        bytes.extend(window.seen.to_be_bytes());
    }
    if let SessionPlace::Leapt { to } = window.place {
        put(bytes, to);
    }
    let age = next.wrapping_sub(window.last);
    put(bytes, ((age << 1) ^ (age >> 63)).cast_unsigned());
}

pub(super) fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

impl Reader {
    /// Fills in the filters of one binding's cuts; `None` if the bytes are damaged.
    pub(super) fn binding(&mut self, mut bytes: &[u8], cuts: &mut [Cut]) -> Option<()> {
        self.before.resize(cuts.len(), Vec::new());
        for _ in 0..take(&mut bytes)? {
            let (session, rest) = bytes.split_first_chunk::<16>()?;
            self.sessions.push(SessionId(*session));
            bytes = rest;
        }
        for (cut, before) in cuts.iter_mut().zip(&mut self.before) {
            let (dropped, count) = (take(&mut bytes)?, take(&mut bytes)?);
            // What is compared and copied below is small, whatever the bytes claim.
            if usize::try_from(count).ok()? > SESSIONS_REMEMBERED {
                return None;
            }
            let changed = (0..count)
                .map(|_| take_window(&mut bytes, &self.sessions, cut.next))
                .collect::<Option<Vec<_>>>()?;
            let others = without(before, &changed);
            let stay = others.get(usize::try_from(dropped).ok()?..)?;
            cut.filter = [stay, &changed[..]].concat();
            if cut.filter.len() > SESSIONS_REMEMBERED {
                return None;
            }
            before.clone_from(&cut.filter);
        }
        bytes.is_empty().then_some(())
    }
}

fn take_window(bytes: &mut &[u8], sessions: &[SessionId], next: Offset) -> Option<SessionWindow> {
    let session = *sessions.get(usize::try_from(take(bytes)?).ok()?)?;
    let (highest, flags) = (take(bytes)?, take(bytes)?);
    let seen = if flags & DENSE == 0 {
        let (seen, rest) = bytes.split_first_chunk()?;
        *bytes = rest;
        u64::from_be_bytes(*seen)
    } else {
        dense(highest)
    };
    let place = match flags & !DENSE {
        0 => SessionPlace::Known,
        FIRST => SessionPlace::First,
        LEAPT => SessionPlace::Leapt { to: take(bytes)? },
        _ => return None,
    };
    let age = take(bytes)?;
    let age = (age >> 1).cast_signed() ^ -(age & 1).cast_signed();
    Some(SessionWindow {
        session,
        highest,
        seen,
        last: next.wrapping_sub(age),
        place,
    })
}

pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dedup::DuplicateFilter;

    fn cut(filter: &DuplicateFilter, next: Offset) -> Cut {
        Cut {
            next,
            filter: filter.windows().to_vec(),
            ..Cut::default()
        }
    }

    /// Writes these bindings and reads them back; returns the number of bytes of each.
    fn check(bindings: &[Vec<Cut>]) -> Vec<usize> {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        let mut sizes = Vec::new();
        for cuts in bindings {
            let bytes = writer.binding(cuts);
            let mut read: Vec<Cut> = cuts
                .iter()
                .map(|cut| Cut {
                    filter: Vec::new(),
                    ..cut.clone()
                })
                .collect();
            for end in (0..bytes.len()).step_by(97) {
                assert_eq!(
                    reader.clone().binding(&bytes[..end], &mut read.clone()),
                    None,
                    "cut off at {end}"
                );
            }
            reader.binding(&bytes, &mut read).expect("our own bytes");
            assert_eq!(read, *cuts);
            sizes.push(bytes.len());
        }
        sizes
    }

    #[test]
    fn what_is_written_is_read_whatever_happens_between_two_bindings() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..50 {
            let mut filters = vec![DuplicateFilter::default(); 3];
            let (mut bindings, mut offset) = (Vec::new(), 0);
            for _ in 0..6 {
                for _ in 0..random(300) {
                    offset += if random(100) == 0 { 1 << 22 } else { 1 };
                    let at = usize::try_from(random(3)).expect("small");
                    let id = u8::try_from(random(80)).expect("small");
                    let sequence = match random(20) {
                        0 => u64::MAX >> 1,
                        _ => 1 + random(90),
                    };
                    filters[at].observe(SessionId([id; 16]), sequence, offset);
                }
                let cuts = filters.iter().map(|filter| cut(filter, offset + 1));
                bindings.push(cuts.collect());
            }
            check(&bindings);
        }
    }

    #[test]
    fn a_filter_that_does_not_follow_from_the_one_before_is_written_whole() {
        let window = |n: u8| SessionWindow {
            session: SessionId([n; 16]),
            highest: u64::MAX - u64::from(n),
            seen: u64::from(n),
            last: i64::MIN + i64::from(n),
            place: SessionPlace::Leapt { to: u64::MAX },
        };
        let cut = |filter: &[u8]| {
            vec![Cut {
                next: i64::MAX,
                filter: filter.iter().map(|n| window(*n)).collect(),
                ..Cut::default()
            }]
        };
        check(&[cut(&[1, 2, 3]), cut(&[3, 2, 1]), cut(&[]), cut(&[2, 1])]);
    }

    #[test]
    fn a_binding_without_new_records_costs_two_bytes_a_partition() {
        let mut filter = DuplicateFilter::default();
        for n in 0..64 {
            filter.observe(SessionId([n; 16]), 1, i64::from(n));
        }
        let cuts = vec![cut(&filter, 64); 8];
        let sizes = check(&[cuts.clone(), cuts]);
        assert_eq!(sizes[1], 1 + 2 * 8);
    }
}
