//! Views in memory. They are kept, checked against the invariants and read like bars.

use std::{collections::BTreeMap, ops::Range};

use tapeflow_schemas::{
    StoredView, View, ViewKey, ViewState, ViewWrite, WindowSize, WindowStart, WriteTimestamp,
};

use super::{Held, MemoryStore, breach};

impl MemoryStore {
    /// All views, by key, each with its last write timestamp.
    #[must_use]
    pub fn all_views(&self) -> Vec<(ViewKey, WriteTimestamp, ViewState)> {
        let held = self.held();
        let last = |(key, writes): (&ViewKey, &BTreeMap<WriteTimestamp, ViewState>)| {
            writes
                .last_key_value()
                .map(|(write_timestamp, state)| (*key, *write_timestamp, state.clone()))
        };
        held.views.iter().filter_map(last).collect()
    }
}

impl Held {
    pub(super) fn write_view(&mut self, view: &ViewWrite) {
        self.inspect_view(view);
        // Of two contents at one write timestamp the first stays, as with bars.
        self.views
            .entry(view.key)
            .or_default()
            .entry(view.write_timestamp)
            .or_insert_with(|| view.state.clone());
    }

    /// Checks I2, I3 and I4, which hold for views as for bars.
    fn inspect_view(&mut self, view: &ViewWrite) {
        if let Some(checkpoint) = &self.checkpoint
            && view.state.epoch > checkpoint.last_binding().epoch
        {
            self.violations.push(format!(
                "I2: {} is written as of epoch {}, which is not bound",
                view.key, view.state.epoch
            ));
        }
        for (write_timestamp, state) in self.views.get(&view.key).into_iter().flatten() {
            // An epoch has one view. How many symbols are in reserve depends on the changes before,
            // so only a repeated write must repeat it.
            let same = if *write_timestamp == view.write_timestamp {
                *state == view.state
            } else {
                state.entries == view.state.entries
            };
            if let Some(fault) = breach(
                (*write_timestamp, state.epoch),
                (view.write_timestamp, view.state.epoch),
                same,
            ) {
                self.violations.push(format!(
                    "{fault}: {}, at {write_timestamp} {state:?}, at {} {:?}",
                    view.key, view.write_timestamp, view.state
                ));
            }
        }
    }

    pub(super) fn views(
        &self,
        view: View,
        size: WindowSize,
        range: Range<WindowStart>,
    ) -> Vec<StoredView> {
        if range.is_empty() {
            return Vec::new();
        }
        let key = |start| ViewKey { view, size, start };
        let last = |(key, writes): (&ViewKey, &BTreeMap<WriteTimestamp, ViewState>)| {
            writes.last_key_value().map(|(_, state)| StoredView {
                start: key.start,
                state: state.clone(),
            })
        };
        self.views
            .range(key(range.start)..key(range.end))
            .filter_map(last)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{
        Binding, CasOutcome, Checkpoint, CheckpointStore, Cut, EpochStore, EpochWrites,
        SourceIdentity, checkpoint::CHECKPOINT_FORMAT,
    };
    use tapeflow_schemas::{QuoteCurrency, ViewEntry};

    use super::*;

    fn market(epoch: u64, write_timestamp: WriteTimestamp, trades: u64) -> EpochWrites {
        let key = ViewKey {
            view: View::Market,
            size: WindowSize::DEFAULTS[1],
            start: 0,
        };
        let entry = ViewEntry {
            quote: QuoteCurrency::USD,
            name: "stock".into(),
            symbols: 1,
            trades,
            volume: None,
            notional: Some(1),
            open: None,
            close: None,
        };
        EpochWrites {
            views: vec![ViewWrite {
                key,
                state: ViewState::new(epoch, vec![entry]),
                write_timestamp,
            }],
            ..EpochWrites::default()
        }
    }

    /// A checkpoint with b = 5.
    fn checkpoint() -> Checkpoint {
        let binding = |epoch: u64| Binding {
            epoch,
            write_timestamp: i64::try_from(epoch).expect("small"),
            cuts: vec![Cut::default()],
        };
        Checkpoint {
            format: CHECKPOINT_FORMAT,
            job: "tapeflow".into(),
            generation: 1,
            version: 1,
            owner: "0".repeat(32),
            fingerprint: "1".into(),
            source: SourceIdentity {
                cluster: "c".into(),
                topic: "t".into(),
                topic_id: None,
            },
            datacenter: None,
            recovery_timestamp: 0,
            last_write_timestamp: 9,
            committed: binding(0),
            bound: (1..=5).map(binding).collect(),
        }
    }

    /// Writes views (epoch, write timestamp, content) under a checkpoint with b = 5. `breach` is
    /// the violation that the last one must cause.
    async fn check(views: &[(u64, WriteTimestamp, u64)], breach: Option<&str>) {
        let store = MemoryStore::new();
        assert!(matches!(
            store.compare_and_set(None, &checkpoint()).await,
            CasOutcome::Won
        ));
        for (epoch, write_timestamp, content) in views {
            assert_eq!(store.violations(), Vec::<String>::new(), "{views:?}");
            store
                .write(&market(*epoch, *write_timestamp, *content))
                .await
                .expect("written");
        }
        let found = store.violations();
        assert_eq!(
            found.len(),
            usize::from(breach.is_some()),
            "{views:?}: {found:?}"
        );
        assert!(
            found
                .iter()
                .all(|text| breach.is_some_and(|breach| text.starts_with(breach))),
            "{views:?}: {found:?}"
        );
        let greatest = views
            .iter()
            .map(|(_, write_timestamp, _)| *write_timestamp)
            .max();
        assert_eq!(
            store
                .all_views()
                .iter()
                .map(|(_, write_timestamp, _)| Some(*write_timestamp))
                .collect::<Vec<_>>(),
            [greatest]
        );
    }

    #[tokio::test]
    async fn breaches_by_views_are_recorded() {
        check(&[(1, 1, 1), (2, 2, 2), (1, 1, 1), (2, 7, 2)], None).await;
        check(&[(1, 1, 1), (1, 1, 2)], Some("I4")).await;
        check(&[(1, 1, 1), (2, 1, 1)], Some("I4")).await;
        check(&[(2, 1, 1), (1, 2, 1)], Some("I3")).await;
        check(&[(1, 2, 1), (2, 1, 1)], Some("I3")).await;
        check(&[(1, 1, 1), (1, 2, 2)], Some("I2")).await;
        check(&[(6, 6, 1)], Some("I2")).await;
    }
}
