//! Dashboards, provisioning and alert rules, from both ends: against Grafana's own schema and the
//! names in the code; and every query of the dashboard *Market* on real Cassandra, filled in as
//! Grafana and its Cassandra plugin do.
//!
//! What needs no server always runs. The rest is listed as not run where java or mvn are missing;
//! `TAPEFLOW_REQUIRE_STACK=1` makes it fail instead.

#[path = "shared/binary.rs"]
mod binary;
use tapeflow_stack::servers as dev_stack;
#[path = "grafana/files.rs"]
mod files;
#[path = "grafana/fill.rs"]
mod fill;
#[path = "grafana/market.rs"]
mod market;
#[path = "grafana/plugin.rs"]
mod plugin;
#[path = "grafana/promql.rs"]
mod promql;
#[path = "grafana/provisioning.rs"]
mod provisioning;
#[path = "grafana/schema.rs"]
mod schema;
use tapeflow_stack::trials;

use dev_stack::{Layout, Stack};
use libtest_mimic::{Arguments, Failed, Trial};

/// Ports of this target alone, below those the system hands out.
pub(crate) const KAFKA_PORT: u16 = 22_592;
/// Likewise.
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

/// These read files.
const OFFLINE: [(&str, Test); 12] = [
    (
        "dashboards_keep_to_the_schema_of_grafana_11_3",
        schema::dashboards,
    ),
    (
        "a_misspelt_word_anywhere_in_a_dashboard_is_refused",
        schema::spoilt,
    ),
    (
        "every_panel_says_what_it_is_and_has_a_unit_and_thresholds",
        schema::told,
    ),
    (
        "panels_stand_beside_each_other_and_have_an_id_each",
        schema::places,
    ),
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
        "dashboards_ask_the_data_sources_that_are_provisioned",
        provisioning::data_sources,
    ),
    (
        "no_secret_stands_in_a_file_and_every_variable_is_documented",
        provisioning::variables,
    ),
    (
        "the_window_sizes_of_the_dashboard_are_those_of_the_job",
        market::sizes,
    ),
];

/// These ask real servers.
const ONLINE: [(&str, Test); 4] = [
    (
        "every_panel_and_variable_query_has_rows_the_plugin_can_read",
        market::queries,
    ),
    (
        "what_the_panels_draw_equals_what_tapeflow_prints",
        market::numbers,
    ),
    (
        "a_range_of_several_partitions_and_one_without_any_are_answered",
        market::ranges,
    ),
    (
        "queries_that_the_plugin_cannot_read_are_found",
        market::unreadable,
    ),
];

fn main() {
    let mut arguments = Arguments::from_args();
    // They share two servers and two cores.
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
