//! `tapeflow verify`: recomputes every row and every list from the log with code the job does not use, and prints each difference.
//!
//! What is labelled with a committed epoch must equal the recomputation of all committed records; what is labelled with an epoch that is bound
//! but not committed must equal the recomputation up to that very epoch. Values are compared, labels are not.

mod compare;
mod lists;
mod reach;
mod recompute;
mod rows;

use tapeflow_dataflow::{baskets_of, sizes_of};
use tapeflow_schemas::Baskets;
use tapeflow_sinks::Head;

use crate::{
    args::verify::VerifySettings,
    end::{End, other_rules},
    logs, stores,
};

pub(crate) fn run(settings: VerifySettings) -> Result<(), End> {
    let runtime = crate::small_runtime()?;
    let store = runtime.block_on(stores::reader(&settings.store))?;
    let head = runtime.block_on(stores::head(&*store))?;
    let sizes = sizes_of(&head.logic).ok_or_else(|| other_rules(&head))?;
    check_baskets(&head, &settings.baskets)?;
    let log = logs::of_head(settings.log, &head)?;
    let starts = recompute::starts(&*log, &head)?;
    let reach = runtime.block_on(reach::of(&*store, &head, &starts))?;
    let oracle = recompute::from(&*log, &head, &sizes, &reach.from)?;
    let mut judge = compare::Judge::new(head, oracle, settings.baskets, reach);
    runtime.block_on(compare::compare(&*store, &sizes, &mut judge))?;
    judge.finish()
}

/// Lists of baskets cannot be recomputed from other baskets than the job's.
fn check_baskets(head: &Head, given: &Baskets) -> Result<(), End> {
    let wanted = baskets_of(&head.logic).ok_or_else(|| other_rules(head))?;
    let given = given.digest();
    match (wanted, given.as_str()) {
        (wanted, given) if wanted == given => Ok(()),
        (wanted, "none") => Err(End::Input(format!("--baskets: missing; the job ran with the baskets {wanted}: give the file it was given"))),
        ("none", _) => Err(End::Input("--baskets: the job ran without any: leave it out".into())),
        (wanted, given) => {
            Err(End::Input(format!("--baskets: the job ran with the baskets {wanted}, these are {given}: give the file it was given")))
        }
    }
}
