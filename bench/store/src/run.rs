//! The layouts, their workloads, and the rounds in which they take turns.

use scylla::client::session::Session;
use tapeflow_schemas::WindowSize;

use crate::{
    Settings, Store,
    cassandra::{self, Bars, Columns, Partition, Table},
    cost::{self, Figure},
    feed::{self, Epochs, Statement},
    report,
    servers::Servers,
    sqlite::{self, Layout},
};

/// Trades of an epoch of the mix, in one second.
const OF_AN_EPOCH: usize = 400;
/// How many epochs of the mix there are at most: two minutes and a half.
const MOST_EPOCHS: u64 = 150;
/// Six sizes of a symbol.
const SIX: [&str; 6] = ["1m", "5m", "15m", "1h", "4h", "1d"];
/// Rows of one partition in one statement.
const RUN: usize = 32;

/// A layout of Cassandra, what is written into it, and what that cost in each round.
pub(crate) struct CassandraCase {
    pub(crate) name: &'static str,
    table: Table,
    statements: usize,
    /// Bars that the rows hold, and those that were read back.
    bars: u64,
    read_bars: u64,
    pub(crate) figures: CassandraFigures,
}

/// Of each round, a bar.
#[derive(Default)]
pub(crate) struct CassandraFigures {
    pub(crate) client_us: Figure,
    pub(crate) server_us: Figure,
    pub(crate) flush_us: Figure,
    pub(crate) disk_bytes: Figure,
    pub(crate) cell_bytes: Figure,
    pub(crate) read_client_us: Figure,
    pub(crate) read_server_us: Figure,
}

/// A layout of SQLite and what it cost in each round.
pub(crate) struct SqliteCase {
    pub(crate) name: &'static str,
    layout: Layout,
    is_packed: bool,
    pub(crate) figures: SqliteFigures,
}

/// Of each round, a bar.
#[derive(Default)]
pub(crate) struct SqliteFigures {
    pub(crate) cpu_us: Figure,
    pub(crate) written_bytes: Figure,
    pub(crate) disk_bytes: Figure,
    pub(crate) read_us: Figure,
}

/// What has been measured so far.
#[derive(Default)]
pub(crate) struct Results {
    /// By the number of nodes.
    pub(crate) cassandra: Vec<(u8, Vec<CassandraCase>)>,
    pub(crate) sqlite: Vec<SqliteCase>,
}

/// Measures what the settings ask for; the report is written after each store.
///
/// # Errors
/// A store or the report's file refuses.
pub(crate) fn run(settings: &Settings) -> Result<(), String> {
    let mut results = Results::default();
    if settings.only != Some(Store::Cassandra) {
        results.sqlite = measure_sqlite(settings)?;
        report::write(settings, &results)?;
    }
    if settings.only != Some(Store::Sqlite) {
        for nodes in &settings.nodes {
            let cases = measure_cassandra(settings, *nodes)?;
            results.cassandra.push((*nodes, cases));
            report::write(settings, &results)?;
        }
    }
    print!("{}", report::text(settings, &results));
    Ok(())
}

/// The workloads of Cassandra: each is a list of statements, and each of these is of one symbol.
struct Workloads {
    lists: Vec<Vec<Statement>>,
}

/// Indexes into the lists.
const SIX_SIZES: usize = 0;
const RUNS: usize = 1;
const FULL_MINUTES: usize = 2;
const SPARSE_MINUTES: usize = 3;
const GROWING_MINUTES: usize = 4;
const MIX: usize = 5;
const PACKED_MIX: usize = 6;

impl Workloads {
    fn of(bars: usize) -> Self {
        let six: Vec<WindowSize> = SIX
            .iter()
            .map(|size| size.parse().expect("a size"))
            .collect();
        let six_sizes = feed::epochs(&Epochs {
            epochs: u64::try_from(bars / 6 / 200).unwrap_or(1).max(1),
            step_ms: 60_000,
            trades: OF_AN_EPOCH,
            sizes: six,
        });
        // An epoch of 400 trades has about 240 symbols, so 1,200 bars of five sizes.
        let mix = mix(u64::try_from(bars / 1_000)
            .unwrap_or(1)
            .clamp(1, MOST_EPOCHS));
        let packed_mix = feed::packed(&mix);
        Self {
            lists: vec![
                six_sizes.concat(),
                feed::runs(bars / RUN, RUN),
                feed::minutes(bars / 30, 60),
                feed::minutes(bars / 10, 10),
                feed::growing_minutes(bars / 60, 60),
                mix.concat(),
                packed_mix.concat(),
            ],
        }
    }
}

