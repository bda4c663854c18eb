//! `tapeflow status`: the job's progress, as its checkpoint has it, and its lag behind the log.

use std::{io::Write, ops::Range};

use tapeflow_log::Log;
use tapeflow_protocol::{Binding, Checkpoint, HistoryEntry};
use tapeflow_schemas::{Offset, Partition, window::format_utc};

use crate::{
    args::{
        read::{Format, StatusSettings},
        store::StoreAddress,
    },
    exit::{Exit, output_failed, unreachable_log},
    logs, stores,
};
use tapeflow_console::format::text::{self, counted};

/// The job's lag in one partition.
#[derive(Debug)]
struct Lag {
    partition: Partition,
    /// The offset that the next record will get.
    end: Offset,
    /// Records that are not committed.
    uncommitted: Offset,
    /// Records that are not even bound.
    unbound: Offset,
}

pub(crate) fn run(settings: StatusSettings) -> Result<(), Exit> {
    let address = &settings.store.address;
    let (store, checkpoint, history) = crate::small_runtime()?.block_on(async {
        let store = stores::reader(&settings.store).await?;
        let checkpoint = stores::checkpoint(&*store).await?;
        let history = stores::answered(store.history(1).await)?;
        Ok::<_, Exit>((store.describe(), checkpoint, history))
    })?;
    // The progress is printed even if the log is out of reach: then it matters most.
    let log = match (settings.log, address) {
        (Some(choice), _) => logs::of_checkpoint(choice, &checkpoint, &store).map(Some),
        (None, StoreAddress::Sqlite(path)) => Ok(logs::beside(path, &checkpoint)),
        (None, StoreAddress::Cassandra { .. }) => Ok(None),
    };
    let lag = log.and_then(|log| log.map(|log| lag(&*log, &checkpoint)).transpose());
    let known = lag.as_ref().ok().and_then(Option::as_deref);
    let mut out = std::io::stdout().lock();
    let printed = match settings.format {
        Format::Json => serde_json::to_string(&serde_json::json!({
            "store": store,
            "checkpoint": checkpoint,
            "last_history": history.first(),
            "lag": known.map(json),
        }))
        .map_err(std::io::Error::other)
        .and_then(|text| writeln!(out, "{text}")),
        Format::Csv => csv(&mut out, &checkpoint, known),
        Format::Table => writeln!(out, "store            {store}")
            .and_then(|()| print(&mut out, &checkpoint, history.first(), known)),
    };
    printed.map_err(|error| output_failed(&error))?;
    lag.map(drop)
}

/// One line a partition, with the job's values repeated; empty where no log is known.
fn csv(out: &mut impl Write, checkpoint: &Checkpoint, lag: Option<&[Lag]>) -> std::io::Result<()> {
    const COLUMNS: [&str; 11] = [
        "job",
        "generation",
        "version",
        "epoch_committed",
        "epoch_bound",
        "partition",
        "committed_offset",
        "bound_offset",
        "end_offset",
        "uncommitted",
        "unbound",
    ];
    text::csv_line(out, &COLUMNS)?;
    let bound = checkpoint.last_binding();
    for (partition, (cut, last)) in (0..).zip(checkpoint.committed.cuts.iter().zip(&bound.cuts)) {
        let lag = lag
            .unwrap_or_default()
            .iter()
            .find(|lag| lag.partition == partition);
        let of_lag =
            |value: fn(&Lag) -> Offset| lag.map(|lag| value(lag).to_string()).unwrap_or_default();
        text::csv_line(
            out,
            &[
                checkpoint.job.clone(),
                checkpoint.generation.to_string(),
                checkpoint.version.to_string(),
                checkpoint.committed.epoch.to_string(),
                bound.epoch.to_string(),
                partition.to_string(),
                cut.next.to_string(),
                last.next.to_string(),
                of_lag(|lag| lag.end),
                of_lag(|lag| lag.uncommitted),
                of_lag(|lag| lag.unbound),
            ],
        )?;
    }
    Ok(())
}

fn json(lag: &[Lag]) -> serde_json::Value {
    let each = |lag: &Lag| {
        let Lag {
            partition,
            end,
            uncommitted,
            unbound,
        } = lag;
        serde_json::json!({
            "partition": partition, "end": end, "uncommitted": uncommitted, "unbound": unbound,
        })
    };
    lag.iter().map(each).collect()
}

