//! The contract suite: the behaviour of every store, checked only through the traits.
//!
//! A check takes a new, empty store and panics if the store breaks the contract. Test targets run
//! [`CHECKS`] on their store. The checks do not know which store it is, and write only what a job
//! could write.

mod bars;
mod checkpoint;
mod expiry;
mod records;
mod views;

use std::sync::Arc;

use futures::future::BoxFuture;
use tapeflow_protocol::{DirectoryEntry, EpochWrites, Store};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, PackedBars, Position, Price, Sums, Symbol, Totals, WindowSize,
    WindowStart, WriteTimestamp, totals::Mark,
};

/// The job whose checkpoint the checks write.
pub(crate) const JOB: &str = "contract";

/// A check. It panics if the store breaks the contract.
pub(crate) type Check = fn(Arc<dyn Store>) -> BoxFuture<'static, ()>;

/// All checks. The name states the contract.
pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("an_unwritten_checkpoint_is_absent", |store| {
        Box::pin(checkpoint::an_unwritten_checkpoint_is_absent(store))
    }),
    ("the_first_checkpoint_is_created_once", |store| {
        Box::pin(checkpoint::the_first_checkpoint_is_created_once(store))
    }),
    ("a_checkpoint_is_read_back_field_by_field", |store| {
        Box::pin(checkpoint::a_checkpoint_is_read_back_field_by_field(store))
    }),
    (
        "a_checkpoint_that_is_too_long_is_refused_for_good",
        |store| Box::pin(checkpoint::a_checkpoint_that_is_too_long_is_refused_for_good(store)),
    ),
    ("a_stale_expectation_loses", |store| {
        Box::pin(checkpoint::a_stale_expectation_loses(store))
    }),
    (
        "the_same_proposal_again_loses_and_changes_nothing",
        |store| Box::pin(checkpoint::the_same_proposal_again_loses_and_changes_nothing(store)),
    ),
    ("a_chain_of_checkpoints_wins_step_by_step", |store| {
        Box::pin(checkpoint::a_chain_of_checkpoints_wins_step_by_step(store))
    }),
    ("of_concurrent_creations_exactly_one_wins", |store| {
        Box::pin(checkpoint::of_concurrent_creations_exactly_one_wins(store))
    }),
    ("of_concurrent_proposals_exactly_one_wins", |store| {
        Box::pin(checkpoint::of_concurrent_proposals_exactly_one_wins(store))
    }),
    ("bars_are_read_in_the_order_of_the_keys", |store| {
        Box::pin(bars::bars_are_read_in_the_order_of_the_keys(store))
    }),
    ("nothing_to_read_or_write_is_no_error", |store| {
        Box::pin(bars::nothing_to_read_or_write_is_no_error(store))
    }),
    (
        "the_greater_write_timestamp_wins_in_any_order_of_arrival",
        |store| Box::pin(bars::the_greater_write_timestamp_wins_in_any_order_of_arrival(store)),
    ),
    (
        "an_equal_write_timestamp_with_equal_content_is_harmless",
        |store| Box::pin(bars::an_equal_write_timestamp_with_equal_content_is_harmless(store)),
    ),
    ("each_bar_of_a_write_has_its_own_write_timestamp", |store| {
        Box::pin(bars::each_bar_of_a_write_has_its_own_write_timestamp(store))
    }),
    ("unusual_symbols_are_kept_apart_and_whole", |store| {
        Box::pin(bars::unusual_symbols_are_kept_apart_and_whole(store))
    }),
    ("extreme_values_are_kept_exactly", |store| {
        Box::pin(bars::extreme_values_are_kept_exactly(store))
    }),
    ("thousands_of_bars_fit_one_write_and_one_read", |store| {
        Box::pin(bars::thousands_of_bars_fit_one_write_and_one_read(store))
    }),
    ("packed_bars_are_read_as_bars_of_their_size", |store| {
        Box::pin(bars::packed_bars_are_read_as_bars_of_their_size(store))
    }),
    (
        "concurrent_writers_of_one_bar_leave_the_greatest_write_timestamp",
        |store| {
            Box::pin(bars::concurrent_writers_of_one_bar_leave_the_greatest_write_timestamp(store))
        },
    ),
    ("ranges_are_half_open_and_cross_buckets", |store| {
        Box::pin(records::ranges_are_half_open_and_cross_buckets(store))
    }),
    ("sizes_are_kept_apart", |store| {
        Box::pin(records::sizes_are_kept_apart(store))
    }),
    ("the_directory_leads_to_every_bar", |store| {
        Box::pin(records::the_directory_leads_to_every_bar(store))
    }),
    ("a_directory_entry_written_again_changes_nothing", |store| {
        Box::pin(records::a_directory_entry_written_again_changes_nothing(
            store,
        ))
    }),
    ("dead_letters_are_kept_whole_and_in_order", |store| {
        Box::pin(records::dead_letters_are_kept_whole_and_in_order(store))
    }),
    ("a_dead_letter_written_again_is_one_dead_letter", |store| {
        Box::pin(records::a_dead_letter_written_again_is_one_dead_letter(
            store,
        ))
    }),
    (
        "feed_gaps_are_read_by_time_and_one_written_again_is_one",
        |store| Box::pin(records::feed_gaps_are_read_by_time_and_one_written_again_is_one(store)),
    ),
    (
        "the_greater_write_timestamp_of_a_view_wins_in_any_order_of_arrival",
        |store| {
            Box::pin(
                views::the_greater_write_timestamp_of_a_view_wins_in_any_order_of_arrival(store),
            )
        },
    ),
    (
        "a_view_written_again_at_its_write_timestamp_is_harmless",
        |store| Box::pin(views::a_view_written_again_at_its_write_timestamp_is_harmless(store)),
    ),
    ("views_are_read_back_exactly", |store| {
        Box::pin(views::views_are_read_back_exactly(store))
    }),
    ("a_view_that_became_shorter_leaves_no_entries", |store| {
        Box::pin(views::a_view_that_became_shorter_leaves_no_entries(store))
    }),
    ("ranges_of_views_are_half_open_and_cross_buckets", |store| {
        Box::pin(views::ranges_of_views_are_half_open_and_cross_buckets(
            store,
        ))
    }),
    ("views_sizes_and_starts_are_kept_apart", |store| {
        Box::pin(views::views_sizes_and_starts_are_kept_apart(store))
    }),
    (
        "concurrent_writers_of_one_view_leave_the_greatest_write_timestamp",
        |store| {
            Box::pin(
                views::concurrent_writers_of_one_view_leave_the_greatest_write_timestamp(store),
            )
        },
    ),
    ("bars_and_views_fit_one_write", |store| {
        Box::pin(views::bars_and_views_fit_one_write(store))
    }),
    (
        "packed_bars_leave_their_minute_and_the_minute_stays",
        |store| {
            Box::pin(expiry::packed_bars_leave_their_minute_and_the_minute_stays(
                store,
            ))
        },
    ),
    (
        "a_write_of_the_job_wins_over_an_expiry_and_a_repeat_does_not",
        |store| {
            Box::pin(expiry::a_write_of_the_job_wins_over_an_expiry_and_a_repeat_does_not(store))
        },
    ),
    (
        "bars_with_rows_of_their_own_and_views_leave_before_a_time",
        |store| Box::pin(expiry::bars_with_rows_of_their_own_and_views_leave_before_a_time(store)),
    ),
    (
        "an_expiry_that_is_stopped_keeps_no_mark_and_goes_on_later",
        |store| Box::pin(expiry::an_expiry_that_is_stopped_keeps_no_mark_and_goes_on_later(store)),
    ),
    ("history_comes_newest_first", |store| {
        Box::pin(records::history_comes_newest_first(store))
    }),
    ("a_history_entry_written_again_is_one_entry", |store| {
        Box::pin(records::a_history_entry_written_again_is_one_entry(store))
    }),
];

