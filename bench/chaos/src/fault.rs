//! What is done in a cycle, dealt from a deck that the seed shuffles: so every kind comes up about as often, and a run of a deck's length has all of them.

use std::collections::VecDeque;

use rand::{
    Rng, SeedableRng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use tapeflow_sinks::failpoint;

/// Who does not answer for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pause {
    /// Shorter than the pulse between processes can bear: nobody need notice.
    Short,
    /// Longer: the others leave.
    Long,
}

/// What happens to the job or its servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// kill -9 of one process of several.
    KillOne,
    /// kill -9 of all, also while the next ones take over and replay.
    KillAll,
    /// kill -9 of a supervisor; its process dies with it.
    KillSupervisor,
    /// SIGSTOP, then SIGCONT, of one process of several.
    PauseOne(Pause),
    /// The same of all at once.
    PauseAll(Pause),
    /// All are stopped, others are started in their place, and then they wake.
    Zombies,
    /// Others are started beside running ones.
    Overtake,
    /// One process ends itself at a place of the protocol, when it comes there for the nth time.
    Failpoint {
        /// One of [`failpoint::NAMES`].
        name: &'static str,
        /// The nth time.
        times: u32,
    },
    /// All are asked to end, and started again with another number of processes and workers.
    Rescale,
    /// kill -9 of one Cassandra node.
    KillCassandra,
    /// kill -9 of two Cassandra nodes of three: everything stands still until they are back.
    KillTwoCassandra,
    /// kill -9 of a broker that is not the controller.
    KillBroker,
    /// kill -9 of the controller.
    KillController,
}

/// What a fault wants of the processes it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) several: bool,
    /// With a supervisor each, or without; none if it does not matter.
    pub(crate) supervised: Option<bool>,
}

impl Fault {
    /// Its kind, for the report.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::KillOne => "kill -9 of one process".into(),
            Self::KillAll => "kill -9 of all processes, also while they take over".into(),
            Self::KillSupervisor => "kill -9 of a supervisor".into(),
            Self::PauseOne(Pause::Short) => "SIGSTOP of one process for 3 s".into(),
            Self::PauseOne(Pause::Long) => "SIGSTOP of one process for 15 s".into(),
            Self::PauseAll(Pause::Short) => "SIGSTOP of all processes for 3 s".into(),
            Self::PauseAll(Pause::Long) => "SIGSTOP of all processes for 15 s".into(),
            Self::Zombies => "stopped, replaced, woken".into(),
            Self::Overtake => "a second job under the same name".into(),
            Self::Failpoint { name, .. } => format!("failpoint {name}"),
            Self::Rescale => "asked to end, other workers and processes".into(),
            Self::KillCassandra => "kill -9 of one Cassandra node".into(),
            Self::KillTwoCassandra => "kill -9 of two Cassandra nodes of three".into(),
            Self::KillBroker => "kill -9 of a broker".into(),
            Self::KillController => "kill -9 of the controller".into(),
        }
    }

    pub(crate) fn wants(&self) -> Wants {
        match self {
            Self::KillOne | Self::PauseOne(_) => Wants { several: true, supervised: None },
            Self::KillSupervisor => Wants { several: true, supervised: Some(true) },
            // A supervised zombie would be started again, and take over in turn.
            Self::Zombies => Wants { several: false, supervised: Some(false) },
            Self::KillAll
            | Self::PauseAll(_)
            | Self::Overtake
            | Self::Failpoint { .. }
            | Self::Rescale
            | Self::KillCassandra
            | Self::KillTwoCassandra
            | Self::KillBroker
            | Self::KillController => Wants { several: false, supervised: None },
        }
    }
}

/// Faults in the order in which they come.
pub(crate) struct Deck {
    random: StdRng,
    nodes: u8,
    dealt: VecDeque<Fault>,
    failpoints: VecDeque<&'static str>,
    /// Only kinds whose names contain one of these; all if there are none.
    only: Vec<String>,
}

impl Deck {
    pub(crate) fn new(seed: u64, nodes: u8, only: Vec<String>) -> Self {
        Self { random: StdRng::seed_from_u64(seed), nodes, dealt: VecDeque::new(), failpoints: VecDeque::new(), only }
    }

