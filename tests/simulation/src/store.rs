//! The store of the simulation, as one generation sees it: three replicas behind a network that
//! loses, doubles, delays and reorders messages. The compare-and-set of the checkpoint is
//! linearizable, and its answers may be lost.
//!
//! A request that was sent belongs to the world. Whether it arrives does not depend on its sender.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use rand::Rng;
use tapeflow_protocol::{
    CasOutcome, Checkpoint, CheckpointStore, EpochStore, EpochWrites, HistoryEntry, StoreError,
    SymbolDirectory,
};
use tapeflow_schemas::{AssetClass, BarKey, BarRow, Symbol, ViewKey, ViewState, WriteTimestamp};
use tokio::sync::oneshot;

use crate::{
    replica::Item,
    world::{QUORUM, REPLICAS, Shared, World},
};

/// The timeout of a request.
const PATIENCE_US: u64 = 1_500_000;

/// One generation's access to the store.
pub(crate) struct SimulatedStore {
    pub(crate) world: Shared,
}

/// Where the answer goes; only the first answer counts.
pub(crate) struct Reply<T>(Arc<Mutex<Option<oneshot::Sender<T>>>>);

impl<T> Clone for Reply<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Send + 'static> Reply<T> {
    fn new() -> (Self, oneshot::Receiver<T>) {
        let (send, receive) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(send)))), receive)
    }

    fn send(&self, answer: T) {
        if let Some(send) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // The sender may be dead.
            let _ = send.send(answer);
        }
    }
}

/// Acknowledges an item to its sender. Hints have no sender that waits.
pub(crate) type Acknowledge = Arc<dyn Fn() + Send + Sync>;

/// The cells of one read, by key, with their write timestamps.
pub(crate) type Cells<K, V> = BTreeMap<K, (WriteTimestamp, V)>;

impl SimulatedStore {
    /// Sends a request to the world and waits. A request that the world drops has no answer.
    async fn ask<T: Send + 'static>(&self, begin: impl FnOnce(&mut World, Reply<T>)) -> T {
        let (reply, answer) = Reply::new();
        begin(&mut self.world.world(), reply);
        match answer.await {
            Ok(answer) => answer,
            Err(_) => std::future::pending().await,
        }
    }

    /// Writes items to all replicas; answered when a quorum has each.
    async fn quorum(&self, items: Vec<Item>) -> Result<(), StoreError> {
        if items.is_empty() {
            return Ok(());
        }
        self.ask(|world, reply| world.write(items, &reply)).await
    }
}

fn unanswered<T>(reply: &Reply<Result<T, StoreError>>)
where
    T: Send + 'static,
{
    reply.send(Err(StoreError::Unavailable("simulated".into())));
}

impl World {
    fn write(&mut self, items: Vec<Item>, reply: &Reply<Result<(), StoreError>>) {
        // Statements travel alone or in groups.
        let together = if self.chance(0.3) {
            1
        } else {
            self.random.random_range(1..16)
        };
        let chunks: Vec<Vec<Item>> = items.chunks(together).map(<[Item]>::to_vec).collect();
        let acknowledgements = Arc::new(Mutex::new(vec![[false; REPLICAS]; chunks.len()]));
        for (at, chunk) in chunks.into_iter().enumerate() {
            for replica in 0..REPLICAS {
                let (chunk, acknowledgements, reply) =
                    (chunk.clone(), Arc::clone(&acknowledgements), reply.clone());
                let acknowledge: Acknowledge = Arc::new(move || {
                    let mut held = acknowledgements
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    held[at][replica] = true;
                    if held
                        .iter()
                        .all(|by| by.iter().filter(|has| **has).count() >= QUORUM)
                    {
                        reply.send(Ok(()));
                    }
                });
                self.message(move |world| world.arrive(replica, chunk, Some(acknowledge)));
            }
        }
        let reply = reply.clone();
        self.after(PATIENCE_US, move |_| unanswered(&reply));
    }

    /// Delivers items to a replica.
    pub(crate) fn arrive(
        &mut self,
        replica: usize,
        items: Vec<Item>,
        acknowledge: Option<Acknowledge>,
    ) {
        if self.down[replica] {
            // Another replica may have kept a hint, and delivers it when this one is back or much
            // later.
            if self.chance(0.5) {
                let delay_us = self.random.random_range(100_000..30_000_000);
                self.after(delay_us, move |world| world.arrive(replica, items, None));
            }
            return;
        }
        items
            .into_iter()
            .for_each(|item| self.replicas[replica].apply(item));
        if let Some(acknowledge) = acknowledge {
            self.message(move |_| acknowledge());
        }
    }

