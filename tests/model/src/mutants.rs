//! The wrong variants: each takes one guard out of the protocol, and the model must find what
//! breaks.

use std::fmt;

use crate::invariants::Rule;

macro_rules! mutants {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident $name:literal in $world:literal breaks $rule:ident,
    )+) => {
        /// One wrong variant of the protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mutant {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name on the command line.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What is wrong.
            #[must_use]
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The world that catches it.
            #[must_use]
            pub fn world(self) -> &'static str {
                match self { $(Self::$variant => $world,)+ }
            }

            /// The rule that is found broken first.
            #[must_use]
            pub fn breaks(self) -> Rule {
                match self { $(Self::$variant => Rule::$rule,)+ }
            }
        }
    };
}

mutants! {
    // Those that the design names.
    /// A bar that is read back is added to whatever its label says.
    NoEpochFilter "no-epoch-filter" in "hydrate" breaks WritesArePrefixes,
    /// An epoch's bars are written as soon as its binding is proposed.
    ReleaseBeforeBinding "release-before-binding" in "zombies" breaks WritesArePrefixes,
    /// An epoch is committed once its bars are sent.
    CommitUnacknowledged "commit-unacknowledged" in "hydrate" breaks CommittedIsOnQuorum,
    /// One replica's answer counts as an acknowledgement.
    AcknowledgeAtOne "acknowledge-at-one" in "hydrate" breaks CommittedIsOnQuorum,
    /// The compare-and-set is not conditional on anything.
    CasUnconditional "cas-unconditional" in "zombies" breaks WritesArePrefixes,
    /// A new generation chooses fresh cuts for the epochs that are bound and not committed.
    FreshCuts "fresh-cuts" in "hydrate" breaks WritesArePrefixes,
    /// A replayed bar to which nothing was added is not written again.
    ReplayNotRewritten "replay-not-rewritten" in "hydrate" breaks CommittedIsOnQuorum,
    /// Replay writes each epoch of (c, b], all at the recovery timestamp.
    ReplayIntermediate "replay-intermediate" in "hydrate" breaks OneContentPerWriteTimestamp,
    /// A new generation's write timestamps come from its own clock alone.
    WriteTimestampsFromOwnClock "write-timestamps-from-own-clock" in "hydrate"
        breaks WriteTimestampsOrderStates,
    /// Bars bear a map of offsets, and nothing binds the epochs of different generations.
    OffsetsInBars "offsets-in-bars" in "hydrate" breaks WriteTimestampsOrderStates,
    /// A bar is evicted before its last write is acknowledged.
    EvictUnacknowledged "evict-unacknowledged" in "hydrate" breaks WritesArePrefixes,
    /// The duplicate filter starts as of b, while the records after c are read again.
    FilterAsOfBound "filter-as-of-bound" in "repeats" breaks CommittedIsOnQuorum,
    /// A bar that is read back may be as new as the last binding the process knows.
    LimitIsBound "limit-is-bound" in "hydrate" breaks WritesArePrefixes,
    /// Label and totals are two cells with a write timestamp each, and a reader of labels alone
    /// repairs labels alone.
    LabelApart "label-apart" in "hydrate" breaks ReadsArePrefixes,
    /// The watermark is taken when the process starts, before its take-over.
    WatermarkAtStart "watermark-at-start" in "windows" breaks WritesArePrefixes,
    /// The watermark is that of one partition.
    WatermarkOfOnePartition "watermark-of-one-partition" in "windows" breaks WritesArePrefixes,
    /// The rule that spares a read does not look at what was evicted.
    EvictionsForgotten "evictions-forgotten" in "windows" breaks WritesArePrefixes,
    /// A bar that is newer than it can be for this process is folded, and the process goes on.
    NoZombieAbort "no-zombie-abort" in "hydrate" breaks WritesArePrefixes,
    // Those of the code.
    /// While the bars of the replay are on their way, the epochs below b count as acknowledged (the
    /// coordinator without `replayed_at`).
    CommitDuringReplay "commit-during-replay" in "hydrate" breaks CommittedIsOnQuorum,
    /// An unknown outcome is resolved by generation and version alone.
    ResolveByVersion "resolve-by-version" in "zombies" breaks OneContentPerWriteTimestamp,
    /// The write timestamp of the take-over is not entered as issued, and the next binding gets it
    /// again.
    RecoveryTimestampNotIssued "recovery-timestamp-not-issued" in "hydrate"
        breaks OneContentPerWriteTimestamp,
    /// The bar state takes an epoch before its frontier has passed it, with the partials that are
    /// there.
    TakeBeforeFrontier "take-before-frontier" in "workers" breaks WritesArePrefixes,
    /// A reply that was not used is kept when its key becomes resident, and used when it is read
    /// back the next time.
    StaleReply "stale-reply" in "hydrate" breaks WritesArePrefixes,
    /// The acknowledgement of an older write of the bar permits its eviction.
    EvictOnOlderAcknowledgement "evict-on-older-acknowledgement" in "hydrate"
        breaks WritesArePrefixes,
    /// A commit waits for one worker's bars and not for all.
    CommitOfOneWorker "commit-of-one-worker" in "windows" breaks CommittedIsOnQuorum,
    /// Bars are read back from one replica.
    ReadAtOne "read-at-one" in "hydrate" breaks WritesArePrefixes,
    /// A new generation starts at b, and leaves (c, b] to the one before.
    NoReplay "no-replay" in "hydrate" breaks CommittedIsOnQuorum,
    /// Cuts do not carry the duplicate filter: each generation starts with an empty one.
    FilterForgotten "filter-forgotten" in "repeats" breaks WritesArePrefixes,
    /// Cuts do not carry the watermark: what is late depends on where the process started.
    WatermarkForgotten "watermark-forgotten" in "windows" breaks WritesArePrefixes,
}

impl Mutant {
    /// The mutant of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|mutant| mutant.name() == name)
    }

    /// Whether it gives I1 up by its very nature, which would be found at its first step. The
    /// damage must then show in bars.
    #[must_use]
    pub fn gives_the_checkpoint_up(self) -> bool {
        matches!(
            self,
            Self::FreshCuts
                | Self::OffsetsInBars
                | Self::CasUnconditional
                | Self::WriteTimestampsFromOwnClock
        )
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.name())
    }
}
