//! The fault schedule: faults in an order that the seed shuffles, so that every kind comes up about
//! equally often.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tapeflow_protocol::failpoint;

use crate::{
    fault::{Clocks, Fault, Pause, TopicFault, Way},
    feed_profile::FeedProfile,
    links::Link,
};

/// Kinds of which one fault schedule has only some. The next fault schedule continues where this
/// one ended, so that all come up before one repeats.
struct Round<T> {
    of: Vec<T>,
    left: Vec<T>,
}

impl<T: Clone> Round<T> {
    fn new(of: Vec<T>) -> Self {
        Self {
            of,
            left: Vec::new(),
        }
    }

    fn next(&mut self, random: &mut StdRng) -> Option<T> {
        if self.left.is_empty() {
            self.left.clone_from(&self.of);
            self.left.shuffle(random);
        }
        self.left.pop()
    }

    /// The next ones.
    fn some(&mut self, count: usize, random: &mut StdRng) -> Vec<T> {
        (0..count).filter_map(|_| self.next(random)).collect()
    }
}

/// Faults in the order in which they come.
pub(crate) struct FaultSchedule {
    random: StdRng,
    nodes: u8,
    dealt: VecDeque<Fault>,
    failpoints: Round<&'static str>,
    /// Of each link.
    networks: [Round<Fault>; 3],
    fault_schedules: usize,
    pauses: Round<Fault>,
    clocks: Round<Fault>,
    feeds: Round<Fault>,
    topic_faults: Round<Fault>,
    /// Only kinds whose names contain one of these; all if there are none.
    only: Vec<String>,
}

impl FaultSchedule {
    pub(crate) fn new(seed: u64, nodes: u8, only: Vec<String>) -> Self {
        let mut pauses = vec![Fault::PauseOne(Pause::Short), Fault::PauseAll(Pause::Short)];
        if nodes > 1 {
            // Only three nodes survive these faults.
            pauses.push(Fault::PauseAll(Pause::Long));
        }
        Self {
            random: StdRng::seed_from_u64(seed),
            nodes,
            dealt: VecDeque::new(),
            failpoints: Round::new(failpoint::NAMES.to_vec()),
            networks: Link::ALL
                .map(|link| Round::new(Way::ALL.map(|way| Fault::Network(link, way)).to_vec())),
            fault_schedules: 0,
            pauses: Round::new(pauses),
            clocks: Round::new([Clocks::OfOne, Clocks::OfAll].map(Fault::Clock).to_vec()),
            feeds: Round::new(FeedProfile::FAULTS.map(Fault::Feed).to_vec()),
            topic_faults: Round::new(TopicFault::ALL.map(Fault::TopicFault).to_vec()),
            only,
        }
    }

    /// The next fault, without taking it.
    ///
    /// # Errors
    /// If `only` names none.
    pub(crate) fn peek(&mut self) -> Result<Fault, String> {
        if self.dealt.is_empty() {
            // Of those asked for, each comes once a fault schedule.
            let mut cards = if self.only.is_empty() {
                self.cards()
            } else {
                self.all()
            };
            cards.retain(|fault| {
                self.only.is_empty()
                    || self
                        .only
                        .iter()
                        .any(|word| fault.kind().contains(word.as_str()))
            });
            cards.shuffle(&mut self.random);
            self.dealt.extend(cards);
        }
        let none = || {
            format!(
                "--only {}: no kind of fault on {} node(s) has any of these words in its name",
                self.only.join(","),
                self.nodes
            )
        };
        self.dealt.front().cloned().ok_or_else(none)
    }

    /// The next fault.
    ///
    /// # Errors
    /// If `only` names none.
    pub(crate) fn next_fault(&mut self) -> Result<Fault, String> {
        let next = self.peek()?;
        self.dealt.pop_front();
        Ok(next)
    }

    /// Whether topics will be damaged.
    pub(crate) fn has_topic_faults(&self) -> bool {
        let is_asked_for = |fault: &Fault| {
            self.only
                .iter()
                .any(|word| fault.kind().contains(word.as_str()))
        };
        if self.only.is_empty() {
            self.nodes > 1
        } else {
            self.topic_faults.of.iter().any(is_asked_for)
        }
    }