fn lag(log: &dyn Log, checkpoint: &Checkpoint) -> Result<Vec<Lag>, Exit> {
    let partitions = log.partitions().map_err(|error| unreachable_log(&error))?;
    let partitions: Vec<Partition> = (0..partitions).collect();
    let all_bounds = log
        .bounds_of(&partitions)
        .map_err(|error| unreachable_log(&error))?;
    Ok(partitions
        .into_iter()
        .zip(&all_bounds)
        .map(|(partition, bounds)| lag_of(partition, bounds, checkpoint))
        .collect())
}

fn lag_of(partition: Partition, bounds: &Range<Offset>, checkpoint: &Checkpoint) -> Lag {
    // A partition that the checkpoint does not have yet begins at its first record.
    let behind = |binding: &Binding| {
        let next = usize::try_from(partition)
            .ok()
            .and_then(|at| binding.cuts.get(at))
            .map_or(bounds.start, |cut| cut.next);
        (bounds.end - next).max(0)
    };
    Lag {
        partition,
        end: bounds.end,
        uncommitted: behind(&checkpoint.committed),
        unbound: behind(checkpoint.last_binding()),
    }
}

fn print(
    out: &mut impl Write,
    checkpoint: &Checkpoint,
    last: Option<&HistoryEntry>,
    lag: Option<&[Lag]>,
) -> std::io::Result<()> {
    let bound = checkpoint.last_binding();
    let time = |binding: &Binding| {
        binding
            .watermark_ms()
            .map_or_else(|| "none yet".to_owned(), format_utc)
    };
    writeln!(
        out,
        "job              {} (generation {}, version {})",
        checkpoint.job, checkpoint.generation, checkpoint.version
    )?;
    writeln!(out, "fingerprint      {}", checkpoint.fingerprint)?;
    writeln!(
        out,
        "log              topic {} of cluster {}",
        checkpoint.source.topic, checkpoint.source.cluster
    )?;
    writeln!(
        out,
        "epoch committed  {} (newest trade {}, write timestamp {})",
        checkpoint.committed.epoch,
        time(&checkpoint.committed),
        format_utc(checkpoint.committed.write_timestamp / 1_000)
    )?;
    writeln!(
        out,
        "epoch bound      {} (newest trade {})",
        bound.epoch,
        time(bound)
    )?;
    for (partition, (committed, bound)) in checkpoint
        .committed
        .cuts
        .iter()
        .zip(&bound.cuts)
        .enumerate()
    {
        writeln!(
            out,
            "partition {partition:<6} committed to offset {}, bound to {}",
            committed.next, bound.next
        )?;
    }
    for (partition, lost) in bound
        .cuts
        .iter()
        .enumerate()
        .filter_map(|(at, cut)| Some((at, cut.lost?)))
    {
        writeln!(
            out,
            "lost {partition:<11} offsets {lost}, given up with --accept-loss: bars lack their \
             trades, or some of them"
        )?;
    }
    for Lag {
        partition,
        end,
        uncommitted,
        unbound,
    } in lag.unwrap_or_default()
    {
        writeln!(
            out,
            "partition {partition:<6} the log ends at offset {end}: {} to commit, {unbound} of them \
             to bind",
            records(*uncommitted)
        )?;
    }
    if let Some(lag) = lag {
        writeln!(
            out,
            "lag in all       {}",
            records(lag.iter().map(|lag| lag.uncommitted).sum())
        )?;
    }
    let Some(entry) = last else { return Ok(()) };
    let counts = &entry.counts;
    writeln!(
        out,
        "last committed   epoch {}: {}, {} accepted, {}, {}, {}, {}, {} late",
        entry.epoch,
        counted(counts.records, "record", "records"),
        counted(counts.accepted, "trade", "trades"),
        counted(counts.dead_letters, "dead letter", "dead letters"),
        counted(counts.duplicates, "duplicate", "duplicates"),
        counted(counts.price_updates, "price update", "price updates"),
        counted(counts.gaps, "gap", "gaps"),
        counts.late
    )
}

fn records(count: Offset) -> String {
    counted(count.unsigned_abs(), "record", "records")
}
