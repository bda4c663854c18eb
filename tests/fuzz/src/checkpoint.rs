//! The checkpoint as a store keeps it, and what a start of the job makes of it.

use tapeflow_protocol::{
    Checkpoint,
    decide::{Opening, bind, commit, take_over},
    dedup::DuplicateFilter,
    resume::{lost_ahead, resume},
};

/// The text of a checkpoint.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check_text(text);
    }
}

/// A text that may be a checkpoint: it is read as it is written, and a job can start from it.
pub(crate) fn check_text(text: &str) {
    let Ok(checkpoint) = Checkpoint::from_text(text) else {
        return;
    };
    check_written(&checkpoint);
    check_start(&checkpoint);
}

fn check_written(checkpoint: &Checkpoint) {
    let text = checkpoint.to_text().expect("not longer than it was");
    assert_eq!(Checkpoint::from_text(&text).as_ref(), Ok(checkpoint));
}

/// What a job makes of a checkpoint can be read again, or is not written: numbers at their end, which
/// no job reaches.
fn check_next(next: &Checkpoint) {
    let cuts = next.last_binding().cuts.iter();
    let furthest = cuts.map(|cut| cut.next).max().unwrap_or(0);
    let counts = next.generation.max(next.version).max(next.committed.epoch);
    let is_reached = next.last_write_timestamp.max(furthest) < 1 << 62 && counts < 1 << 62;
    match next.to_text() {
        Ok(text) => assert_eq!(Checkpoint::from_text(&text).as_ref(), Ok(next)),
        Err(error) => assert!(!is_reached, "{error}"),
    }
}

fn check_start(found: &Checkpoint) {
    let partitions = found.committed.cuts.len();
    let opening = Opening {
        job: found.job.clone(),
        fingerprint: found.fingerprint.clone(),
        source: found.source.clone(),
        earliest: vec![0; partitions + 1],
        owner: "0123456789abcdef0123456789abcdef".into(),
    };
    let Ok(taken) = take_over(Some(found), &opening, 1) else {
        return;
    };
    check_next(&taken);
    assert!(taken.generation > found.generation && taken.version > found.version);
    assert!(taken.last_write_timestamp > found.last_write_timestamp);
    for partition in 0..=u32::try_from(partitions).expect("few") {
        let at = usize::try_from(partition).expect("small");
        let end = taken.last_binding().cuts[at].next;
        for bounds in [0..end, end.saturating_sub(1)..end, 0..i64::MAX] {
            for accept_loss in [false, true] {
                let _ = resume(&taken, partition, &bounds, accept_loss);
            }
        }
        let _ = lost_ahead(&taken, partition, 0);
    }
    for binding in std::iter::once(&taken.committed).chain(&taken.bound) {
        for cut in &binding.cuts {
            check_filter(cut);
        }
    }
    // The next epoch: every partition goes on by one record.
    let mut cuts = taken.last_binding().cuts.clone();
    for cut in &mut cuts {
        cut.next += 1;
    }
    let bound = bind(&taken, cuts, taken.committed.epoch, 1);
    assert!(bound.last_write_timestamp > taken.last_write_timestamp);
    check_next(&bound);
    check_next(&commit(&bound, bound.last_binding().epoch));
}

/// The filter goes on with records of its sessions and of another one, near any of its numbers.
fn check_filter(cut: &tapeflow_protocol::Cut) {
    let mut filter = DuplicateFilter::from_windows(&cut.filter);
    let mut offset = cut.next;
    for window in &cut.filter {
        for sequence in [
            window.highest,
            window.highest.wrapping_add(1),
            window.highest.wrapping_sub(63),
            1,
            u64::MAX,
            u64::MAX >> 1,
        ] {
            filter.observe(window.session, sequence, offset);
            offset = offset.saturating_add(1);
        }
    }
    filter.observe(tapeflow_schemas::SessionId([0xA5; 16]), 1, offset);
}