    /// A fault schedule: with one node of each server 25 faults, with three 27.
    fn cards(&mut self) -> Vec<Fault> {
        let mut cards = Vec::new();
        for name in self
            .failpoints
            .some(if self.nodes == 1 { 11 } else { 6 }, &mut self.random)
        {
            cards.push(self.failpoint(name));
        }
        cards.extend([
            Fault::KillOne,
            Fault::KillAll,
            Fault::KillSupervisor,
            Fault::PauseOne(Pause::Long),
        ]);
        cards.extend([Fault::Zombies, Fault::Overtake, Fault::Rescale]);
        cards.push(Fault::KillIngest);
        // With three nodes a fault schedule has two of one link.
        let twice = (self.nodes > 1).then_some(self.fault_schedules % self.networks.len());
        for (at, ways) in self.networks.iter_mut().enumerate() {
            cards.extend(ways.some(if twice == Some(at) { 2 } else { 1 }, &mut self.random));
        }
        self.fault_schedules += 1;
        cards.extend(self.clocks.next(&mut self.random));
        cards.extend(self.feeds.next(&mut self.random));
        cards.extend(self.pauses.next(&mut self.random));
        if self.nodes > 1 {
            cards.extend([
                Fault::KillCassandra,
                Fault::KillTwoCassandra,
                Fault::KillBroker,
                Fault::KillController,
            ]);
            cards.push(if self.random.random_bool(0.5) {
                Fault::KillOne
            } else {
                Fault::KillAll
            });
            cards.extend(self.topic_faults.next(&mut self.random));
        }
        cards
    }

    /// One of each kind.
    fn all(&mut self) -> Vec<Fault> {
        let mut cards: Vec<Fault> = failpoint::NAMES
            .into_iter()
            .map(|name| self.failpoint(name))
            .collect();
        cards.extend([
            Fault::KillOne,
            Fault::KillAll,
            Fault::KillSupervisor,
            Fault::Zombies,
            Fault::Overtake,
            Fault::Rescale,
            Fault::KillIngest,
        ]);
        cards.push(Fault::PauseOne(Pause::Long));
        if self.nodes > 1 {
            cards.extend([
                Fault::KillCassandra,
                Fault::KillTwoCassandra,
                Fault::KillBroker,
                Fault::KillController,
            ]);
        }
        for round in self.networks.iter().chain([
            &self.pauses,
            &self.clocks,
            &self.feeds,
            &self.topic_faults,
        ]) {
            cards.extend(round.of.iter().cloned());
        }
        cards
    }

    fn failpoint(&mut self, name: &'static str) -> Fault {
        // A process passes some places once in its job run, and others several times a second.
        let most = match name {
            "take-over-before" | "take-over-after" | "replay-release" | "bind-before"
            | "bind-after" => 1,
            // Once an epoch.
            "history-written" | "commit-before" | "commit-after" | "committed-heard" => 15,
            _ => 40,
        };
        // Mostly early: just after a take-over, in the replay's own writes.
        let times = if self.random.random_bool(0.5) {
            1
        } else {
            self.random.random_range(1..=most)
        };
        Fault::Failpoint { name, times }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn kinds(nodes: u8, cycles: usize) -> BTreeMap<String, usize> {
        let mut fault_schedule = FaultSchedule::new(7, nodes, Vec::new());
        let mut kinds = BTreeMap::new();
        (0..cycles).for_each(|_| {
            *kinds
                .entry(fault_schedule.next_fault().expect("a fault").kind())
                .or_default() += 1
        });
        kinds
    }

    #[test]
    fn a_seed_deals_the_same_faults_again_and_a_long_run_has_all_of_them() {
        let deal = |mut fault_schedule: FaultSchedule| {
            (0..60)
                .map(|_| fault_schedule.next_fault().expect("a fault"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            deal(FaultSchedule::new(7, 1, Vec::new())),
            deal(FaultSchedule::new(7, 1, Vec::new()))
        );
        let all = kinds(3, 216);
        assert_eq!(
            all.len(),
            failpoint::NAMES.len() + 15 + 12 + 2 + 3 + 3,
            "{all:?}"
        );
        assert_eq!(all["kill -9 of two Cassandra nodes of three"], 8);
        assert!(
            all.iter()
                .filter(|(kind, _)| kind.starts_with("link"))
                .all(|(_, times)| (2..=3).contains(times)),
            "{all:?}"
        );
        let ci = kinds(1, 25);
        assert_eq!(ci.len(), 25, "{ci:?}");
        assert!(
            kinds(1, 200)
                .keys()
                .all(|kind| !kind.contains("-9 of a broker")
                    && !kind.contains("Cassandra node")
                    && !kind.contains("topic"))
        );
    }

    #[test]
    fn only_what_is_asked_for_is_dealt_and_each_kind_as_often() {
        let mut fault_schedule = FaultSchedule::new(1, 3, vec!["link".into(), "topic".into()]);
        let mut kinds = BTreeMap::<String, u32>::new();
        (0..30).for_each(|_| {
            *kinds
                .entry(fault_schedule.next_fault().expect("a fault").kind())
                .or_default() += 1
        });
        assert_eq!(kinds.len(), 15);
        assert!(kinds.values().all(|times| *times == 2), "{kinds:?}");
        assert!(
            FaultSchedule::new(1, 1, vec!["controller".into()])
                .next_fault()
                .is_err()
        );
    }
}
