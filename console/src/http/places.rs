//! How many connections the listener bears: in all, of one peer, and beyond that for probes.
//!
//! An orchestrator that gets no answer restarts the process. So a connection beyond a limit is not
//! left waiting: it takes one of a few places that answer `/livez` and `/readyz` alone, and for a
//! few seconds. When those are taken too, the oldest of them makes room, because a probe sends its
//! request at once and an idle connection does not.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::task::AbortHandle;

use super::pace::Pace;

/// What the listener bears.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Of them, those of one peer: one client alone must not take them all.
    pub(crate) of_peer: usize,
    /// Connections beyond those, for probes only.
    pub(crate) probes: usize,
    /// After this time a connection ends with the answer that it sends.
    pub(crate) age: Duration,
    /// A connection for probes ends after this time, whatever it does.
    pub(crate) probe_age: Duration,
    /// How fast a client must read.
    pub(crate) pace: Pace,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            // All 64 browsers of the live page may be one: a proxy in front of the process.
            of_peer: 192,
            probes: 16,
            age: Duration::from_secs(600),
            probe_age: Duration::from_secs(5),
            pace: Pace::default(),
        }
    }
}

/// The connections of each peer; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// No entry has zero connections, so there are at most as many entries as connections.
    of_peer: HashMap<IpAddr, usize>,
}

impl Places {
    /// A place for a connection of `peer`; none if all are taken, or all that one peer may have.
    pub(super) fn take(&self, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let peer = network(peer);
        let mut taken = self.lock();
        let of_peer = taken.of_peer.get(&peer).copied().unwrap_or(0);
        if taken.all >= limits.connections || of_peer >= limits.of_peer {
            return None;
        }
        taken.all += 1;
        taken.of_peer.insert(peer, of_peer + 1);
        Some(Place {
            places: self.clone(),
            peer,
        })
    }

    /// Both counts change together, so a poisoned lock still guards valid counts.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection, given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(of_peer) = taken.of_peer.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.of_peer.remove(&self.peer);
            }
        }
    }
}

/// What counts as one peer: an IPv4 address, or the 64 bits of an IPv6 network, whose hosts choose
/// the other bits freely.
pub(super) fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

/// The connections for probes, oldest first.
#[derive(Debug, Default)]
pub(super) struct Probes(VecDeque<AbortHandle>);

impl Probes {
    /// Adds a connection; ends the oldest ones beyond the limit.
    pub(super) fn add(&mut self, connection: AbortHandle, limits: &Limits) {
        self.0.retain(|older| !older.is_finished());
        while self.0.len() >= limits.probes.max(1) {
            if let Some(oldest) = self.0.pop_front() {
                oldest.abort();
            }
        }
        self.0.push_back(connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_of_one_peer_and_given_back() {
        let (places, limits) = (
            Places::default(),
            Limits {
                connections: 3,
                of_peer: 2,
                ..Limits::default()
            },
        );
        let take = |peer: &str| places.take(peer.parse().expect("an address"), &limits);
        let first = take("10.0.0.1").expect("free");
        let _second = take("10.0.0.1").expect("free");
        assert!(take("10.0.0.1").is_none(), "two of one peer");
        let _third = take("10.0.0.2").expect("free");
        assert!(take("10.0.0.3").is_none(), "three in all");
        drop(first);
        assert!(take("10.0.0.1").is_some());
        assert_eq!(
            places.lock().of_peer.len(),
            2,
            "no entry without a connection"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let network = |text: &str| network(text.parse().expect("an address")).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(network("127.0.0.1"), "127.0.0.1");
    }
}
