//! `tapeflow verify`: recomputes every row from the log with code the job does not use, and prints each difference.
//!
//! Rows labelled with a committed epoch must equal the fold of all committed records; a row labelled with an epoch that is bound but not
//! committed must equal the fold up to that very epoch. Values are compared, labels are not.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tapeflow_dataflow::{KafkaLog, Log, LogFault, sizes_of};
use tapeflow_oracle::{Oracle, OracleRow};
use tapeflow_schemas::{Price, Symbol, WindowSize, window::format_utc};
use tapeflow_sinks::{
    Head, Policy, RowState, Store, Totals,
    sqlite::{Access, SqliteLog},
};

use crate::{
    args::commands::{LogChoice, VerifySettings},
    end::{End, say, unreachable_log, unreachable_store},
    stores,
};

/// Differences printed one by one; all are counted.
const PRINTED: u64 = 100;
/// Records read in one go.
const RECORDS_PER_POLL: usize = 10_000;
/// How long the log may stay silent before a read is given up.
const SILENCE: Duration = Duration::from_secs(60);

pub(crate) fn run(settings: VerifySettings) -> Result<(), End> {
    let runtime = crate::small_runtime()?;
    let store = runtime.block_on(stores::reader(&settings.store))?;
    let head = runtime.block_on(stores::head(&*store))?;
    let log: Arc<dyn Log> = match settings.log {
        LogChoice::Kafka(config) => Arc::new(KafkaLog::connect(config).map_err(|fault| unreachable_log(&fault))?),
        LogChoice::Sqlite(path) => {
            let database = stores::sqlite(&path, Access::Reader)?;
            let name = database.describe();
            Arc::new(SqliteLog::open(&database).map_err(|fault| unreachable_store(&name, &fault))?)
        }
    };
    let identity = log.identity().map_err(|fault| unreachable_log(&fault))?;
    if identity != head.source {
        let (found, given) = (&head.source, &identity);
        return Err(End::Input(format!(
            "the rows come from topic {} of cluster {}, not from topic {} of cluster {}: see --brokers, --topic, --log",
            found.topic, found.cluster, given.topic, given.cluster
        )));
    }
    let sizes = sizes_of(&head.logic).ok_or_else(|| End::Input(format!("the store's rules are not this binary's: {}", head.logic)))?;
    let (oracle, out_of_reach) = recompute(&*log, &head, &sizes)?;
    let mut report = Report { differences: 0, rows: 0, oracle, head, out_of_reach };
    runtime.block_on(compare(&*store, &sizes, &mut report))?;
    report.finish()
}

