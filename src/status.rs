//! `tapeflow status`: where the job stands, as its head says.

use std::io::Write;

use tapeflow_schemas::window::format_utc;
use tapeflow_sinks::{Binding, Head};

use crate::{
    args::commands::{Format, StatusSettings},
    end::{End, output_failed},
    stores,
};

pub(crate) fn run(settings: StatusSettings) -> Result<(), End> {
    let (head, history) = crate::small_runtime()?.block_on(async {
        let store = stores::reader(&settings.store).await?;
        let head = stores::head(&*store).await?;
        let history = stores::answered(store.history(1).await)?;
        Ok::<_, End>((head, history))
    })?;
    let mut out = std::io::stdout().lock();
    let printed = if settings.format == Format::Json {
        serde_json::to_string(&serde_json::json!({ "head": head, "last_history": history.first() }))
            .map_err(std::io::Error::other)
            .and_then(|text| writeln!(out, "{text}"))
    } else {
        print(&mut out, &head).and_then(|()| match history.first() {
            Some(entry) => {
                let counts = &entry.counts;
                writeln!(
                    out,
                    "last committed   epoch {}: {} records, {} trades accepted, {} rejected, {} duplicates, {} price updates, {} gaps, {} late",
                    entry.epoch, counts.records, counts.accepted, counts.rejected, counts.duplicates, counts.price_updates, counts.gaps, counts.late
                )
            }
            None => Ok(()),
        })
    };
    printed.map_err(|fault| output_failed(&fault))
}

fn print(out: &mut impl Write, head: &Head) -> std::io::Result<()> {
    let bound = head.last_binding();
    let time = |binding: &Binding| binding.max_event_ms().map_or_else(|| "none yet".to_owned(), format_utc);
    writeln!(out, "job              {} (generation {}, version {})", head.job, head.generation, head.version)?;
    writeln!(out, "logic            {}", head.logic)?;
    writeln!(out, "log              topic {} of cluster {}", head.source.topic, head.source.cluster)?;
    writeln!(
        out,
        "epoch committed  {} (newest trade {}, stamp {})",
        head.committed.epoch,
        time(&head.committed),
        format_utc(head.committed.stamp / 1_000)
    )?;
    writeln!(out, "epoch bound      {} (newest trade {})", bound.epoch, time(bound))?;
    for (partition, (committed, bound)) in head.committed.cuts.iter().zip(&bound.cuts).enumerate() {
        writeln!(out, "partition {partition:<6} committed to offset {}, bound to {}", committed.next, bound.next)?;
    }
    Ok(())
}
