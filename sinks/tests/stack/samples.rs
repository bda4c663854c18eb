//! A checkpoint and some bars, as a job writes them.

use tapeflow_protocol::{
    Binding, Checkpoint, Cut, DirectoryEntry, EpochWrites, SourceIdentity,
    checkpoint::CHECKPOINT_FORMAT,
};
use tapeflow_schemas::{BarKey, BarState, BarWrite, PackedBars, Price, Sums, Symbol, Totals};

/// The write timestamp of the bars, in November 2023.
pub(crate) const WRITE_TIMESTAMP: i64 = 1_700_000_000_000_003;

/// The first checkpoint of a job.
pub(crate) fn first_checkpoint(job: &str) -> Checkpoint {
    Checkpoint {
        format: CHECKPOINT_FORMAT,
        job: job.into(),
        generation: 1,
        version: 1,
        owner: format!("owner of {job}"),
        fingerprint: "rules 1".into(),
        source: SourceIdentity {
            cluster: "cluster".into(),
            topic: "trades".into(),
            topic_id: None,
        },
        datacenter: None,
        recovery_timestamp: WRITE_TIMESTAMP,
        last_write_timestamp: WRITE_TIMESTAMP,
        committed: Binding {
            epoch: 0,
            write_timestamp: WRITE_TIMESTAMP,
            cuts: vec![Cut::default(); 4],
        },
        bound: Vec::new(),
    }
}

/// A minute bar of a symbol as of epoch 3.
pub(crate) fn row(symbol: &str, minute: i64, totals: Totals) -> BarWrite {
    let size = "1m".parse().expect("a size");
    let key = BarKey {
        symbol: Symbol::new(symbol).expect("a symbol"),
        size,
        start: 1_699_999_200_000 + 60_000 * minute,
    };
    BarWrite {
        key,
        state: BarState { epoch: 3, totals },
        packed: PackedBars::default(),
        write_timestamp: WRITE_TIMESTAMP,
    }
}

/// The directory entry of a bar.
pub(crate) fn entry(key: &BarKey) -> DirectoryEntry {
    DirectoryEntry::of(key)
}

/// This number of different bars of a few symbols, with their directory entries.
pub(crate) fn writes(rows: i64) -> EpochWrites {
    let one = |n: i64| {
        let sums = Sums {
            volume_e8: 100_000_000 * i128::from(n + 1),
            notional_e16: 16_406_010_000 * 100_000_000 * i128::from(n + 1),
            trades: 1,
        };
        let price = Price::from_e8(16_406_010_000 + n).ok();
        row(
            &format!("S{}", n % 40),
            n / 40,
            Totals {
                sums: [sums; 3],
                priced: 1,
                high: price,
                low: price,
                ..Totals::default()
            },
        )
    };
    let rows: Vec<_> = (0..rows).map(one).collect();
    let mut directory: Vec<_> = rows.iter().map(|row| entry(&row.key)).collect();
    directory.sort();
    directory.dedup();
    EpochWrites {
        directory,
        bars: rows,
        ..EpochWrites::default()
    }
}
