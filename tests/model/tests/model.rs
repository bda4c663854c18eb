//! The protocol holds in every world, and every wrong variant breaks a rule.

use tapeflow_model::{Mutant, Outcome, World, explore};

/// The fewest distinct states that all worlds have together.
const STATES: usize = 10_000_000;

/// Each world and its number of distinct states, so that a change of the model that loses states
/// fails a test.
const WORLDS: [(&str, usize); 7] = [
    ("hydrate", 1_777_200),
    ("repair", 3_072_464),
    ("zombies", 8_213_400),
    ("repeats", 2_202_906),
    ("windows", 4_385_437),
    ("workers", 3_545_737),
    ("everything", 1_087_341),
];

fn run(world: &World) -> Outcome {
    let outcome = explore(world, 30_000_000);
    let (states, steps, seconds) = (outcome.states, outcome.steps, outcome.took.as_secs_f64());
    let mutant = world.mutant.map_or("", Mutant::name);
    println!(
        "{:<8} {mutant:<30} {states:>9} states {steps:>9} steps {seconds:>5.1} s",
        world.name
    );
    outcome
}

fn holds(name: &str) {
    let world = World::named(name).expect("a world of that name");
    let outcome = run(&world);
    if let Some(trace) = outcome.found {
        panic!("{name} is broken\n{trace}");
    }
    assert!(!outcome.given_up, "{name} is explored completely");
    assert!(
        outcome.finished > 0,
        "{name} reaches a state in which all is committed"
    );
    let (_, expected) = WORLDS
        .iter()
        .find(|(world, _)| *world == name)
        .expect("a world that is listed");
    assert_eq!(
        outcome.states, *expected,
        "{name} has as many states as before; after an intended change of the model, update WORLDS"
    );
}

#[test]
fn rows_are_read_back_and_replayed_exactly() {
    holds("hydrate");
}

#[test]
fn readers_never_see_a_row_go_back() {
    holds("repair");
}

#[test]
fn zombies_and_unknown_outcomes_harm_nothing() {
    holds("zombies");
}

#[test]
fn repeats_are_dropped_wherever_cuts_fall() {
    holds("repeats");
}

#[test]
fn no_read_is_spared_that_was_needed() {
    holds("windows");
}

#[test]
fn sources_that_release_apart_and_reads_at_two_moments_harm_nothing() {
    holds("workers");
}

#[test]
fn all_of_it_at_once_holds() {
    holds("everything");
}

#[test]
fn every_world_is_explored_and_together_they_are_large() {
    assert_eq!(
        World::all()
            .iter()
            .map(|world| world.name)
            .collect::<Vec<_>>(),
        WORLDS.map(|(name, _)| name)
    );
    assert!(WORLDS.iter().map(|(_, states)| states).sum::<usize>() >= STATES);
}

#[test]
fn every_wrong_variant_is_caught() {
    for mutant in Mutant::ALL {
        let world = World::named(mutant.world())
            .expect("a mutant names a world")
            .with(*mutant);
        let outcome = run(&world);
        let trace = outcome
            .found
            .unwrap_or_else(|| panic!("{mutant} is not caught in {}", world.name));
        println!("{trace}");
        assert!(!trace.steps.is_empty(), "{mutant}: the trace has steps");
        assert_eq!(trace.violation.rule, mutant.breaks(), "{mutant}");
    }
}

#[test]
fn a_violation_is_printed_as_numbered_steps() {
    let outcome = run(&World::named("hydrate")
        .expect("a world")
        .with(Mutant::CommitDuringReplay));
    let printed = outcome.found.expect("it is caught").to_string();
    let want = "   1. process 0 takes over: generation 1, replays (0, 0] at write timestamp 20
   2. process 0 binds epoch 1 at [0, 1], write timestamp 21
   3. process 0 binds epoch 2 at [0, 2], write timestamp 22
   4. process 1 takes over: generation 2, replays (0, 2] at write timestamp 23
   5. process 1 commits epoch 1
  => CommittedIsOnQuorum: epoch 1 is committed, and 0 replicas have bar 0 up to it";
    assert_eq!(printed, want);
}
