//! Exploration: breadth first, over all states, until a rule is broken or nothing new is left.
//!
//! A state is kept whole only while it is queued (358 bytes). Of all others remain a
//! fingerprint of 64 bits, the number of the state it was first reached from, and which of that
//! one's steps led here: 15 to 26 bytes a state, depending on how full the table is. All in all a
//! world costs some 60 bytes a state at its peak: ten million take 0.6 GB. At ten million states
//! the chance that any two share a fingerprint, so that one is overlooked, is about 3 in a million.

use std::{
    collections::VecDeque,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    time::{Duration, Instant},
};

use hashbrown::HashSet;

use crate::{
    canon::canonical,
    fingerprint::Fingerprints,
    invariants::{Rule, Violation, check_state, is_finished},
    state::State,
    step::Step,
    steps::{BrokenStep, steps},
    worlds::World,
};

/// The outcome of an exploration.
#[derive(Debug)]
pub struct Outcome {
    /// Distinct states.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// The most steps that any state is away from the beginning.
    pub depth: usize,
    /// States in which all is committed.
    pub finished: usize,
    /// The most states that were queued at once.
    pub waiting: usize,
    /// Time taken.
    pub took: Duration,
    /// What was found, if anything.
    pub found: Option<Trace>,
    /// Whether it was given up at the limit.
    pub given_up: bool,
}

/// A shortest way to break a rule.
#[derive(Debug)]
pub struct Trace {
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// What is broken by then.
    pub violation: Violation,
}

impl fmt::Display for Trace {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(to, "  {number:2}. {step}")?;
        }
        write!(to, "  => {}", self.violation)
    }
}

/// Keeps a fingerprint as it is: it is a hash already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes
            .iter()
            .for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, fingerprint: u64) {
        self.0 = fingerprint;
    }
}

/// States that are queued, oldest first, in chunks: explored chunks are freed.
#[derive(Default)]
struct Waiting {
    chunks: VecDeque<Vec<State>>,
    /// How many of the first chunk are explored.
    turned: usize,
    count: usize,
}

impl Waiting {
    const CHUNK: usize = 1_024;

    fn push(&mut self, state: State) {
        if self
            .chunks
            .back()
            .is_none_or(|chunk| chunk.len() == Self::CHUNK)
        {
            self.chunks.push_back(Vec::with_capacity(Self::CHUNK));
        }
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.push(state);
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<State> {
        let state = *self.chunks.front()?.get(self.turned)?;
        self.turned += 1;
        self.count -= 1;
        if self.turned == Self::CHUNK {
            self.chunks.pop_front();
            self.turned = 0;
        }
        Some(state)
    }
}

/// Of each state, in the order found: the one it was reached from first, and by which of its steps.
struct Origins {
    states: Vec<u32>,
    choices: Vec<u8>,
}

impl Origins {
    fn add(&mut self, state: usize, choice: usize) {
        self.states
            .push(u32::try_from(state).expect("a world has less than 2^32 states"));
        self.choices
            .push(u8::try_from(choice).expect("a state has no more than 256 steps"));
    }
}

/// Explores a world; gives up beyond so many states.
///
/// # Panics
/// If the world is too large to number its states in 32 bits.
#[must_use]
pub fn explore(world: &World, limit: usize) -> Outcome {
    let (began, fingerprints) = (Instant::now(), Fingerprints::new());
    let mut outcome = Outcome {
        states: 0,
        steps: 0,
        depth: 0,
        finished: 0,
        waiting: 0,
        took: Duration::ZERO,
        found: None,
        given_up: false,
    };
    let mut seen: HashSet<u64, BuildHasherDefault<AsItIs>> = HashSet::default();
    let mut origins = Origins {
        states: vec![0],
        choices: vec![0],
    };
    let mut waiting = Waiting::default();
    let first = canonical(world, State::default());
    seen.insert(fingerprints.of(&first));
    waiting.push(first);
    let (mut after, mut level_end) = (Vec::new(), 1);
    for number in 0.. {
        outcome.given_up = seen.len() > limit;
        let Some(state) = waiting.pop().filter(|_| !outcome.given_up) else {
            break;
        };
        if number == level_end {
            outcome.depth += 1;
            level_end = origins.states.len();
        }
        after.clear();
        if let Err((last, violation)) = turn(world, &state, &mut after) {
            let mut steps = way_to(world, &origins, number);
            steps.extend(last);
            outcome.found = Some(Trace { steps, violation });
            break;
        }
        outcome.finished += usize::from(is_finished(world, &state.checkpoint));
        outcome.steps += after.len();
        for (choice, (_, reached)) in after.drain(..).enumerate() {
            let reached = canonical(world, reached);
            if seen.insert(fingerprints.of(&reached)) {
                origins.add(number, choice);
                waiting.push(reached);
            }
        }
        outcome.waiting = outcome.waiting.max(waiting.count);
    }
    outcome.states = seen.len();
    outcome.took = began.elapsed();
    outcome
}

/// Checks one state and collects its steps. A violation comes with the step that caused it, unless
/// the state itself breaks a rule.
fn turn(
    world: &World,
    state: &State,
    after: &mut Vec<(Step, State)>,
) -> Result<(), (Option<Step>, Violation)> {
    check_state(world, state).map_err(|violation| (None, violation))?;
    steps(world, state, after).map_err(|BrokenStep { step, violation }| (Some(step), violation))?;
    if after.is_empty() && !is_finished(world, &state.checkpoint) {
        let detail = "nothing can happen any more, and not all is committed".to_owned();
        return Err((
            None,
            Violation {
                rule: Rule::NothingIsStuck,
                detail,
            },
        ));
    }
    Ok(())
}

/// The steps from the beginning to a state: found again by taking them.
fn way_to(world: &World, origins: &Origins, mut number: usize) -> Vec<Step> {
    let mut choices = Vec::new();
    while number > 0 {
        choices.push(usize::from(origins.choices[number]));
        number = usize::try_from(origins.states[number]).expect("a state's number fits in memory");
    }
    let mut state = canonical(world, State::default());
    let mut way = Vec::new();
    for choice in choices.into_iter().rev() {
        let mut after = Vec::new();
        // The state was left by this step before, so it breaks nothing up to here.
        let _ = steps(world, &state, &mut after);
        let (step, reached) = after[choice];
        way.push(step);
        state = canonical(world, reached);
    }
    way
}
