//! `tapeflow status`: where the job stands, as its checkpoint says, and how far that is behind its log.

use std::io::Write;

use tapeflow_log::Log;
use tapeflow_protocol::{Binding, Checkpoint, HistoryEntry};
use tapeflow_schemas::{Offset, Partition, window::format_utc};

use crate::{
    args::{
        log::LogChoice,
        read::{Format, StatusSettings},
    },
    end::{End, output_failed, unreachable_log},
    logs, stores,
};

/// How far the job is behind in one partition.
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

pub(crate) fn run(settings: StatusSettings) -> Result<(), End> {
    let (checkpoint, history) = crate::small_runtime()?.block_on(async {
        let store = stores::reader(&settings.store).await?;
        let checkpoint = stores::checkpoint(&*store).await?;
        let history = stores::answered(store.history(1).await)?;
        Ok::<_, End>((checkpoint, history))
    })?;
    // Where the job stands is told even if its log is out of reach: then most of all.
    let lag = settings
        .log
        .map(|choice| lag(choice, &checkpoint))
        .transpose();
    let told = lag.as_ref().ok().and_then(Option::as_deref);
    let mut out = std::io::stdout().lock();
    let printed = if settings.format == Format::Json {
        serde_json::to_string(&serde_json::json!({ "checkpoint": checkpoint, "last_history": history.first(), "lag": told.map(json) }))
            .map_err(std::io::Error::other)
            .and_then(|text| writeln!(out, "{text}"))
    } else {
        print(&mut out, &checkpoint, history.first(), told)
    };
    printed.map_err(|error| output_failed(&error))?;
    lag.map(drop)
}

fn json(lag: &[Lag]) -> serde_json::Value {
    let each = |lag: &Lag| {
        let Lag {
            partition,
            end,
            uncommitted,
            unbound,
        } = lag;
        serde_json::json!({ "partition": partition, "end": end, "uncommitted": uncommitted, "unbound": unbound })
    };
    lag.iter().map(each).collect()
}

fn lag(choice: LogChoice, checkpoint: &Checkpoint) -> Result<Vec<Lag>, End> {
    let log = logs::of_checkpoint(choice, checkpoint)?;
    let partitions = log.partitions().map_err(|error| unreachable_log(&error))?;
    (0..partitions)
        .map(|partition| lag_of(&*log, partition, checkpoint))
        .collect()
}

fn lag_of(log: &dyn Log, partition: Partition, checkpoint: &Checkpoint) -> Result<Lag, End> {
    let bounds = log
        .bounds(partition)
        .map_err(|error| unreachable_log(&error))?;
    // A partition that the job has not heard of yet begins at its first record.
    let behind = |binding: &Binding| {
        let next = usize::try_from(partition)
            .ok()
            .and_then(|at| binding.cuts.get(at))
            .map_or(bounds.start, |cut| cut.next);
        (bounds.end - next).max(0)
    };
    Ok(Lag {
        partition,
        end: bounds.end,
        uncommitted: behind(&checkpoint.committed),
        unbound: behind(checkpoint.last_binding()),
    })
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
    writeln!(out, "logic            {}", checkpoint.fingerprint)?;
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
            "lost {partition:<11} offsets {lost} were given up with --accept-loss: their trades are in no bar, or in some"
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
            "lag {partition:<12} the log ends at offset {end}: {uncommitted} records to commit, {unbound} of them to bind"
        )?;
    }
    if let Some(lag) = lag {
        writeln!(
            out,
            "lag in all       {} records",
            lag.iter().map(|lag| lag.uncommitted).sum::<Offset>()
        )?;
    }
    let Some(entry) = last else { return Ok(()) };
    let counts = &entry.counts;
    writeln!(
        out,
        "last committed   epoch {}: {} records, {} trades accepted, {} rejected, {} duplicates, {} price updates, {} gaps, {} late",
        entry.epoch,
        counts.records,
        counts.accepted,
        counts.dead_letters,
        counts.duplicates,
        counts.price_updates,
        counts.gaps,
        counts.late
    )
}