/// A write timestamp of November 2023, in microseconds, plus some.
fn write_timestamp(plus: i64) -> WriteTimestamp {
    1_700_000_000_000_000 + plus
}

/// A window start in November 2023 for every size except the day, plus some milliseconds.
fn start(plus_ms: i64) -> WindowStart {
    1_699_999_200_000 + plus_ms
}

fn symbol(text: &str) -> Symbol {
    Symbol::new(text).expect("the suite's symbols are symbols")
}

fn size(text: &str) -> WindowSize {
    text.parse().expect("the suite's sizes are sizes")
}

fn key(name: &str, window: &str, start: WindowStart) -> BarKey {
    BarKey {
        symbol: symbol(name),
        size: size(window),
        start,
    }
}

/// A bar as of `epoch` with values computed from `seed`. Every field is set and differs for all
/// seeds below 1e6.
fn state(epoch: u64, seed: u32) -> BarState {
    let price = |plus: u32| {
        Price::from_e8(16_406_010_000 + i64::from(seed) * 10 + i64::from(plus)).expect("a price")
    };
    let mark = |plus: u32| Mark {
        event_ms: start(i64::from(seed + plus)),
        position: Position {
            partition: seed % 4,
            offset: i64::from(seed),
            index: plus,
        },
        price: price(plus),
    };
    let sums = |times: i128| Sums {
        volume_e8: 500_000_000 * times + i128::from(seed),
        notional_e16: 82_030_050_000_000_000_000 * times + i128::from(seed),
        trades: u64::from(seed) + 3,
    };
    let totals = Totals {
        sums: [sums(3), sums(2), sums(1)],
        priced: u64::from(seed) + 2,
        revision: u64::from(seed),
        high: Some(price(9)),
        low: Some(price(1)),
        first: Some(mark(2)),
        last: Some(mark(3)),
        sole_trades: u64::from(seed),
        sole_price_e8: i128::from(seed) * 7,
        first_trade_ms: Some(start(i64::from(seed))),
        last_trade_ms: Some(start(i64::from(seed) + 9)),
    };
    BarState { epoch, totals }
}

/// The writes of an epoch with these bars: the bars and their directory entries.
fn writes(rows: impl IntoIterator<Item = (BarKey, BarState, WriteTimestamp)>) -> EpochWrites {
    let rows: Vec<BarWrite> = rows
        .into_iter()
        .map(|(key, state, write_timestamp)| BarWrite {
            key,
            state,
            packed: PackedBars::default(),
            write_timestamp,
        })
        .collect();
    let mut directory: Vec<DirectoryEntry> = rows
        .iter()
        .map(|row| DirectoryEntry::of(&row.key))
        .collect();
    directory.sort();
    directory.dedup();
    EpochWrites {
        directory,
        bars: rows,
        ..EpochWrites::default()
    }
}
