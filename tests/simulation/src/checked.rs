//! Numbers of comparisons and of faults. A test demands that no fault is left out by chance.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Numbers of comparisons and faults of one seed or of many.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Checked {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Checked {
            /// Adds the numbers of another seed.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// All of them, by name.
            #[must_use]
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Bars and views sent, each compared with the recomputation as of its epoch.
    writes,
    /// Bars and views read, each compared with the recomputation as of its epoch.
    reads,
    /// Epochs bound.
    bound,
    /// Epochs committed; every bar of each is compared with the replicas.
    committed,
    /// Generations that took over.
    generations,
    /// Late trades in bars that were sent; the recomputation has the same number in each bar.
    late,
    /// Offsets without a record that readers passed.
    holes,
    /// Runs that ended because a record was passed over.
    skipped,
    /// Times that retention removed committed offsets alone.
    removed,
    /// Times that it removed offsets that were not committed.
    removed_early,
    /// Starts that were refused because offsets are gone.
    refused,
    /// Runs that ended because offsets that they had not read are gone.
    outrun,
    /// Losses that an operator accepted and a binding records.
    lost,
    /// Bound records that such a loss leaves open.
    uncertain,
    /// Starts that were refused because the log was rolled back.
    rolled_back,
    /// Generations whose limits are from 2 to 8.
    small,
    /// Processes that ended while others of their generation went on.
    apart,
    /// Minutes that were written without packed bars that are beyond their horizon.
    expired,
    /// Trades that came beyond the horizon of all sizes.
    too_late,
    /// Repairs that were released.
    repaired,
    /// Repairers that died.
    repairers_dead,
}
