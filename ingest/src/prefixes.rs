//! Hashes of a recording and of its prefixes, by which it is recognised after it has grown.
//!
//! A prefix is a number of frames from the first. Frames are lines without their ends and without
//! empty lines, so other line ends make no other recording. All hashes depend on the partition
//! count, because sequences do.
//!
//! One pass over the frames gives the hash of every prefix that a log has noted
//! ([`PrefixHasher::new`]), and short hashes of some others ([`is_hashed`]) by which a difference
//! is found. So memory is bounded by their number, whatever the length of the recording.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};
use tapeflow_log::RecordingNote;

use crate::{admission::admit, counts::Counts, frame::Frame};

/// A hash of frames.
pub type Hash = [u8; 32];

/// Prefixes are hashed whose number of frames has no more significant bits than this: all of up to
/// 32 frames, and 16 more each time the number doubles. So a difference is found exactly among the
/// first 32 frames, and after them to a sixteenth of its place; 600 hashes are enough for 2^40
/// frames.
const SIGNIFICANT_BITS: u32 = 5;

/// Whether the prefix of so many frames, at least one, is among those that every note has.
#[must_use]
pub fn is_hashed(frames: u64) -> bool {
    u64::BITS - frames.leading_zeros() - frames.trailing_zeros() <= SIGNIFICANT_BITS
}

/// The hash of all frames so far.
#[derive(Clone, Debug)]
pub struct ContentHasher(Sha256);

impl ContentHasher {
    /// No frames.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        Self(Sha256::new().chain_update(partitions.to_be_bytes()))
    }

    /// Adds a frame. No frame holds the end of a line, which is the separator.
    pub fn take(&mut self, frame: &Frame) {
        self.0.update(&frame.bytes);
        self.0.update(b"\n");
    }

    /// The hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.0.clone().finalize().into()
    }
}

/// Where a prefix ends, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The line of its last frame, from 1.
    pub line: u64,
    /// The hash of its frames.
    pub hash: Hash,
}

/// The hashes of a whole recording.
#[derive(Clone, Debug)]
pub struct Prefixes {
    /// How many frames it has.
    pub frames: u64,
    /// The hash of all of them.
    pub content: Hash,
    /// The prefixes that were asked for and that every note has, by their number of frames.
    pub at: BTreeMap<u64, Prefix>,
}

impl Prefixes {
    /// What a log keeps of this recording.
    #[must_use]
    pub fn note(&self, beginning: &str) -> RecordingNote {
        let hashed = self.at.iter().filter(|(frames, _)| is_hashed(**frames));
        RecordingNote {
            beginning: beginning.to_owned(),
            frames: self.frames,
            content: hexadecimal(&self.content),
            prefixes: hashed.map(|(_, prefix)| short(&prefix.hash)).collect(),
        }
    }
}

/// Hashes the frames of a recording and some of its prefixes.
#[derive(Debug)]
pub struct PrefixHasher {
    content: ContentHasher,
    wanted: BTreeSet<u64>,
    frames: u64,
    at: BTreeMap<u64, Prefix>,
}

impl PrefixHasher {
    /// No frames yet. `wanted` are the numbers of frames of further prefixes to hash.
    #[must_use]
    pub fn new(partitions: u32, wanted: BTreeSet<u64>) -> Self {
        Self {
            content: ContentHasher::new(partitions),
            wanted,
            frames: 0,
            at: BTreeMap::new(),
        }
    }

    /// Adds a frame.
    pub fn take(&mut self, frame: &Frame) {
        self.content.take(frame);
        self.frames += 1;
        if is_hashed(self.frames) || self.wanted.contains(&self.frames) {
            let (line, hash) = (frame.line, self.content.hash());
            self.at.insert(self.frames, Prefix { line, hash });
        }
    }

    /// The hash of all frames so far.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.content.hash()
    }

    /// The hashes.
    #[must_use]
    pub fn end(self) -> Prefixes {
        Prefixes {
            frames: self.frames,
            content: self.content.hash(),
            at: self.at,
        }
    }
}

/// The beginning of a recording, if this is its first frame with a trade. Frames before it may be
/// those of any recording: pings and messages of the recorder.
#[must_use]
pub fn beginning(partitions: u32, frame: &Frame) -> Option<String> {
    let admitted = admit(frame, &mut Counts::default());
    let has_trade = !admitted.groups.is_empty();
    has_trade.then(|| {
        let mut hasher = ContentHasher::new(partitions);
        hasher.take(frame);
        hexadecimal(&hasher.hash())
    })
}

/// The text of a hash in a note.
#[must_use]
pub fn hexadecimal(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The short form of a prefix's hash in a note. It only says where recordings differ.
#[must_use]
pub fn short(hash: &Hash) -> u64 {
    let (first, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    u64::from_be_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(line: u64, text: &str) -> Frame {
        Frame {
            line,
            bytes: text.as_bytes().to_vec(),
            taken_ms: None,
        }
    }

    fn prefixes(texts: &[&str], wanted: &[u64]) -> Prefixes {
        let mut hasher = PrefixHasher::new(4, wanted.iter().copied().collect());
        for (line, text) in (1..).zip(texts) {
            hasher.take(&frame(line, text));
        }
        hasher.end()
    }

    #[test]
    fn a_prefix_has_the_hash_of_the_recording_that_ends_there() {
        let texts: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let whole = prefixes(&texts, &[77, 1_000]);
        assert_eq!(whole.frames, 100);
        for frames in [1, 2, 31, 32, 34, 64, 68, 77, 96] {
            let shorter = prefixes(&texts[..frames], &[]);
            let at = whole.at[&u64::try_from(frames).expect("small")];
            assert_eq!(at.hash, shorter.content, "{frames}");
            assert_eq!(at.line, u64::try_from(frames).expect("small"));
        }
        assert_ne!(whole.content, prefixes(&texts[..99], &[]).content);
        let joined = prefixes(&["ab", "c"], &[]);
        assert_ne!(joined.content, prefixes(&["a", "bc"], &[]).content);
    }

    #[test]
    fn few_prefixes_of_a_long_recording_are_hashed_and_all_of_a_short_one() {
        assert!((1..=32).all(is_hashed));
        let hashed = |from: u64| (from..2 * from).filter(|frames| is_hashed(*frames)).count();
        assert_eq!([hashed(32), hashed(64), hashed(1 << 16)], [16, 16, 16]);
        assert!(is_hashed(1 << 63) && !is_hashed(u64::MAX));
        let note = prefixes(&["a", "b", "c"], &[1_000]).note("x");
        assert_eq!((note.frames, note.prefixes.len()), (3, 3));
        // Other prefixes that were asked for are not among those of every note.
        let texts = vec!["a"; 40];
        assert_eq!(prefixes(&texts, &[33]).note("x").prefixes.len(), 36);
    }

    #[test]
    fn the_first_frame_with_a_trade_is_the_beginning() {
        let begin = |text: &str| beginning(4, &frame(9, text));
        for text in [
            r#"{"type":"ping"}"#,
            "not JSON",
            r#"{"type":"trade","data":[{"s":"A","p":-1,"t":1,"v":1}]}"#,
            r#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":0}]}"#,
        ] {
            assert_eq!(begin(text), None, "{text}");
        }
        let trade = r#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1}]}"#;
        assert_eq!(begin(trade), beginning(4, &frame(1, trade)));
        assert_ne!(begin(trade), beginning(5, &frame(9, trade)));
        assert_eq!(begin(trade).expect("a trade").len(), 64);
    }
}
