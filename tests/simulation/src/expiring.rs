//! Packed bars that leave the store beside a running job, as `tapeflow expire` removes them: read at
//! quorum, and written again without what is beyond its horizon, whatever the job does meanwhile.

use tapeflow_protocol::Expiry;
use tapeflow_schemas::{BarKey, BarWrite, PackedBars, WriteTimestamp};

use crate::{replica::Item, world::World};

/// The most minutes of one removal.
const MINUTES: usize = 4;

/// Whether a bar may have left the store, so that its absence is right.
pub(crate) fn may_have_left(expiry: Option<&Expiry>, key: &BarKey) -> bool {
    expiry.is_some_and(|expiry| {
        key.size.is_packed() && expiry.may_have_left(&key.symbol, key.size, key.start)
    })
}

impl World {
    /// What may leave the store now; `None` before the first commit.
    pub(crate) fn expiry(&self) -> Option<Expiry> {
        let checkpoint = self.checker.checkpoint()?;
        Some(Expiry::of(&checkpoint, self.checker.horizons.clone()))
    }

    /// Begins to remove packed bars from some minutes, every `step`th that has them.
    pub(crate) fn expire(&mut self, step: usize) {
        let Some(expiry) = self.expiry() else { return };
        let (bars, _) = self.checker.cells();
        let packed = bars.iter().filter(|key| may_have_left(Some(&expiry), key));
        let mut rows: Vec<BarKey> = packed.map(BarKey::row).collect();
        rows.dedup();
        let rows: Vec<BarKey> = rows.into_iter().step_by(step).take(MINUTES).collect();
        if rows.is_empty() {
            return;
        }
        self.read(rows, Vec::new(), move |world, found, _| {
            for (key, (at, row)) in found {
                let without = expiry.minute_without(key.start, &row, at);
                let Some((row, write_timestamp)) = without.expect("the job encodes them well")
                else {
                    continue;
                };
                world.one_content(&key, write_timestamp, &row.packed);
                world.checker.checked.expired += 1;
                let write = Item::Row(Box::new(BarWrite {
                    key,
                    state: row.state,
                    packed: row.packed,
                    write_timestamp,
                }));
                for replica in 0..world.replicas.len() {
                    let write = write.clone();
                    world.message(move |world| world.arrive(replica, vec![write], None));
                }
            }
        });
    }

    /// Every write of a row at one write timestamp is the same (I4).
    fn one_content(&mut self, key: &BarKey, at: WriteTimestamp, packed: &PackedBars) {
        let place = (key.clone(), at);
        let known = self
            .checker
            .expired
            .entry(place)
            .or_insert_with(|| packed.clone());
        if known != packed {
            let breach = format!("I4: {key} left packed bars twice at {at} with other content");
            self.checker.breach(breach);
        }
    }
}
