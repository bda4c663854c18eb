//! The dead letters at the end: what is poison in the topic, and every far-future trade, each in
//! its place, and nothing else.

use std::collections::BTreeMap;

use tapeflow_protocol::{BarReader, EpochStore};
use tapeflow_sinks::cassandra::CassandraStore;

use crate::{
    checker::{FinalComparison, Topic},
    ledger::Ledger,
    poison::DeadLetter,
    watch::patiently,
};

/// Dead letters read at most.
const LETTERS: usize = 10_000_000;

impl FinalComparison {
    /// Holds the dead letters against the topic, and makes sure that no trade of the future has
    /// made a bar.
    ///
    /// # Errors
    /// The store does not answer.
    pub(crate) async fn dead_letters(
        &mut self,
        store: &CassandraStore,
        ledger: &Ledger,
        topic: &Topic,
    ) -> Result<(), String> {
        let found = patiently(|| store.dead_letters(LETTERS)).await?;
        let mut found: BTreeMap<_, _> = found
            .into_iter()
            .map(|dead_letter| {
                (
                    dead_letter.position(),
                    DeadLetter {
                        reason: dead_letter.reason,
                        payload: dead_letter.payload,
                    },
                )
            })
            .collect();
        for (position, want) in &topic.dead_letters {
            match found.remove(position) {
                Some(have) if have == *want => self.dead_letters += 1,
                Some(have) => self.fault(format!(
                    "dead letter {position:?}: refused as {} with {} bytes, it should be {} with \
                     {}",
                    have.reason,
                    have.payload.len(),
                    want.reason,
                    want.payload.len()
                )),
                None => self.fault(format!(
                    "dead letter {position:?}: missing; it should be \
                refused as {}",
                    want.reason
                )),
            }
        }
        for (position, dead_letter) in found {
            self.fault(format!(
                "dead letter {position:?}: refused as {}, though nothing is wrong with it",
                dead_letter.reason
            ));
        }
        let futures = ledger.futures();
        for (key, bar) in futures
            .iter()
            .zip(patiently(|| store.read_bars(&futures)).await?)
        {
            self.futures += 1;
            if let Some(bar) = bar {
                self.fault(format!(
                    "{key}: a trade of the far future has made a bar, at epoch {}",
                    bar.state.epoch
                ));
            }
        }
        Ok(())
    }
}