fn mix(epochs: u64) -> Vec<Vec<Statement>> {
    feed::epochs(&Epochs {
        epochs,
        step_ms: 1_000,
        trades: OF_AN_EPOCH,
        sizes: WindowSize::DEFAULTS.to_vec(),
    })
}

fn cassandra_cases(workloads: &Workloads) -> Vec<CassandraCase> {
    use Columns::{Cell, Lean, Wide};
    use Partition::{Size, Symbol};
    let case = |name, columns, partition, statements: usize| {
        let list = &workloads.lists[statements];
        let bars_of = |list: &mut dyn Iterator<Item = &Statement>| -> u64 {
            list.map(|rows| bars_in(statements, rows)).sum()
        };
        CassandraCase {
            name,
            table: Table { columns, partition },
            statements,
            bars: bars_of(&mut list.iter()),
            read_bars: bars_of(&mut list.iter().step_by(cassandra::READ_ONE_OF)),
            figures: CassandraFigures::default(),
        }
    };
    vec![
        case(
            "six sizes: today's 19 columns, six partitions",
            Wide,
            Size,
            SIX_SIZES,
        ),
        case(
            "six sizes: lean columns, six partitions",
            Lean,
            Size,
            SIX_SIZES,
        ),
        case(
            "six sizes: cell alone, six partitions",
            Cell,
            Size,
            SIX_SIZES,
        ),
        case(
            "six sizes: today's 19 columns, one partition",
            Wide,
            Symbol,
            SIX_SIZES,
        ),
        case(
            "six sizes: lean columns, one partition",
            Lean,
            Symbol,
            SIX_SIZES,
        ),
        case(
            "six sizes: cell alone, one partition",
            Cell,
            Symbol,
            SIX_SIZES,
        ),
        case(
            "32 rows of a partition: today's 19 columns",
            Wide,
            Size,
            RUNS,
        ),
        case("32 rows of a partition: lean columns", Lean, Symbol, RUNS),
        case("32 rows of a partition: cell alone", Cell, Symbol, RUNS),
        case(
            "a minute of 60 seconds, written once",
            Cell,
            Symbol,
            FULL_MINUTES,
        ),
        case(
            "a minute of 10 seconds, written once",
            Cell,
            Symbol,
            SPARSE_MINUTES,
        ),
        case(
            "a minute rewritten with each of 60 seconds",
            Cell,
            Symbol,
            GROWING_MINUTES,
        ),
        case("mix of five sizes: today's", Wide, Size, MIX),
        case(
            "mix: lean columns, one partition, a row a second",
            Lean,
            Symbol,
            MIX,
        ),
        case(
            "mix: lean columns, one partition, seconds packed",
            Lean,
            Symbol,
            PACKED_MIX,
        ),
        case(
            "mix: cell alone, one partition, seconds packed",
            Cell,
            Symbol,
            PACKED_MIX,
        ),
    ]
}

/// How many bars a statement writes: packed seconds are bars, and a minute written once is all of
/// its seconds.
fn bars_in(workload: usize, rows: &Statement) -> u64 {
    let bars = match workload {
        FULL_MINUTES => 60,
        SPARSE_MINUTES => 10,
        // The seconds that were there before are written again: one bar changes.
        GROWING_MINUTES => 1,
        PACKED_MIX => rows.len() + 1,
        _ => rows.len(),
    };
    u64::try_from(bars).expect("few rows")
}

fn measure_cassandra(settings: &Settings, nodes: u8) -> Result<Vec<CassandraCase>, String> {
    let workloads = Workloads::of(usize::try_from(settings.bars).unwrap_or(usize::MAX));
    let mut cases = cassandra_cases(&workloads);
    eprintln!("starting {nodes} node(s) of Cassandra");
    let servers = Servers::start(&settings.stack, settings.ports, nodes)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let rounds = async {
        let session = cassandra::connect(&servers).await?;
        let mut tables: Vec<(Table, Bars)> = Vec::new();
        for case in &cases {
            if tables.iter().all(|(table, _)| *table != case.table) {
                tables.push((case.table, Bars::create(&session, case.table).await?));
            }
        }
        let mut timestamp = 1;
        for round in 0..=settings.rounds {
            for at in turns(cases.len(), round) {
                let case = &mut cases[at];
                let (_, bars) = tables
                    .iter()
                    .find(|(table, _)| *table == case.table)
                    .ok_or("every case has a table")?;
                let list = &workloads.lists[case.statements];
                let costs = bars.measure(&session, &servers, list, timestamp).await?;
                timestamp += i64::try_from(list.len()).unwrap_or(i64::MAX);
                case.add(round, &costs);
            }
        }
        Ok::<_, String>(session)
    };
    let session: Session = runtime.block_on(rounds)?;
    drop(session);
    Ok(cases)
}

