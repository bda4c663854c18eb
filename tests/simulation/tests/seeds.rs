//! The seeds that CI runs: a thousand seeds, and every seed that once failed. `TAPEFLOW_SEEDS` sets
//! another number.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tapeflow_simulation::{Checked, kept, play};

const SEEDS: u64 = 1_000;

/// Runs seeds on two threads and returns the violations that were found.
fn failing(seeds: &[u64]) -> (Checked, Vec<String>) {
    let (next, found) = (
        AtomicU64::new(0),
        Mutex::new((Checked::default(), Vec::new())),
    );
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(seed) = usize::try_from(next.fetch_add(1, Ordering::Relaxed))
                    .ok()
                    .and_then(|at| seeds.get(at))
                {
                    let outcome = std::panic::catch_unwind(|| play(*seed));
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    match outcome {
                        Ok(outcome) => {
                            found.0.add(&outcome.checked);
                            found.1.extend(
                                outcome
                                    .breach
                                    .map(|breach| format!("seed {seed}: {breach}")),
                            );
                        }
                        Err(_) => found.1.push(format!("seed {seed} panicked, see above")),
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_thousand_histories_of_faults_lose_nothing_double_nothing_and_show_no_reader_a_wrong_bar() {
    let seeds = std::env::var("TAPEFLOW_SEEDS").map_or(SEEDS, |text| {
        text.parse().expect("TAPEFLOW_SEEDS is a number")
    });
    let seeds: Vec<u64> = kept().into_iter().chain(0..seeds).collect();
    let (checked, found) = failing(&seeds);
    assert_eq!(
        found,
        Vec::<String>::new(),
        "run one with cargo run -p tapeflow-simulation -- --seed N"
    );
    // Runs in which nothing happens prove nothing.
    assert!(
        checked.generations > 2 * seeds.len() as u64 && checked.writes > 100 * seeds.len() as u64,
        "{checked:?}"
    );
    if seeds.len() as u64 >= SEEDS {
        let absent = checked.all().into_iter().filter(|(_, times)| *times == 0);
        assert_eq!(absent.collect::<Vec<_>>(), [], "faults that no seed had");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..10 {
        let first = play(seed);
        // Another thread has other hash keys and another stack.
        let again = std::thread::spawn(move || play(seed))
            .join()
            .expect("it has not failed before");
        assert_eq!(first, again);
    }
}