    /// Reads cells of two replicas, one after the other; the newer cell wins. With read repair,
    /// both replicas have the newer cell before the answer is sent.
    pub(crate) fn read(
        &mut self,
        bars: Vec<BarKey>,
        views: Vec<ViewKey>,
        done: impl FnOnce(&mut Self, Cells<BarKey, BarRow>, Cells<ViewKey, ViewState>) + Send + 'static,
    ) {
        let first = self.random.random_range(0..REPLICAS);
        let second = (first + self.random.random_range(1..REPLICAS)) % REPLICAS;
        let (one_us, other_us, back_us) = (self.latency_us(), self.latency_us(), self.latency_us());
        if self.chance(self.network_profile.lost) {
            return;
        }
        self.after(one_us, move |world| {
            if world.down[first] {
                return;
            }
            let found = world.cells(first, &bars, &views);
            world.after(other_us, move |world| {
                if world.down[second] {
                    return;
                }
                let other = world.cells(second, &bars, &views);
                let (bar_cells, lagging_bars) = newest(&[found.0, other.0]);
                let (view_cells, lagging_views) = newest(&[found.1, other.1]);
                let item = |key: &BarKey| {
                    bar_cells
                        .get(key)
                        .map(|(write_timestamp, row)| (key.clone(), *write_timestamp, row.clone()))
                };
                let mut repairs: Vec<(usize, Item)> = Vec::new();
                for (at, key) in &lagging_bars {
                    if let Some((key, write_timestamp, row)) = item(key) {
                        repairs.push((
                            [first, second][*at],
                            Item::Row(Box::new(tapeflow_schemas::BarWrite {
                                key,
                                state: row.state,
                                packed: row.packed,
                                write_timestamp,
                            })),
                        ));
                    }
                }
                for (at, key) in &lagging_views {
                    if let Some((write_timestamp, state)) = view_cells.get(key) {
                        repairs.push((
                            [first, second][*at],
                            Item::View(tapeflow_schemas::ViewWrite {
                                key: *key,
                                state: state.clone(),
                                write_timestamp: *write_timestamp,
                            }),
                        ));
                    }
                }
                let repair_us = if world.network_profile.repair && !repairs.is_empty() {
                    world.latency_us()
                } else {
                    0
                };
                world.after(repair_us, move |world| {
                    if world.network_profile.repair {
                        if repairs.iter().any(|(replica, _)| world.down[*replica]) {
                            return;
                        }
                        for (replica, item) in repairs {
                            world.replicas[replica].apply(item);
                        }
                    }
                    world.after(back_us, move |world| done(world, bar_cells, view_cells));
                });
            });
        });
    }

    fn cells(
        &self,
        replica: usize,
        bars: &[BarKey],
        views: &[ViewKey],
    ) -> (Cells<BarKey, BarRow>, Cells<ViewKey, ViewState>) {
        let replica = &self.replicas[replica];
        (
            bars.iter()
                .filter_map(|key| Some((key.clone(), replica.bars.get(key)?.clone())))
                .collect(),
            views
                .iter()
                .filter_map(|key| Some((*key, replica.views.get(key)?.clone())))
                .collect(),
        )
    }
}

/// The newer cells of two replicas, and for each replica the cells that it lacks.
fn newest<K: Ord + Clone, V: Clone>(found: &[Cells<K, V>; 2]) -> (Cells<K, V>, Vec<(usize, K)>) {
    let mut newest: Cells<K, V> = BTreeMap::new();
    for (key, cell) in found.iter().flatten() {
        if newest.get(key).is_none_or(|held| held.0 < cell.0) {
            newest.insert(key.clone(), cell.clone());
        }
    }
    let lagging = |at: usize| {
        let mine = &found[at];
        newest
            .iter()
            .filter(move |(key, cell)| mine.get(*key).is_none_or(|held| held.0 < cell.0))
            .map(move |(key, _)| (at, key.clone()))
    };
    let lagging: Vec<(usize, K)> = (0..2).flat_map(lagging).collect();
    (newest, lagging)
}

