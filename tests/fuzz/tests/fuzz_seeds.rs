//! The committed seeds, through their targets: every test run repeats what fuzzing has found.

use std::{fs, path::Path};

use tapeflow_fuzz::TARGETS;

/// The most bytes of all seeds of a target: they are committed.
const MOST_BYTES: usize = 64 << 10;

#[test]
fn every_seed_holds_what_its_target_demands() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for target in &TARGETS {
        let folder = seeds.join(target.name);
        let files = fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
            .map(|file| file.expect("an entry").path());
        let (mut count, mut bytes) = (0, 0);
        for file in files {
            let seed = fs::read(&file).expect("a seed");
            println!("{}", file.display());
            assert!(seed.len() <= target.max_len, "longer than its target takes");
            (target.check)(&seed);
            count += 1;
            bytes += seed.len();
        }
        assert!(count > 0, "{} has no seeds", target.name);
        assert!(
            bytes <= MOST_BYTES,
            "{}: {bytes} bytes of seeds",
            target.name
        );
    }
    let folders = fs::read_dir(&seeds).expect("a folder").count();
    assert_eq!(folders, TARGETS.len(), "each folder of seeds has a target");
}

#[test]
fn what_starts_as_a_seed_and_is_cut_anywhere_holds_it_too() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for target in &TARGETS {
        for file in fs::read_dir(seeds.join(target.name)).expect("a folder") {
            let seed = fs::read(file.expect("an entry").path()).expect("a seed");
            for end in (0..seed.len()).step_by(1 + seed.len() / 32) {
                (target.check)(&seed[..end]);
            }
        }
    }
}
