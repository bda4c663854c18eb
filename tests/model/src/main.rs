//! `cargo run -p tapeflow-model -- [--world NAME] [--mutant NAME] [--list]`: explores
//! worlds and prints their states, the time taken and the trace of a violation.

use std::process::ExitCode;

use tapeflow_model::{Mutant, World, explore};

/// The most states that are explored: about two gigabytes and some minutes.
const LIMIT: usize = 30_000_000;

fn main() -> ExitCode {
    match asked(std::env::args().skip(1)) {
        Ok(Asked { list: true, .. }) => {
            list();
            ExitCode::SUCCESS
        }
        Ok(asked) => {
            let worlds = match (asked.world, asked.mutant) {
                (Some(world), _) => vec![world],
                (None, Some(mutant)) => World::named(mutant.world()).into_iter().collect(),
                (None, None) => World::all(),
            };
            let held = worlds
                .into_iter()
                .filter(|world| run(world.clone(), asked.mutant))
                .count();
            if (held == 0) == asked.mutant.is_some() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(reason) => {
            eprintln!("{reason}\nusage: tapeflow-model [--world NAME] [--mutant NAME] [--list]");
            ExitCode::FAILURE
        }
    }
}

struct Asked {
    world: Option<World>,
    mutant: Option<Mutant>,
    list: bool,
}

fn asked(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked {
        world: None,
        mutant: None,
        list: false,
    };
    while let Some(word) = words.next() {
        let mut name = || words.next().ok_or_else(|| format!("{word} needs a name"));
        match word.as_str() {
            "--world" => {
                asked.world = Some(name().and_then(|name| {
                    World::named(&name).ok_or_else(|| format!("no world is named {name:?}"))
                })?)
            }
            "--mutant" => {
                asked.mutant = Some(name().and_then(|name| {
                    Mutant::named(&name).ok_or_else(|| format!("no mutant is named {name:?}"))
                })?)
            }
            "--list" => asked.list = true,
            _ => return Err(format!("unknown word {word:?}")),
        }
    }
    Ok(asked)
}

fn list() {
    println!("worlds");
    for world in World::all() {
        println!("  {:<30} {}", world.name, world.about);
    }
    println!("mutants");
    for mutant in Mutant::ALL {
        println!(
            "  {:<30} {} Caught in {}.",
            mutant.name(),
            mutant.sentence(),
            mutant.world()
        );
    }
}

/// Explores one world; whether every rule holds in it.
fn run(world: World, mutant: Option<Mutant>) -> bool {
    let world = World { mutant, ..world };
    let outcome = explore(&world, LIMIT);
    let without = mutant.map_or_else(String::new, |mutant| format!(" with {mutant}"));
    let end = match (&outcome.found, outcome.given_up) {
        (Some(_), _) => "BROKEN",
        (None, true) => "given up",
        (None, false) => "holds",
    };
    println!(
        "{}{without}: {end}; {} states, {} steps, {} deep, {} finished, at most {} waiting, {:.1} \
         s",
        world.name,
        outcome.states,
        outcome.steps,
        outcome.depth,
        outcome.finished,
        outcome.waiting,
        outcome.took.as_secs_f64()
    );
    if let Some(trace) = &outcome.found {
        println!("{trace}");
    }
    outcome.found.is_none() && !outcome.given_up
}
