//! Tests of dashboards, provisioning and alert rules.
//!
//! The offline tests compare the files with Grafana's schema and with the names in the code. The
//! online tests run every query of the dashboard *Market* on real Cassandra, filled in as Grafana
//! and its Cassandra plugin do. Without java or mvn they are listed as not run;
//! `TAPEFLOW_REQUIRE_STACK=1` makes them fail instead.

use tapeflow_stack::servers as dev_stack;
use tapeflow_support::binary;
mod files;
mod fill;
mod market;
mod plugin;
mod promql;
mod provisioning;
mod schema;
use tapeflow_stack::trials;

use dev_stack::{Layout, Stack};
use libtest_mimic::{Arguments, Failed, Trial};

/// A port that only this target uses, below the system's ephemeral ports.
pub(crate) const KAFKA_PORT: u16 = 22_592;
/// A port that only this target uses, below the system's ephemeral ports.
pub(crate) const CQL_PORT: u16 = 22_542;

static STACK: Stack = Stack::new(Layout {
    name: "test-grafana",
    arguments: &[],
    ports: &[
        ("KAFKA_PORT", KAFKA_PORT),
        ("CQL_PORT", CQL_PORT),
        ("STORAGE_PORT", 22_500),
        ("JMX_PORT", 22_599),
    ],
});

type Test = fn() -> Result<(), Failed>;

/// Tests that only read files.
const OFFLINE: [(&str, Test); 13] = [
    (
        "dashboards_keep_to_the_schema_of_grafana_11_3",
        schema::dashboards,
    ),
    (
        "an_unknown_key_or_value_anywhere_in_a_dashboard_is_refused",
        schema::broken,
    ),
    (
        "every_panel_has_a_description_a_unit_and_thresholds",
        schema::described,
    ),
    ("panels_do_not_overlap_and_have_an_id_each", schema::places),
    ("every_expression_is_promql", promql::syntax),
    (
        "every_metric_of_dashboards_and_alerts_exists_and_every_metric_is_used",
        promql::metrics,
    ),
    (
        "labels_in_expressions_are_those_of_their_metrics",
        promql::labels,
    ),
    (
        "alert_rules_say_what_to_do_and_have_a_runbook",
        provisioning::alerts,
    ),
    (
        "grafanas_own_alert_rules_are_those_for_prometheus",
        provisioning::same_alerts,
    ),
    (
        "dashboards_query_the_data_sources_that_are_provisioned",
        provisioning::data_sources,
    ),
    (
        "no_file_holds_a_secret_and_every_variable_is_documented",
        provisioning::variables,
    ),
    (
        "the_window_sizes_of_the_dashboard_are_those_of_the_job",
        market::sizes,
    ),
    (
        "the_quote_currencies_of_the_dashboard_are_known",
        market::quotes,
    ),
];

/// Tests that query real servers.
const ONLINE: [(&str, Test); 4] = [
    (
        "every_panel_and_variable_query_has_rows_the_plugin_can_read",
        market::queries,
    ),
    (
        "the_panels_draw_the_values_that_tapeflow_prints",
        market::numbers,
    ),
    (
        "ranges_of_many_partitions_and_of_none_return_the_right_bars",
        market::ranges,
    ),
    (
        "queries_that_the_plugin_cannot_read_are_found",
        market::unreadable,
    ),
];

fn main() {
    let mut arguments = Arguments::from_args();
    // The tests share two servers and two cores.
    arguments.test_threads = Some(1);
    let online = ONLINE.map(|(name, test)| {
        (name, move || {
            STACK.up().map_err(Failed::from).and_then(|()| test())
        })
    });
    let mut all = trials::on_servers(&dev_stack::wanted(), online);
    all.extend(OFFLINE.map(|(name, test)| Trial::test(name, test)));
    let conclusion = libtest_mimic::run(&arguments, all);
    STACK.stop();
    conclusion.exit();
}
