//! `tapeflow bars`: prints bars with exact decimals.

use std::io::{BufWriter, Write};

use tapeflow_console::format::{
    bar::{COLUMNS, values},
    text::{csv_line, json_line, sizes},
};
use tapeflow_dataflow::sizes_of;

use crate::{
    args::{
        read::{BarsSettings, Format},
        values::SizeChoice,
    },
    end::{End, other_rules, output_failed},
    stores,
};

/// Widths of the table's columns.
const WIDTHS: [usize; 14] = [16, 4, 24, 12, 12, 12, 12, 16, 20, 8, 16, 7, 5, 8];

pub(crate) fn run(settings: BarsSettings) -> Result<(), End> {
    let runtime = crate::small_runtime()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    runtime.block_on(async {
        let store = stores::reader(&settings.store).await?;
        let checkpoint = stores::checkpoint(&*store).await?;
        let kept = sizes_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(&checkpoint))?;
        let sizes = match &settings.sizes {
            SizeChoice::All => kept,
            SizeChoice::These(wanted) => {
                if let Some(missing) = wanted.iter().find(|size| !kept.contains(size)) {
                    return Err(End::Input(format!(
                        "--size: the store has no bars of {missing}; it has {}",
                        sizes(&kept)
                    )));
                }
                wanted.clone()
            }
        };
        let symbols = if settings.symbols.is_empty() {
            stores::answered(store.symbols().await)?
                .into_iter()
                .map(|(symbol, _)| symbol)
                .collect()
        } else {
            let mut symbols = settings.symbols.clone();
            symbols.sort();
            symbols.dedup();
            symbols
        };
        heading(&mut out, settings.format).map_err(|error| output_failed(&error))?;
        for symbol in symbols {
            for size in &sizes {
                for bar in
                    stores::answered(store.bars(&symbol, *size, settings.range.clone()).await)?
                {
                    let values = values(&symbol, *size, &bar, settings.policy, &checkpoint);
                    line(&mut out, &values, settings.format)
                        .map_err(|error| output_failed(&error))?;
                }
            }
        }
        Ok(())
    })?;
    out.flush().map_err(|error| output_failed(&error))
}

fn heading(out: &mut impl Write, format: Format) -> std::io::Result<()> {
    match format {
        Format::Csv => writeln!(out, "{}", COLUMNS.join(",")),
        Format::Table => table_line(out, &COLUMNS),
        Format::Json => Ok(()),
    }
}

fn line(out: &mut impl Write, values: &[String; 14], format: Format) -> std::io::Result<()> {
    match format {
        Format::Csv => csv_line(out, values),
        Format::Table => table_line(out, values),
        Format::Json => json_line(out, &COLUMNS, values),
    }
}

fn table_line(out: &mut impl Write, values: &[impl AsRef<str>; 14]) -> std::io::Result<()> {
    let mut text = String::new();
    for (at, (value, width)) in values.iter().zip(WIDTHS).enumerate() {
        let value = value.as_ref();
        // Names to the left, numbers to the right.
        text.push_str(&if at < 3 {
            format!("{value:<width$} ")
        } else {
            format!("{value:>width$} ")
        });
    }
    writeln!(out, "{}", text.trim_end())
}
