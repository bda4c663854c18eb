//! Hash maps of the hot path, with a fast hash.
//!
//! Each map has its own random seed, so that a feed cannot choose symbols that collide. A
//! simulation fixes the seed on its thread, so that the iteration order of maps is the same in
//! every run.

use std::{cell::Cell, hash::BuildHasher};

use foldhash::{
    SharedSeed,
    fast::{FoldHasher, SeedableRandomState},
};

thread_local! {
    static FIXED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A hash map with [`HashState`].
pub(crate) type Map<K, V> = hashbrown::HashMap<K, V, HashState>;
/// A hash set with [`HashState`].
pub(crate) type Set<K> = hashbrown::HashSet<K, HashState>;

/// The hasher of one map.
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

/// Fixes the seed of all maps that this thread creates from now on.
pub(crate) fn fix_seed(seed: u64) {
    FIXED.set(Some(seed));
}
