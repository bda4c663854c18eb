//! The job on real Kafka and real Cassandra, as a user runs it: the binary, its commands, several
//! processes, killed at bad moments.
//!
//! Where java or mvn are missing each test is listed as not run, with the reason;
//! `TAPEFLOW_REQUIRE_STACK=1` makes it fail instead.
//! `TAPEFLOW_SERVERS_{TRADES,SYMBOLS,KILLS,SPEED}` make the kill tests as large as wanted (see
//! bench/results/spine.md), and `TAPEFLOW_SERVERS_LOOKS` the audits beside a job.

mod bench;
mod documents;
use tapeflow_stack::servers as dev_stack;
use tapeflow_support::{binary, blocks};
mod golden;
mod intruder;
mod job;
mod kill;
mod looks;
mod recordings;
mod repair;
mod supervised;
use tapeflow_stack::trials;

use dev_stack::{Layout, Stack};
use libtest_mimic::{Arguments, Failed};

/// Ports of this target alone, below those the system hands out.
pub(crate) const KAFKA_PORT: u16 = 22_092;
/// The CQL port of this target alone.
pub(crate) const CQL_PORT: u16 = 22_042;

static STACK: Stack = Stack::new(Layout {
    name: "test-servers",
    arguments: &[],
    ports: &[
        ("KAFKA_PORT", KAFKA_PORT),
        ("CQL_PORT", CQL_PORT),
        ("STORAGE_PORT", 22_000),
        ("JMX_PORT", 22_199),
    ],
});

type Test = fn() -> Result<(), Failed>;

const TESTS: [(&str, Test); 15] = [
    (
        "the_recorded_trades_give_the_golden_csv_for_any_workers_and_processes",
        golden::recorded_trades,
    ),
    (
        "one_symbol_with_99_percent_of_the_trades_is_exact",
        golden::one_heavy_symbol,
    ),
    (
        "bad_configuration_is_refused_with_code_2_before_anything_is_written",
        golden::refusals,
    ),
    (
        "bad_records_become_dead_letters_and_the_stream_goes_on",
        golden::dead_letters,
    ),
    (
        "a_recording_counts_once_when_it_was_interrupted_and_has_grown",
        recordings::grown,
    ),
    (
        "killing_one_of_two_processes_loses_and_doubles_nothing",
        kill::one_of_two,
    ),
    (
        "killing_the_whole_job_loses_and_doubles_nothing",
        kill::whole_job,
    ),
    (
        "a_supervised_job_comes_back_after_pauses_and_kills_and_loses_nothing",
        supervised::paused_killed_and_orphaned,
    ),
    (
        "processes_that_do_not_agree_are_refused",
        supervised::disagreeing,
    ),
    (
        "bits_that_are_flipped_between_two_processes_are_never_committed",
        intruder::flipped_bits,
    ),
    (
        "of_two_jobs_under_one_name_the_later_goes_on_and_the_earlier_ends",
        supervised::two_under_one_name,
    ),
    (
        "what_was_written_by_hand_is_found_and_repaired_beside_a_supervised_job",
        repair::beside_a_job,
    ),
    (
        "audits_beside_a_job_at_full_load_report_no_difference",
        looks::beside_a_job_at_full_load,
    ),
    (
        "a_bench_is_right_reads_its_topic_again_and_leaves_those_of_others_alone",
        bench::on_servers,
    ),
    (
        "the_shell_blocks_of_the_documents_that_need_servers_run",
        documents::server_blocks,
    ),
];

fn main() {
    let mut arguments = Arguments::from_args();
    // They share two servers and two cores.
    arguments.test_threads = Some(1);
    let tests = TESTS.map(|(name, test)| {
        (name, move || {
            STACK.up().map_err(Failed::from).and_then(|()| test())
        })
    });
    let conclusion =
        libtest_mimic::run(&arguments, trials::on_servers(&dev_stack::wanted(), tests));
    STACK.stop();
    conclusion.exit();
}