impl CassandraCase {
    /// Takes in a round; the first one warms up.
    fn add(&mut self, round: u32, costs: &cassandra::Costs) {
        let (client_us, server_us) = (
            cost::us(costs.written.client, self.bars),
            cost::us(costs.written.servers, self.bars),
        );
        eprintln!(
            "round {round}: {}: client {client_us:.1} us a bar, Cassandra {server_us:.1}",
            self.name
        );
        if round == 0 {
            return;
        }
        let figures = &mut self.figures;
        figures.client_us.add(client_us);
        figures.server_us.add(server_us);
        if let Some((spent, bytes)) = costs.flushed {
            figures.flush_us.add(cost::us(spent, self.bars));
            figures.disk_bytes.add(cost::bytes(bytes, self.bars));
        }
        figures
            .cell_bytes
            .add(cost::bytes(costs.cell_bytes, self.bars));
        figures
            .read_client_us
            .add(cost::us(costs.read.client, self.read_bars));
        figures
            .read_server_us
            .add(cost::us(costs.read.servers, self.read_bars));
    }
}

fn sqlite_cases() -> Vec<SqliteCase> {
    let case = |name, layout, is_packed| SqliteCase {
        name,
        layout,
        is_packed,
        figures: SqliteFigures::default(),
    };
    vec![
        case(
            "today's: (symbol, size, start), 14 columns",
            Layout::Today,
            false,
        ),
        case(
            "lean: (symbol number, size, start)",
            Layout::BySymbol,
            false,
        ),
        case("lean: (size, start, symbol number)", Layout::ByTime, false),
        case(
            "the same with nine display columns",
            Layout::ByTimeWithColumns,
            false,
        ),
        case(
            "packed: (symbol number, size, minute)",
            Layout::BySymbol,
            true,
        ),
        case(
            "packed: (size, minute, symbol number)",
            Layout::ByTime,
            true,
        ),
        case(
            "the same with nine display columns",
            Layout::ByTimeWithColumns,
            true,
        ),
    ]
}

fn measure_sqlite(settings: &Settings) -> Result<Vec<SqliteCase>, String> {
    let rows = mix(u64::from(settings.epochs));
    let packed = feed::packed(&rows);
    let count = |epochs: &[Vec<Statement>], step: usize| -> u64 {
        let statements = epochs.iter().flatten().step_by(step);
        let bars: usize = statements.map(Vec::len).sum();
        u64::try_from(bars).unwrap_or(u64::MAX)
    };
    // Counted on the rows that are not packed: a bar is the same bar however it is stored.
    let (bars, read_bars) = (count(&rows, 1), count(&rows, sqlite::READ_ONE_OF));
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut cases = sqlite_cases();
    for round in 0..=settings.rounds {
        for at in turns(cases.len(), round) {
            let case = &mut cases[at];
            let path = folder.path().join(format!("{round}-{at}.sqlite"));
            let epochs = if case.is_packed { &packed } else { &rows };
            let costs = case.layout.measure(&path, epochs)?;
            std::fs::remove_file(&path).map_err(|error| error.to_string())?;
            case.add(round, &costs, bars, read_bars);
        }
    }
    Ok(cases)
}

impl SqliteCase {
    /// Takes in a round; the first one warms up.
    fn add(&mut self, round: u32, costs: &sqlite::Costs, bars: u64, read_bars: u64) {
        let cpu_us = cost::us(costs.written.client, bars);
        let written = cost::bytes(costs.bytes_written, bars);
        eprintln!(
            "round {round}: SQLite, {}: {cpu_us:.1} us and {written:.0} bytes a bar",
            self.name
        );
        if round == 0 {
            return;
        }
        let figures = &mut self.figures;
        figures.cpu_us.add(cpu_us);
        figures.written_bytes.add(written);
        figures
            .disk_bytes
            .add(cost::bytes(costs.bytes_on_disk, bars));
        figures.read_us.add(cost::us(costs.read.client, read_bars));
    }
}

/// The order of a round: each begins further on, so that no layout always comes first.
fn turns(cases: usize, round: u32) -> impl Iterator<Item = usize> {
    let first = usize::try_from(round).unwrap_or(0) * 5;
    (0..cases).map(move |at| (first + at) % cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_each_layout_once_and_begins_with_another() {
        let rounds: Vec<Vec<usize>> = (0..3).map(|round| turns(7, round).collect()).collect();
        assert_eq!(rounds[1], [5, 6, 0, 1, 2, 3, 4]);
        for round in rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_workload_has_about_as_many_bars_as_were_asked_for() {
        let workloads = Workloads::of(6_000);
        for case in cassandra_cases(&workloads) {
            assert!((4_000..13_000).contains(&case.bars), "{}", case.name);
        }
    }
}