#[async_trait]
impl CheckpointStore for SimulatedStore {
    fn describe(&self) -> String {
        "simulated".into()
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, StoreError> {
        self.ask(|world, reply| {
            let late = reply.clone();
            world.after(PATIENCE_US, move |_| unanswered(&late));
            world.message(move |world| {
                let checkpoint = world.checker.checkpoint();
                world.message(move |_| reply.send(Ok(checkpoint)));
            });
        })
        .await
    }

    async fn compare_and_set(
        &self,
        expected: Option<&Checkpoint>,
        proposed: &Checkpoint,
    ) -> CasOutcome {
        let (expected, proposed) = (expected.cloned(), proposed.clone());
        self.ask(|world, reply| {
            let late = reply.clone();
            let answer_us = if world.chance(world.network_profile.unknown) {
                world.latency_us()
            } else {
                PATIENCE_US
            };
            world.after(answer_us, move |_| {
                late.send(CasOutcome::Unknown("simulated".into()))
            });
            // It arrives once or not at all: before its sender's timeout or long after it.
            if world.chance(world.network_profile.lost) {
                return;
            }
            let delay_us = world.latency_us();
            world.after(delay_us, move |world| {
                let won = world.compare_and_set(expected.as_ref(), &proposed);
                world.message(move |_| {
                    reply.send(if won {
                        CasOutcome::Won
                    } else {
                        CasOutcome::Lost
                    })
                });
            });
        })
        .await
    }

    async fn write_history(
        &self,
        entries: &[HistoryEntry],
        recovery_timestamp: WriteTimestamp,
    ) -> Result<(), StoreError> {
        let entries = entries.to_vec();
        self.ask(|world, reply| {
            let late = reply.clone();
            world.after(PATIENCE_US, move |_| unanswered(&late));
            world.message(move |world| {
                for entry in entries {
                    world.checker.write_history(entry, recovery_timestamp);
                }
                world.message(move |_| reply.send(Ok(())));
            });
        })
        .await
    }
}

#[async_trait]
impl EpochStore for SimulatedStore {
    async fn read_bars(&self, keys: &[BarKey]) -> Result<Vec<Option<BarRow>>, StoreError> {
        let keys = keys.to_vec();
        self.ask(|world, reply| {
            let late = reply.clone();
            world.after(PATIENCE_US, move |_| unanswered(&late));
            let asked = keys.clone();
            world.read(keys, Vec::new(), move |_, bars, _| {
                reply.send(Ok(asked
                    .iter()
                    .map(|key| bars.get(key).map(|(_, row)| row.clone()))
                    .collect()));
            });
        })
        .await
    }

    async fn read_views(&self, keys: &[ViewKey]) -> Result<Vec<Option<ViewState>>, StoreError> {
        let keys = keys.to_vec();
        self.ask(|world, reply| {
            let late = reply.clone();
            world.after(PATIENCE_US, move |_| unanswered(&late));
            let asked = keys.clone();
            world.read(Vec::new(), keys, move |_, _, views| {
                reply.send(Ok(asked
                    .iter()
                    .map(|key| views.get(key).map(|(_, state)| state.clone()))
                    .collect()));
            });
        })
        .await
    }

    async fn write(&self, writes: &EpochWrites) -> Result<(), StoreError> {
        self.world.world().checker.sent(writes);
        self.quorum(
            writes
                .directory
                .iter()
                .cloned()
                .map(Item::Directory)
                .collect(),
        )
        .await?;
        let bars = writes.bars.iter().cloned().map(Box::new).map(Item::Row);
        let views = writes.views.iter().cloned().map(Item::View);
        self.quorum(
            bars.chain(views)
                .chain(writes.dead_letters.iter().cloned().map(Item::DeadLetter))
                .collect(),
        )
        .await
    }
}

#[async_trait]
impl SymbolDirectory for SimulatedStore {
    async fn symbols(&self) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        self.ask(|world, reply| {
            let late = reply.clone();
            world.after(PATIENCE_US, move |_| unanswered(&late));
            let first = world.random.random_range(0..REPLICAS);
            let second = (first + world.random.random_range(1..REPLICAS)) % REPLICAS;
            world.message(move |world| {
                if world.down[first] || world.down[second] {
                    return;
                }
                let entries = world.replicas[first]
                    .directory
                    .union(&world.replicas[second].directory);
                let mut symbols: Vec<_> = entries
                    .map(|entry| (entry.symbol.clone(), entry.symbol.class()))
                    .collect();
                symbols.dedup();
                world.message(move |_| reply.send(Ok(symbols)));
            });
        })
        .await
    }
}
