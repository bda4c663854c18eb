//! `cargo run -p tapeflow-simulation`: runs seeds and prints which ones fail and why.

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use clap::Parser;
use tapeflow_simulation::{Checked, Outcome, kept, play};

/// Runs the real job on a simulated log, network, store and clock. Every seed is a history of
/// faults that replays exactly.
#[derive(Parser, Debug)]
struct Settings {
    /// Number of seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Run only this seed
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Threads; each runs one seed at a time
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Write a summary in Markdown to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// The sum over many seeds.
#[derive(Default)]
struct Sum {
    checked: Checked,
    steps: u64,
    crashes: u64,
    fenced: u64,
    failed: Vec<(u64, String)>,
}

fn main() -> ExitCode {
    let settings = Settings::parse();
    let (first, seeds) = settings
        .seed
        .map_or((settings.first, settings.seeds), |seed| (seed, 1));
    let before: Vec<u64> = if settings.seed.is_some() {
        Vec::new()
    } else {
        kept()
    };
    let all: Vec<u64> = before.into_iter().chain(first..first + seeds).collect();
    let begun = Instant::now();
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    std::thread::scope(|scope| {
        for _ in 0..settings.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = usize::try_from(number).ok().and_then(|at| all.get(at)) else {
                        return;
                    };
                    let ended = tried(*seed);
                    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                    sum.hear(*seed, ended);
                    if std::io::stderr().is_terminal() && number % 10 == 0 {
                        eprint!("\r{number} of {}, {} failed", all.len(), sum.failed.len());
                        let _ = std::io::stderr().flush();
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let text = sum.text(first, seeds, begun.elapsed().as_secs());
    println!("{text}");
    if let Some(path) = &settings.report
        && let Err(error) = std::fs::write(path, format!("# Simulated histories\n\n{text}\n"))
    {
        eprintln!("cannot write {}: {error}", path.display());
        return ExitCode::from(2);
    }
    if sum.failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = keep(&sum.failed) {
        eprintln!("cannot add the failing seeds to kept.txt: {error}");
    }
    ExitCode::from(1)
}

/// Adds failed seeds to `kept.txt`, whose seeds run first.
fn keep(failed: &[(u64, String)]) -> std::io::Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kept.txt");
    let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
    let known = kept();
    for (seed, breach) in failed.iter().filter(|(seed, _)| !known.contains(seed)) {
        let first: String = breach
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(120)
            .collect();
        writeln!(file, "{seed} {first}")?;
    }
    Ok(())
}

/// Runs a seed. A panic of the job counts as a breach.
fn tried(seed: u64) -> Result<Outcome, String> {
    std::panic::catch_unwind(|| play(seed)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("panicked: {}", text.unwrap_or_default())
    })
}

impl Sum {
    fn hear(&mut self, seed: u64, ended: Result<Outcome, String>) {
        let breach = match ended {
            Ok(outcome) => {
                self.checked.add(&outcome.checked);
                self.steps += u64::from(outcome.steps);
                self.crashes += u64::from(outcome.crashes);
                self.fenced += u64::from(outcome.fenced);
                outcome.breach
            }
            Err(panic) => Some(panic),
        };
        if let Some(breach) = breach {
            eprintln!("seed {seed}: {breach}");
            self.failed.push((seed, breach));
        }
    }

    fn text(&self, first: u64, seeds: u64, seconds: u64) -> String {
        let Checked {
            writes,
            reads,
            bound,
            committed,
            generations,
            ..
        } = self.checked;
        let faults: Vec<String> = self.checked.all()[5..]
            .iter()
            .map(|(name, count)| format!("{} {count}", name.replace('_', " ")))
            .collect();
        let mut failed: Vec<u64> = self.failed.iter().map(|(seed, _)| *seed).collect();
        failed.sort_unstable();
        let failed = if failed.is_empty() {
            "none failed".into()
        } else {
            format!("{} FAILED: {failed:?}; run one with --seed N", failed.len())
        };
        format!(
            "{seeds} seeds from {first} in {seconds} s: {failed}.\n\n\
             {generations} generations took over, {} crashed, and {} noticed that they were fenced. \
             {bound} epochs were bound; {committed} committed epochs were compared with the \
             replicas. {writes} writes and {reads} reads were compared with the recomputation, \
             in {} steps. Faults: {}.",
            self.crashes,
            self.fenced,
            self.steps,
            faults.join(", ")
        )
    }
}
