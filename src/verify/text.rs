//! The lines that sum up an audit and a repair.

use tapeflow_audit::{Findings, RepairReport, Share};

/// The result of an audit on one line.
pub(super) fn summary(findings: &Findings, has_views: bool) -> String {
    let counts = &findings.counts;
    let mut line = format!(
        "{}; {} compared, {} compared; {}, {} accepted, {}, {}, {}, {}; {} no longer in the log",
        count(findings.count(), "difference"),
        count(findings.bars.compared, "bar"),
        count(findings.views.compared, "view"),
        count(counts.records, "record"),
        count(counts.accepted, "trade"),
        count(counts.dead_letters_total(), "dead letter"),
        count(counts.duplicates, "duplicate"),
        count(counts.price_updates, "price update"),
        count(counts.gaps, "gap"),
        count(findings.missing_records, "record"),
    );
    let without_record = findings.offsets.saturating_sub(counts.records);
    if without_record > 0 {
        line += &format!(", {} without a record", count(without_record, "offset"));
    }
    if findings.skipped_up_to > 0 {
        line += &format!(
            ", {} up to epoch {} not read",
            count(findings.skipped_records, "record"),
            findings.skipped_up_to
        );
    }
    if !findings.complete {
        line += &format!(
            ", {} and {} that may contain trades from them not compared",
            count(findings.bars.not_compared, "bar"),
            count(findings.views.not_compared, "view")
        );
    }
    if findings.unknown_epochs > 0 {
        line += &format!(
            "; {} not compared because the end of their epoch is unknown",
            count(findings.unknown_epochs, "place")
        );
    }
    if findings.moving_views > 0 {
        line += &format!(
            "; {} not compared because the job wrote them at each reading",
            count(findings.moving_views, "view")
        );
    }
    if findings.left > 0 {
        line += &format!(
            "; {} not compared because they are beyond their horizon and have left",
            count(findings.left, "place")
        );
    }
    if findings.feed_gaps.compared > 0 {
        line += &format!(
            "; {} compared",
            count(findings.feed_gaps.compared, "feed gap")
        );
    }
    if findings.feed_gaps.not_compared > 0 {
        line += &format!(
            "; {} not compared because their records were not read",
            count(findings.feed_gaps.not_compared, "feed gap")
        );
    }
    if !has_views {
        line += "; views not compared because they need all symbols";
    }
    line + &format!(
        "; committed epoch {}, bound epoch {}",
        findings.committed, findings.bound
    )
}

/// Why an audit without differences is not enough.
pub(super) fn too_little(share: &Share, min_compared: u64) -> String {
    let Share { what, part, of } = *share;
    let what = match of {
        0 => "no bar was compared: the records that were read make none".to_owned(),
        _ => format!("only {part} of {of} {what} were compared"),
    };
    format!(
        "{what}, less than {min_compared} %: this is no proof; read more of the log, or accept it \
         with a smaller --min-compared"
    )
}

/// The result of a repair on one line.
pub(super) fn repaired(report: &RepairReport, left: u64) -> String {
    let feed_gaps = match report.feed_gaps {
        0 => String::new(),
        gaps => format!(", and {}", count(gaps as u64, "feed gap")),
    };
    format!(
        "repaired: {} and {} written and read back{}, as of epoch {}, by generation {}; {} not \
         repaired",
        count(report.bars as u64, "bar"),
        count(report.views as u64, "view"),
        feed_gaps,
        report.epoch,
        report.generation,
        count(left, "place")
    )
}

/// A number with its noun.
pub(super) fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
