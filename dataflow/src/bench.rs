//! Internals that `bench/parts` measures. Not part of the public interface.

use std::time::{Duration, Instant};

use differential_dataflow::input::Input;
use tapeflow_log::LogRecord;
use tapeflow_protocol::Cut;
use tapeflow_schemas::{AssetClass, Baskets, Price, Symbol, WindowSize, codec::Entry};

use crate::{
    operators::{
        combine::Combiner,
        partition::{Intake, PartitionState},
    },
    views::{
        changes::{BarValues, Window},
        definitions,
    },
};

/// The source of one partition, without a log.
pub struct Source {
    state: PartitionState,
    intake: Intake,
    entries: Vec<Entry>,
}

impl Source {
    /// A source that has read nothing.
    #[must_use]
    pub fn new(sizes: &[WindowSize]) -> Self {
        Self {
            state: PartitionState::from_cut(0, &Cut::default()),
            intake: Intake::new(Combiner::new(sizes)),
            entries: Vec::new(),
        }
    }

    /// Decodes and combines the next record.
    pub fn take(&mut self, payload: &[u8]) {
        let record = LogRecord {
            partition: 0,
            offset: self.state.next,
            timestamp_ms: 0,
            payload: Some(payload),
        };
        self.state.take(record, &mut self.entries, &mut self.intake);
    }

    /// The number of accepted trades.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.intake.counts.accepted
    }

    /// The number of open windows.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.intake.combiner.len() as u64
    }

    /// Seals an epoch. Returns the number of exchange items.
    pub fn seal(&mut self) -> usize {
        self.intake.combiner.seal(1).len()
    }
}

/// Measures `epochs` epochs in each of which `changed` of a window's bars change. The window has a
/// bar of each symbol before.
///
/// # Panics
/// Only if a symbol `S<number>` were invalid.
#[must_use]
pub fn views(symbols: usize, changed: usize, epochs: u64) -> Duration {
    let names: Vec<Symbol> = (0..symbols)
        .map(|number| Symbol::new(&format!("S{number}")).expect("a symbol"))
        .collect();
    timely::execute_directly(move |worker| {
        let (mut input, probe) = worker.dataflow(|scope| {
            let (input, bars) = scope.new_collection();
            let (probe, _) = definitions::build(bars, &Baskets::default()).probe();
            (input, probe)
        });
        let size = WindowSize::DEFAULTS[1];
        let window = Window {
            size,
            start: size.start_of(
                tapeflow_schemas::EventTime::from_ms(0).expect("a time"),
                AssetClass::Stock,
            ),
        };
        let mut all_values: Vec<BarValues> = (0..symbols)
            .map(|number| BarValues::for_bench(number as u64, Price::from_e8(1_000_000).ok()))
            .collect();
        for (name, values) in names.iter().zip(&all_values) {
            input.insert((window, (name.clone(), *values)));
        }
        input.advance_to(1);
        input.flush();
        worker.step_while(|| probe.less_than(input.time()));
        let started = Instant::now();
        for epoch in 1..=epochs {
            for n in 0..changed {
                // Spread over the symbols, different ones in each epoch.
                let at = (n * 7 + usize::try_from(epoch).unwrap_or(0) * 13) % symbols;
                let after = all_values[at].one_trade_more();
                input.remove((window, (names[at].clone(), all_values[at])));
                input.insert((window, (names[at].clone(), after)));
                all_values[at] = after;
            }
            input.advance_to(epoch + 1);
            input.flush();
            worker.step_while(|| probe.less_than(input.time()));
        }
        started.elapsed()
    })
}