    /// The next fault, without taking it.
    ///
    /// # Errors
    /// If `only` names none.
    pub(crate) fn peek(&mut self) -> Result<Fault, String> {
        for _ in 0..100 {
            if let Some(next) = self.dealt.front() {
                return Ok(next.clone());
            }
            let mut cards = self.cards();
            cards.retain(|fault| self.only.is_empty() || self.only.iter().any(|word| fault.kind().contains(word.as_str())));
            self.dealt.extend(cards);
        }
        Err(format!("--only {}: no kind of fault on {} node(s) has any of these words in its name", self.only.join(","), self.nodes))
    }

    /// The next fault.
    ///
    /// # Errors
    /// If `only` names none.
    pub(crate) fn deal(&mut self) -> Result<Fault, String> {
        let next = self.peek()?;
        self.dealt.pop_front();
        Ok(next)
    }

    /// A deck: with one node of each server 25 faults, all failpoints among them; with three 20.
    fn cards(&mut self) -> Vec<Fault> {
        let failpoints = if self.nodes == 1 { failpoint::NAMES.len() } else { 6 };
        let mut cards: Vec<Fault> = (0..failpoints).map(|_| self.failpoint()).collect();
        cards.extend([Fault::KillOne, Fault::KillAll, Fault::KillSupervisor, Fault::PauseOne(Pause::Long)]);
        cards.extend([Fault::Zombies, Fault::Overtake, Fault::Rescale]);
        let pauses = [Fault::PauseOne(Pause::Short), Fault::PauseAll(Pause::Short), Fault::PauseAll(Pause::Long)];
        if self.nodes == 1 {
            cards.extend(pauses.into_iter().filter(|pause| *pause != Fault::PauseAll(Pause::Long)));
        } else {
            // Only there do servers survive it.
            cards.extend([Fault::KillCassandra, Fault::KillTwoCassandra, Fault::KillBroker, Fault::KillController]);
            cards.extend([Fault::KillOne, Fault::KillAll]);
            cards.extend(pauses.choose(&mut self.random).cloned());
        }
        cards.shuffle(&mut self.random);
        cards
    }

    fn failpoint(&mut self) -> Fault {
        if self.failpoints.is_empty() {
            let mut names = failpoint::NAMES.to_vec();
            names.shuffle(&mut self.random);
            self.failpoints.extend(names);
        }
        let name = self.failpoints.pop_front().unwrap_or(failpoint::NAMES[0]);
        // What a process passes once in its life, or seldom; and what it passes several times a second.
        let most = match name {
            "take-over-before" | "take-over-after" | "replay-release" | "bind-before" | "bind-after" => 1,
            _ => 40,
        };
        // Mostly early: just after a take-over, in the replay's own writes.
        let times = if self.random.random_bool(0.5) { 1 } else { self.random.random_range(1..=most) };
        Fault::Failpoint { name, times }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn kinds(nodes: u8, cycles: usize) -> Vec<Fault> {
        let mut deck = Deck::new(7, nodes, Vec::new());
        (0..cycles).map(|_| deck.deal().expect("a fault")).collect()
    }

    #[test]
    fn a_seed_deals_the_same_faults_again_and_a_long_run_has_all_of_them() {
        assert_eq!(kinds(1, 60), kinds(1, 60));
        let all: BTreeSet<String> = kinds(3, 200).iter().map(Fault::kind).collect();
        assert_eq!(all.len(), failpoint::NAMES.len() + 14, "{all:?}");
        let often = kinds(3, 200).iter().filter(|fault| **fault == Fault::KillTwoCassandra).count();
        assert_eq!(often, 10);
        assert!(kinds(1, 200).iter().all(|fault| !fault.kind().contains("Cassandra") && !fault.kind().contains("broker")));
        let all: BTreeSet<String> = kinds(1, 25).iter().map(Fault::kind).collect();
        assert_eq!(all.len(), 25, "{all:?}");
    }

    #[test]
    fn only_what_is_asked_for_is_dealt() {
        let mut deck = Deck::new(1, 3, vec!["Cassandra".into()]);
        assert!((0..20).all(|_| deck.deal().expect("a fault").kind().contains("Cassandra")));
        assert!(Deck::new(1, 1, vec!["Cassandra".into()]).deal().is_err());
    }
}
