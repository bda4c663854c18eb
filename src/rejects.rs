//! `tapeflow rejects list`: dead letters by their place in the log.

use std::io::{BufWriter, Write};

use tapeflow_protocol::Reject;

use crate::{
    args::read::{Format, RejectsSettings},
    end::{End, output_failed},
    stores,
};

pub(crate) fn run(settings: RejectsSettings) -> Result<(), End> {
    let rejects = crate::small_runtime()?.block_on(async {
        let store = stores::reader(&settings.store).await?;
        stores::answered(store.rejects(settings.limit).await)
    })?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    print(&mut out, &rejects, settings.format)
        .and_then(|()| out.flush())
        .map_err(|fault| output_failed(&fault))
}

fn print(out: &mut impl Write, rejects: &[Reject], format: Format) -> std::io::Result<()> {
    if format == Format::Csv {
        writeln!(out, "partition,offset,index,reason,detail")?;
    }
    for reject in rejects {
        let Reject {
            partition,
            offset,
            index,
            reason,
            detail,
            payload,
        } = reject;
        match format {
            Format::Table => writeln!(
                out,
                "partition {partition} offset {offset} index {index}  {reason:<20} {}",
                printable(detail)
            )?,
            Format::Csv => writeln!(
                out,
                "{partition},{offset},{index},{reason},{}",
                crate::columns::csv_field(&printable(detail))
            )?,
            Format::Json => {
                let text = String::from_utf8_lossy(payload);
                let line = serde_json::json!({ "partition": partition, "offset": offset, "index": index, "reason": reason, "detail": detail, "payload": text });
                writeln!(out, "{line}")?;
            }
        }
    }
    if format == Format::Table && rejects.is_empty() {
        writeln!(out, "no dead letters")?;
    }
    Ok(())
}

/// What a dead letter says comes from outside: no control character of it reaches a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
