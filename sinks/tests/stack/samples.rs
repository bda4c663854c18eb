//! A head and some rows, as a job would write them.

use tapeflow_protocol::{
    Binding, Cut, DirectoryEntry, EpochWrites, Head, SourceIdentity, checkpoint::HEAD_FORMAT,
};
use tapeflow_schemas::{Price, RowKey, RowState, RowWrite, Sums, Symbol, Totals};

/// The stamp of the rows, in November 2023.
pub(crate) const STAMP: i64 = 1_700_000_000_000_003;

/// The first head of a job.
pub(crate) fn first_head(job: &str) -> Head {
    Head {
        format: HEAD_FORMAT,
        job: job.into(),
        generation: 1,
        version: 1,
        owner: format!("owner of {job}"),
        logic: "rules 1".into(),
        source: SourceIdentity {
            cluster: "cluster".into(),
            topic: "trades".into(),
            topic_id: None,
        },
        flush_stamp: STAMP,
        last_stamp: STAMP,
        committed: Binding {
            epoch: 0,
            stamp: STAMP,
            cuts: vec![Cut::default(); 4],
        },
        bound: Vec::new(),
    }
}

/// A minute of a symbol as of epoch 3.
pub(crate) fn row(symbol: &str, minute: i64, totals: Totals) -> RowWrite {
    let size = "1m".parse().expect("a size");
    let key = RowKey {
        symbol: Symbol::new(symbol).expect("a symbol"),
        size,
        start: 1_699_999_200_000 + 60_000 * minute,
    };
    RowWrite {
        key,
        state: RowState { epoch: 3, totals },
        stamp: STAMP,
    }
}

/// The directory entry that leads to a row.
pub(crate) fn entry(key: &RowKey) -> DirectoryEntry {
    DirectoryEntry {
        symbol: key.symbol.clone(),
        size: key.size,
        bucket: key.size.bucket(key.start),
    }
}

/// That many rows of a few symbols, all different, and the entries that lead to them.
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
        rows,
        ..EpochWrites::default()
    }
}
