//! What the feed sends: mostly ordinary trades, at times too many of one kind.

use std::sync::atomic::{AtomicU8, Ordering};

/// A kind of feed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum FeedProfile {
    /// Trades, with some poison and a far-future trade now and then.
    #[default]
    Calm = 0,
    /// Five times as many, and of a hundred records one is of another symbol.
    OneSymbol = 1,
    /// A record in two is poison.
    Poison = 2,
    /// Every other record has a trade of the far future among its trades.
    Future = 3,
}

impl FeedProfile {
    /// All but the calm one.
    pub(crate) const FAULTS: [Self; 3] = [Self::OneSymbol, Self::Poison, Self::Future];

    /// For the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calm => "nothing",
            Self::OneSymbol => "99 % in one symbol, five times as much",
            Self::Poison => "a burst of poison records",
            Self::Future => "a burst of trades of the far future",
        }
    }

    /// How often a record of poison comes before another one.
    pub(crate) fn poison(self) -> f64 {
        if self == Self::Poison { 0.5 } else { 0.005 }
    }

    /// How often a far-future trade comes among others.
    pub(crate) fn future(self) -> f64 {
        if self == Self::Future { 0.5 } else { 0.005 }
    }
}

/// A feed profile that others may change.
#[derive(Default)]
pub(crate) struct SharedProfile(AtomicU8);

impl SharedProfile {
    pub(crate) fn set(&self, feed_profile: FeedProfile) {
        self.0.store(feed_profile as u8, Ordering::Release);
    }

    pub(crate) fn get(&self) -> FeedProfile {
        let number = self.0.load(Ordering::Acquire);
        FeedProfile::FAULTS
            .into_iter()
            .find(|feed_profile| *feed_profile as u8 == number)
            .unwrap_or_default()
    }
}
