//! Which session a replay belongs to: that of the longest known prefix of its recording, or a new
//! one.
//!
//! A log notes for each session which frames it stands for ([`RecordingNote`]), before it appends
//! any of them. So the records of a session are those of the noted frames, as far as they were
//! appended, and a recording that begins with these frames goes on in the same session. The
//! sequences say where.
//!
//! A recording whose beginning is known but which has no known prefix is refused: some of its
//! trades are in the log already, and would count twice. So is one that has more frames in common
//! with a recording that it is not than with its longest known prefix, as far as the prefixes that
//! every note has can tell: beyond 32 frames these are a sixteenth of their length apart.

use std::{fmt, ops::RangeInclusive};

use sha2::{Digest, Sha256};
use tapeflow_log::{KnownRecording, RecordingNote};
use tapeflow_schemas::SessionId;

use crate::prefixes::{Hash, Prefixes, hexadecimal, is_hashed, short};

/// The most recordings of one beginning that a log has. Only those that were taken as new although
/// they differ make more than one.
pub const RECORDINGS_OF_ONE_BEGINNING: usize = 64;

/// What to do with a recording that begins like a known one and differs later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Differing {
    /// Refuse it.
    Refuse,
    /// Take it as a recording of its own: all of its trades count.
    TakeAsNew,
}

/// A recording begins like one that the log has, and is not that one grown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlike {
    /// It has other frames.
    #[error("it begins like a recording of {frames} frames that the log has, and differs at {at}")]
    Differs {
        /// The frames of the recording that the log has.
        frames: u64,
        /// Where the first difference is.
        at: Lines,
    },
    /// It ends before the other one. Whether it differs near its end cannot be told.
    #[error("it ends after {here} frames, and the log has {frames} of it")]
    Shorter {
        /// Its own frames.
        here: u64,
        /// The frames that the log has.
        frames: u64,
    },
    /// There are [`RECORDINGS_OF_ONE_BEGINNING`] already.
    #[error("the log has {0} recordings that begin like it, and takes no more of them as new")]
    TooMany(usize),
}

/// The lines among which two recordings first differ, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lines(pub RangeInclusive<u64>);

impl fmt::Display for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last {
            write!(f, "line {first}")
        } else {
            write!(f, "one of the lines {first} to {last}")
        }
    }
}

/// The session of a recording in a log that has the `known` recordings of its beginning.
///
/// # Errors
/// [`Unlike`].
pub fn recognise(
    prefixes: &Prefixes,
    known: &[KnownRecording],
    differing: Differing,
) -> Result<SessionId, Unlike> {
    let has_prefix = |known: &&KnownRecording| {
        let prefix = hash_at(prefixes, known.note.frames);
        prefix.is_some_and(|hash| hexadecimal(&hash) == known.note.content)
    };
    let (grown, others): (Vec<_>, Vec<_>) = known.iter().partition(has_prefix);
    let longest = grown.into_iter().max_by_key(|known| known.note.frames);
    let closest = others.iter().map(|known| unlike(prefixes, &known.note));
    let closest = closest.max_by_key(|(common, _)| *common);
    match (longest, closest) {
        // More of it is in the log than that prefix.
        (Some(known), Some((common, unlike)))
            if common > known.note.frames && differing == Differing::Refuse =>
        {
            return Err(unlike);
        }
        (Some(known), _) => return Ok(known.session),
        (None, Some((_, unlike))) if differing == Differing::Refuse => return Err(unlike),
        (None, _) => {}
    }
    if known.len() >= RECORDINGS_OF_ONE_BEGINNING {
        return Err(Unlike::TooMany(known.len()));
    }
    // A recording that has grown keeps the session of its shorter form. So that form, if it is
    // taken as new, needs another one.
    let is_free = |session: &SessionId| known.iter().all(|known| known.session != *session);
    let mut sessions = (0u64..).map(|attempt| session(prefixes, attempt));
    Ok(sessions
        .find(is_free)
        .expect("there are more sessions than known recordings"))
}

/// A session by content: the same recording has the same one in a log that notes nothing.
fn session(prefixes: &Prefixes, attempt: u64) -> SessionId {
    let digest = Sha256::new()
        .chain_update(prefixes.content)
        .chain_update(attempt.to_be_bytes())
        .finalize();
    let mut session = [0; 16];
    session.copy_from_slice(&digest[..16]);
    SessionId(session)
}

/// The hash of the first frames of a recording; `None` if it has fewer.
fn hash_at(prefixes: &Prefixes, frames: u64) -> Option<Hash> {
    if frames == prefixes.frames {
        Some(prefixes.content)
    } else {
        prefixes.at.get(&frames).map(|prefix| prefix.hash)
    }
}

