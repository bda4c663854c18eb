//! What the benches need of the inside, and nobody else: see `benches/`.

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
    views::{self, Standing, Window},
};

/// A source of one partition, without a log.
pub struct Source {
    state: PartitionState,
    intake: Intake,
    entries: Vec<Entry>,
}

impl Source {
    /// One that has read nothing.
    #[must_use]
    pub fn new(sizes: &[WindowSize]) -> Self {
        Self {
            state: PartitionState::from_cut(0, &Cut::default()),
            intake: Intake::new(Combiner::new(sizes)),
            entries: Vec::new(),
        }
    }

    /// Takes the next record.
    pub fn take(&mut self, payload: &[u8]) {
        let record = LogRecord {
            partition: 0,
            offset: self.state.next,
            timestamp_ms: 0,
            payload: Some(payload),
        };
        self.state.take(record, &mut self.entries, &mut self.intake);
    }

    /// Trades that counted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.intake.counts.accepted
    }

    /// Windows that are open.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.intake.combiner.len() as u64
    }

    /// Seals an epoch; how many parcels leave.
    pub fn seal(&mut self) -> usize {
        self.intake.combiner.seal(1).len()
    }
}

/// How long so many epochs take in which so many of a window's bars change; all of its bars are
/// there before.
///
/// # Panics
/// Never for fewer symbols than there are names.
#[must_use]
pub fn views(symbols: usize, changed: usize, epochs: u64) -> Duration {
    let names: Vec<Symbol> = (0..symbols)
        .map(|number| Symbol::new(&format!("S{number}")).expect("a symbol"))
        .collect();
    timely::execute_directly(move |worker| {
        let (mut input, probe) = worker.dataflow(|scope| {
            let (input, bars) = scope.new_collection();
            let (probe, _) = views::build(bars, &Baskets::default()).probe();
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
        let mut standings: Vec<Standing> = (0..symbols)
            .map(|number| Standing::for_bench(number as u64, Price::from_e8(1_000_000).ok()))
            .collect();
        for (name, standing) in names.iter().zip(&standings) {
            input.insert((window, (name.clone(), *standing)));
        }
        input.advance_to(1);
        input.flush();
        worker.step_while(|| probe.less_than(input.time()));
        let begun = Instant::now();
        for epoch in 1..=epochs {
            for n in 0..changed {
                // Spread over the symbols, other ones each time.
                let at = (n * 7 + usize::try_from(epoch).unwrap_or(0) * 13) % symbols;
                let after = standings[at].one_trade_more();
                input.remove((window, (names[at].clone(), standings[at])));
                input.insert((window, (names[at].clone(), after)));
                standings[at] = after;
            }
            input.advance_to(epoch + 1);
            input.flush();
            worker.step_while(|| probe.less_than(input.time()));
        }
        begun.elapsed()
    })
}
