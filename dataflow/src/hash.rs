//! The hash of the job's maps: fast, and drawn anew for each map, so that nobody outside can choose
//! symbols that collide. A simulation fixes it on its own thread: then maps are walked in the same
//! order every time.

use std::{cell::Cell, hash::BuildHasher};

use foldhash::{
    SharedSeed,
    fast::{FoldHasher, SeedableRandomState},
};

thread_local! {
    static FIXED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A map of the job.
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, HashState>;
/// A set of the job.
pub(crate) type Set<K> = hashbrown::HashSet<K, HashState>;

/// How one map hashes.
#[derive(Clone)]
pub(crate) struct HashState(SeedableRandomState);

impl Default for HashState {
    fn default() -> Self {
        Self(
            FIXED
                .get()
                .map_or_else(SeedableRandomState::random, |seed| {
                    SeedableRandomState::with_seed(seed, SharedSeed::global_fixed())
                }),
        )
    }
}

impl BuildHasher for HashState {
    type Hasher = FoldHasher<'static>;

    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}

/// From here on the maps made on this thread hash as the seed says.
pub(crate) fn fix(seed: u64) {
    FIXED.set(Some(seed));
}