/// Folds every record below the last binding; the records that retention has put out of reach are counted.
fn recompute(log: &dyn Log, head: &Head, sizes: &[WindowSize]) -> Result<(Oracle, u64), End> {
    let failed = |fault: LogFault| End::Failed(fault.to_string());
    let cuts = &head.last_binding().cuts;
    let mut oracle = Oracle::new(sizes.to_vec(), u32::try_from(cuts.len()).map_err(|fault| End::Failed(fault.to_string()))?);
    let (mut from, mut out_of_reach) = (Vec::new(), 0);
    for (partition, cut) in (0u32..).zip(cuts) {
        let bounds = log.bounds(partition).map_err(|fault| unreachable_log(&fault))?;
        out_of_reach += u64::try_from(bounds.start.min(cut.next)).unwrap_or(0);
        if bounds.start < cut.next {
            from.push((partition, bounds.start));
        }
    }
    let mut next: Vec<i64> = cuts.iter().map(|cut| cut.next).collect();
    from.iter().for_each(|(partition, offset)| next[*partition as usize] = *offset);
    let mut reader = log.reader(&from).map_err(failed)?;
    let mut heard = Instant::now();
    while next.iter().zip(cuts).any(|(next, cut)| *next < cut.next) {
        let read = reader.poll(RECORDS_PER_POLL, &mut |record| {
            let at = record.partition as usize;
            if record.offset < cuts[at].next {
                let epoch = if record.offset < head.committed.cuts[at].next {
                    0
                } else {
                    head.bound.iter().find(|binding| record.offset < binding.cuts[at].next).map_or(0, |binding| binding.epoch)
                };
                oracle.record(epoch, record.partition, record.offset, record.timestamp_ms, record.payload);
            }
            next[at] = next[at].max(record.offset + 1);
        });
        if read.map_err(failed)? > 0 {
            heard = Instant::now();
        } else if heard.elapsed() > SILENCE {
            return Err(End::Failed(format!("the log has handed over nothing for {} s, before its bound end was reached", SILENCE.as_secs())));
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok((oracle, out_of_reach))
}

struct Report {
    differences: u64,
    rows: u64,
    oracle: Oracle,
    head: Head,
    out_of_reach: u64,
}

/// Every stored row against its recomputation, then every recomputed row against the store.
async fn compare(store: &dyn Store, sizes: &[WindowSize], report: &mut Report) -> Result<(), End> {
    let mut found = std::collections::HashSet::new();
    for (symbol, _) in stores::answered(store.symbols().await)? {
        for size in sizes {
            for row in stores::answered(store.rows(&symbol, *size, i64::MIN..i64::MAX).await)? {
                report.judge(&symbol, *size, row.start, &row.state);
                found.insert((symbol.clone(), *size, row.start));
            }
        }
    }
    let committed: Vec<_> = report.oracle.rows().map(|(key, _)| (key.symbol.to_owned(), key.size, key.start)).collect();
    for (symbol, size, start) in committed {
        let known = Symbol::new(&symbol).is_ok_and(|symbol| found.contains(&(symbol, size, start)));
        // Rows of epochs that are bound but not committed may not have been written yet.
        if !known && report.oracle.row_as_of(&symbol, size, start, 0).is_some() {
            report.differ(&format!("{symbol} {size} {}: the log has trades, the store has no row", format_utc(start)));
        }
    }
    Ok(())
}

impl Report {
    fn judge(&mut self, symbol: &Symbol, size: WindowSize, start: i64, state: &RowState) {
        self.rows += 1;
        let place = format!("{symbol} {size} {} (epoch {})", format_utc(start), state.epoch);
        let bound = self.head.last_binding().epoch;
        if state.epoch > bound {
            // A job that goes on has bound more since the head was read; such a row is for the next look.
            return self.differ(&format!("{place}: labelled beyond the last bound epoch {bound} as of this look; is the job running?"));
        }
        let as_of = if state.epoch <= self.head.committed.epoch { 0 } else { state.epoch };
        let Some(want) = self.oracle.row_as_of(symbol.as_str(), size, start, as_of) else {
            // With part of the log gone a row may rest on what is no longer there.
            if self.out_of_reach == 0 {
                self.differ(&format!("{place}: the store has a row, the log has no trades"));
            }
            return;
        };
        let differences = differences(&state.totals, &want);
        if !differences.is_empty() && self.out_of_reach == 0 {
            self.differ(&format!("{place}: {}", differences.join("; ")));
        }
    }

    fn differ(&mut self, text: &str) {
        self.differences += 1;
        if self.differences <= PRINTED {
            // A reader that has gone misses the lines, not the exit code.
            let _ = say(text);
        }
    }

    fn finish(self) -> Result<(), End> {
        let counts = self.oracle.counts();
        let line = format!(
            "{} differences; {} rows compared; {} records, {} trades accepted, {} rejected, {} duplicates, {} price updates, {} gaps; \
             {} records out of reach of the log{}; committed epoch {}, bound {}",
            self.differences,
            self.rows,
            counts.records,
            counts.accepted,
            counts.rejected_in_all(),
            counts.duplicates,
            counts.price_updates,
            counts.gaps,
            self.out_of_reach,
            if self.out_of_reach > 0 { ", rows they may have touched not judged" } else { "" },
            self.head.committed.epoch,
            self.head.last_binding().epoch,
        );
        say(&line)?;
        if self.differences == 0 { Ok(()) } else { Err(End::Differs(self.differences)) }
    }
}

/// Which values differ, for a person.
fn differences(have: &Totals, want: &OracleRow) -> Vec<String> {
    let mut found = Vec::new();
    for (policy, want) in [(Policy::All, want.all), (Policy::Sip, want.sip), (Policy::Strict, want.strict)] {
        let have = have.of_policy(policy);
        for (what, have, want) in [
            ("volume_e8", have.volume_e8, want.volume_e8),
            ("notional_e16", have.notional_e16, want.notional_e16),
            ("trades", i128::from(have.trades), i128::from(want.trades)),
        ] {
            if have != want {
                found.push(format!("{what} ({}) is {have}, recomputed {want}", policy.name()));
            }
        }
    }
    let prices = [("open", have.open(), want.open), ("high", have.high, want.high), ("low", have.low, want.low), ("close", have.close(), want.close)];
    for (what, have, want) in prices {
        let have = have.map(Price::e8);
        if have != want {
            found.push(format!("{what} in 1e-8 is {have:?}, recomputed {want:?}"));
        }
    }
    if have.priced != want.priced {
        found.push(format!("priced is {}, recomputed {}", have.priced, want.priced));
    }
    found
}
