//! `tapeflow dead_letters list`: dead letters by their place in the log.

use std::io::{BufWriter, Write};

use tapeflow_protocol::DeadLetter;

use crate::{
    args::read::{DeadLettersSettings, Format},
    end::{End, output_failed},
    stores,
};

pub(crate) fn run(settings: DeadLettersSettings) -> Result<(), End> {
    let dead_letters = crate::small_runtime()?.block_on(async {
        let store = stores::reader(&settings.store).await?;
        stores::answered(store.dead_letters(settings.limit).await)
    })?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    print(&mut out, &dead_letters, settings.format)
        .and_then(|()| out.flush())
        .map_err(|error| output_failed(&error))
}

fn print(out: &mut impl Write, dead_letters: &[DeadLetter], format: Format) -> std::io::Result<()> {
    if format == Format::Csv {
        writeln!(out, "partition,offset,index,reason,detail")?;
    }
    for dead_letter in dead_letters {
        let DeadLetter {
            partition,
            offset,
            index,
            reason,
            detail,
            payload,
        } = dead_letter;
        match format {
            Format::Table => writeln!(
                out,
                "partition {partition} offset {offset} index {index}  {reason:<20} {}",
                printable(detail)
            )?,
            Format::Csv => writeln!(
                out,
                "{partition},{offset},{index},{reason},{}",
                tapeflow_console::format::text::csv_field(&printable(detail))
            )?,
            Format::Json => {
                let text = String::from_utf8_lossy(payload);
                let line = serde_json::json!({ "partition": partition, "offset": offset, "index": index, "reason": reason, "detail": detail, "payload": text });
                writeln!(out, "{line}")?;
            }
        }
    }
    if format == Format::Table && dead_letters.is_empty() {
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
