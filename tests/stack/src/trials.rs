//! Tests that need real servers: run, listed as not run with the reason, or failed with it.
//!
//! Included with `#[path = ".../deploy/dev/trials.rs"] mod trials;`, beside `dev_stack`.

use libtest_mimic::{Failed, Trial};

use crate::servers::Wanted;

/// A trial for each test. Says at once, on standard error, if none of them will run.
pub fn on_servers<N, T>(wanted: &Wanted, tests: impl IntoIterator<Item = (N, T)>) -> Vec<Trial>
where
    N: Into<String>,
    T: FnOnce() -> Result<(), Failed> + Send + 'static,
{
    if let Wanted::Skip(reason) = wanted {
        eprintln!("not run: every test of this target that needs servers {reason}");
    }
    let trial = |(name, test): (N, T)| match wanted.clone() {
        Wanted::Run => Trial::test(name, test),
        // A run of ignored tests fails with the reason why they cannot run.
        Wanted::Skip(reason) => Trial::test(name, {
            let reason = reason.clone();
            || Err(reason.into())
        })
        .with_kind(reason)
        .with_ignored_flag(true),
        Wanted::Fail(reason) => Trial::test(name, || Err(reason.into())),
    };
    tests.into_iter().map(trial).collect()
}
