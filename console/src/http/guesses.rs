//! Slows down who guesses the password.
//!
//! After a wrong password, the next ones of the same peer are compared one at a time, a second
//! apart, right or wrong: if a right one were answered at once, a guesser would wait for no other
//! answer. A right password ends that.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The time between two comparisons.
const APART: Duration = Duration::from_secs(1);
/// A request waits at most this long for its comparison; further ones are refused unseen.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Peers that are remembered. Beyond, the one whose turn is over longest is forgotten.
const PEERS: usize = 1_024;

/// When a password may be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Now.
    Now,
    /// After this time.
    After(Duration),
    /// Too many wait already.
    Refused,
}

/// The peers that have sent a wrong password.
#[derive(Debug, Default)]
pub(super) struct Guesses(Mutex<HashMap<IpAddr, Instant>>);

impl Guesses {
    /// The turn of a request of `peer`.
    pub(super) fn turn(&self, peer: IpAddr, now: Instant) -> Turn {
        let mut next = self.lock();
        let Some(at) = next.get_mut(&peer) else {
            return Turn::Now;
        };
        let wait = at.saturating_duration_since(now);
        if wait > LONGEST_WAIT {
            return Turn::Refused;
        }
        *at = now + wait + APART;
        Turn::After(wait)
    }

    /// `peer` has sent a wrong password.
    pub(super) fn wrong(&self, peer: IpAddr, now: Instant) {
        let mut next = self.lock();
        if next.len() >= PEERS && !next.contains_key(&peer) {
            let oldest = next.iter().min_by_key(|(_, at)| **at);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                next.remove(&oldest);
            }
        }
        let at = next.entry(peer).or_insert(now);
        *at = (*at).max(now + APART);
    }

    /// `peer` has sent the right password.
    pub(super) fn right(&self, peer: IpAddr) {
        self.lock().remove(&peer);
    }

    /// Each entry is replaced in one assignment, so a poisoned lock still guards valid entries.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn after_a_wrong_password_comparisons_are_a_second_apart_and_bounded() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        assert_eq!(guesses.turn(peer(1), now), Turn::Now);
        guesses.wrong(peer(1), now);
        let turns: Vec<Turn> = (0..12).map(|_| guesses.turn(peer(1), now)).collect();
        let after = |seconds| Turn::After(Duration::from_secs(seconds));
        assert_eq!(turns[..10], (1..=10).map(after).collect::<Vec<_>>());
        assert_eq!(turns[10..], [Turn::Refused, Turn::Refused]);
        assert_eq!(guesses.turn(peer(2), now), Turn::Now, "another peer");
        // All who waited have had their turn.
        let later = now + Duration::from_secs(30);
        assert_eq!(guesses.turn(peer(1), later), after(0));
        assert_eq!(guesses.turn(peer(1), later), after(1));
        guesses.right(peer(1));
        assert_eq!(guesses.turn(peer(1), later), Turn::Now);
    }

    #[test]
    fn the_peers_that_are_remembered_are_bounded() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for number in 0..=u32::try_from(PEERS).expect("small") {
            guesses.wrong(peer(number), now + Duration::from_millis(number.into()));
        }
        assert_eq!(guesses.lock().len(), PEERS);
        let later = now + Duration::from_millis(1_500);
        assert_eq!(
            guesses.turn(peer(0), later),
            Turn::Now,
            "the oldest is forgotten"
        );
        assert_ne!(guesses.turn(peer(1_024), later), Turn::Now);
    }
}