/// How a recording differs from a known one, which is no prefix of it, and how many frames of both
/// are the same for certain.
fn unlike(prefixes: &Prefixes, note: &RecordingNote) -> (u64, Unlike) {
    let (mut common, mut line) = (0, 0);
    let hashed = prefixes
        .at
        .iter()
        .filter(|(frames, _)| is_hashed(**frames) && **frames <= note.frames);
    let differs = |common: u64, line: u64, frames: u64, last: u64| {
        // Of one frame the line is certain; lines before it may be empty.
        let first = if frames == common + 1 { last } else { line + 1 };
        let at = Lines(first..=last);
        let frames = note.frames;
        (common, Unlike::Differs { frames, at })
    };
    for ((frames, prefix), noted) in hashed.zip(&note.prefixes) {
        if short(&prefix.hash) != *noted {
            return differs(common, line, *frames, prefix.line);
        }
        (common, line) = (*frames, prefix.line);
    }
    match prefixes.at.get(&note.frames) {
        Some(end) => differs(common, line, note.frames, end.line),
        None => {
            let (here, frames) = (prefixes.frames, note.frames);
            (common, Unlike::Shorter { here, frames })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{frame::Frame, prefixes::PrefixHasher};

    fn prefixes(frames: &[u64], known: &[KnownRecording]) -> Prefixes {
        let wanted: BTreeSet<u64> = known.iter().map(|known| known.note.frames).collect();
        let mut hasher = PrefixHasher::new(4, wanted);
        for (n, frame) in (1..).zip(frames) {
            hasher.take(&Frame {
                // Every second line is empty.
                line: 2 * n,
                bytes: frame.to_string().into_bytes(),
                taken_ms: None,
            });
        }
        hasher.end()
    }

    /// A log: replays recordings into it as `run_replay` does.
    #[derive(Default)]
    struct Known(Vec<KnownRecording>);

    impl Known {
        fn replay(&mut self, frames: &[u64], differing: Differing) -> Result<SessionId, Unlike> {
            let prefixes = prefixes(frames, &self.0);
            let session = recognise(&prefixes, &self.0, differing)?;
            self.0.retain(|known| known.session != session);
            let note = prefixes.note("x");
            self.0.push(KnownRecording { session, note });
            Ok(session)
        }

        fn check_unlike(&mut self, frames: &[u64], text: &str) {
            let error = self.replay(frames, Differing::Refuse).expect_err("unlike");
            assert_eq!(error.to_string(), text);
        }
    }

    fn counted(to: u64) -> Vec<u64> {
        (1..=to).collect()
    }

    fn changed(to: u64, at: u64) -> Vec<u64> {
        (1..=to).map(|n| if n == at { 0 } else { n }).collect()
    }

    #[test]
    fn a_recording_that_grows_keeps_its_session() {
        let mut log = Known::default();
        let session = log.replay(&counted(1), Differing::Refuse);
        for frames in [1, 2, 2, 33, 34, 1_000, 1_001] {
            assert_eq!(log.replay(&counted(frames), Differing::Refuse), session);
            assert_eq!(log.replay(&counted(frames), Differing::TakeAsNew), session);
        }
        assert_eq!(log.0.len(), 1);
    }

    #[test]
    fn the_first_difference_is_named_as_closely_as_it_is_known() {
        let mut log = Known::default();
        log.replay(&counted(100), Differing::Refuse).expect("new");
        let differs = |at: &str| {
            format!(
                "it begins like a recording of 100 frames that the log has, and differs at {at}"
            )
        };
        log.check_unlike(&changed(100, 2), &differs("line 4"));
        log.check_unlike(&changed(200, 32), &differs("line 64"));
        log.check_unlike(&changed(200, 33), &differs("one of the lines 65 to 68"));
        log.check_unlike(&changed(100, 90), &differs("one of the lines 177 to 184"));
        log.check_unlike(
            &changed(98, 100),
            "it ends after 98 frames, and the log has 100 of it",
        );
        // A known end is a prefix of its own.
        let mut log = Known::default();
        log.replay(&counted(99), Differing::Refuse).expect("new");
        let error = log.replay(&changed(200, 98), Differing::Refuse);
        assert!(
            error
                .expect_err("unlike")
                .to_string()
                .ends_with("lines 193 to 198")
        );
    }

    #[test]
    fn the_longest_known_prefix_decides_and_the_closest_recording_is_named() {
        let mut log = Known::default();
        let one = log.replay(&counted(20), Differing::Refuse).expect("new");
        let other = log
            .replay(&changed(20, 10), Differing::TakeAsNew)
            .expect("new");
        assert_ne!(one, other);
        let longer = [changed(20, 10), vec![7]].concat();
        assert_eq!(log.replay(&longer, Differing::Refuse), Ok(other));
        assert_eq!(log.replay(&counted(30), Differing::Refuse), Ok(one));
        log.check_unlike(
            &[changed(20, 10), vec![8]].concat(),
            "it begins like a recording of 21 frames that the log has, and differs at line 42",
        );
    }

    #[test]
    fn what_a_recording_was_before_it_grew_gets_another_session_if_it_is_taken_as_new() {
        let mut log = Known::default();
        let session = log.replay(&counted(20), Differing::Refuse).expect("new");
        log.replay(&counted(30), Differing::Refuse).expect("grown");
        let shorter = log.replay(&counted(20), Differing::TakeAsNew);
        assert_ne!(shorter.expect("new"), session);
        assert_eq!(log.0.len(), 2);
        assert_eq!(log.replay(&counted(31), Differing::Refuse), Ok(session));
        // It is a known prefix of this one, but the other has more of it.
        log.check_unlike(
            &changed(31, 25),
            "it begins like a recording of 31 frames that the log has, and differs at line 50",
        );
    }

    #[test]
    fn so_many_recordings_of_one_beginning_and_no_more_are_taken_as_new() {
        let mut log = Known::default();
        let most = u64::try_from(RECORDINGS_OF_ONE_BEGINNING).expect("small");
        for last in 0..most {
            log.replay(&[1, 100 + last], Differing::TakeAsNew)
                .expect("new");
        }
        let error = log.replay(&[1, 2], Differing::TakeAsNew);
        assert_eq!(error, Err(Unlike::TooMany(RECORDINGS_OF_ONE_BEGINNING)));
        log.replay(&[1, 100, 2], Differing::Refuse).expect("grown");
    }
}
