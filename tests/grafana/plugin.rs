//! What the Cassandra plugin can read, of what Cassandra answers. Its rules are those of version
//! 3.3, seen by asking its own backend the same queries.

use libtest_mimic::Failed;
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    cluster::metadata::{ColumnType, NativeType},
    response::PagingState,
    statement::Statement,
    value::{CqlValue, Row},
};

use crate::CQL_PORT;

/// Rows of a page. The plugin's driver asks for pages, and Cassandra refuses some queries by page
/// (IN on the partition key with ORDER BY).
const PAGE: i32 = 5_000;

/// What came of a query.
pub(crate) struct Table {
    /// Columns, with their type.
    pub(crate) columns: Vec<(String, NativeType)>,
    /// Rows, a value a column.
    pub(crate) rows: Vec<Vec<CqlValue>>,
}

impl Table {
    /// Where a column stands.
    pub(crate) fn at(&self, name: &str) -> Result<usize, String> {
        self.columns
            .iter()
            .position(|(column, _)| column == name)
            .ok_or_else(|| format!("no column {name}"))
    }
}

/// A session as the plugin has one, in a keyspace.
pub(crate) async fn session(keyspace: &str) -> Result<Session, Failed> {
    let session = SessionBuilder::new()
        .known_node(format!("127.0.0.1:{CQL_PORT}"))
        .use_keyspace(keyspace, false)
        .build()
        .await;
    session.map_err(|fault| format!("keyspace {keyspace}: {fault}").into())
}

/// Asks, and refuses what the plugin would refuse, or would draw as what it is not.
pub(crate) async fn ask(session: &Session, query: &str) -> Result<Table, String> {
    if !query.starts_with("SELECT ") {
        return Err(format!("the plugin takes SELECT alone: {query}"));
    }
    let statement = Statement::new(query).with_page_size(PAGE);
    let answer = session
        .query_single_page(statement, (), PagingState::start())
        .await
        .map_err(|fault| format!("{query}: {fault}"))?;
    let result = answer
        .0
        .into_rows_result()
        .map_err(|fault| format!("{query}: {fault}"))?;
    let mut columns = Vec::new();
    for column in result.column_specs().iter() {
        let ColumnType::Native(kind) = column.typ() else {
            return Err(format!(
                "{} is a collection, which the plugin cannot read: {query}",
                column.name()
            ));
        };
        if matches!(
            kind,
            NativeType::Decimal | NativeType::Time | NativeType::Duration | NativeType::Blob
        ) {
            return Err(format!(
                "{} is a {kind:?}, which the plugin cannot read: {query}",
                column.name()
            ));
        }
        columns.push((column.name().to_owned(), kind.clone()));
    }
    let Some((id, kind)) = columns.first() else {
        return Err(format!("no column: {query}"));
    };
    if matches!(
        kind,
        NativeType::SmallInt | NativeType::Varint | NativeType::Inet
    ) {
        return Err(format!(
            "{id} is a {kind:?}, which the plugin does not take as the name of a series: {query}"
        ));
    }
    let mut rows = Vec::new();
    for row in result
        .rows::<Row>()
        .map_err(|fault| format!("{query}: {fault}"))?
    {
        let row = row.map_err(|fault| format!("{query}: {fault}"))?;
        let values: Option<Vec<CqlValue>> = row.columns.into_iter().collect();
        // The plugin makes 0 of a null number, which is a price nobody paid.
        rows.push(values.ok_or_else(|| format!("a null: {query}"))?);
    }
    Ok(Table { columns, rows })
}

/// The first column as a variable's values: as Go prints them, each once. A null number is 0.
pub(crate) async fn variable(session: &Session, query: &str) -> Result<Vec<String>, String> {
    let statement = Statement::new(query).with_page_size(PAGE);
    let answer = session
        .query_single_page(statement, (), PagingState::start())
        .await
        .map_err(|fault| format!("{query}: {fault}"))?;
    let result = answer
        .0
        .into_rows_result()
        .map_err(|fault| format!("{query}: {fault}"))?;
    let mut values: Vec<String> = Vec::new();
    for row in result
        .rows::<Row>()
        .map_err(|fault| format!("{query}: {fault}"))?
    {
        let mut row = row.map_err(|fault| format!("{query}: {fault}"))?;
        let value = match row.columns.swap_remove(0) {
            Some(CqlValue::Text(text)) => text,
            Some(CqlValue::BigInt(number)) => number.to_string(),
            None => "0".to_owned(),
            // A timestamp is printed as Go does, which is no literal of CQL.
            other => {
                return Err(format!(
                    "{other:?} does not come back as it goes out: {query}"
                ));
            }
        };
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}
