//! The limits of the Cassandra plugin: which results of Cassandra it can read. The rules are those
//! of version 3.3, found by sending the same queries through its backend.

use libtest_mimic::Failed;
use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    cluster::metadata::{ColumnType, NativeType},
    response::PagingState,
    statement::Statement,
    value::{CqlValue, Row},
};

use crate::CQL_PORT;

/// The page size in rows. The plugin's driver pages, and Cassandra refuses some queries when paged
/// (IN on the partition key with ORDER BY).
const PAGE: i32 = 5_000;

/// The result of a query.
pub(crate) struct Table {
    /// The name and type of each column.
    pub(crate) columns: Vec<(String, NativeType)>,
    /// The rows, with one value per column.
    pub(crate) rows: Vec<Vec<CqlValue>>,
}

impl Table {
    /// The index of a column.
    pub(crate) fn at(&self, name: &str) -> Result<usize, String> {
        self.columns
            .iter()
            .position(|(column, _)| column == name)
            .ok_or_else(|| format!("no column {name}"))
    }
}

/// Opens a session in a keyspace, as the plugin does.
pub(crate) async fn session(keyspace: &str) -> Result<Session, Failed> {
    let session = SessionBuilder::new()
        .known_node(format!("127.0.0.1:{CQL_PORT}"))
        .use_keyspace(keyspace, false)
        .build()
        .await;
    session.map_err(|error| format!("keyspace {keyspace}: {error}").into())
}

/// Runs a query. It fails if the plugin would fail, or would draw a wrong value.
pub(crate) async fn ask(session: &Session, query: &str) -> Result<Table, String> {
    if !query.starts_with("SELECT ") {
        return Err(format!("the plugin accepts only SELECT: {query}"));
    }
    let statement = Statement::new(query).with_page_size(PAGE);
    let answer = session
        .query_single_page(statement, (), PagingState::start())
        .await
        .map_err(|error| format!("{query}: {error}"))?;
    let result = answer
        .0
        .into_rows_result()
        .map_err(|error| format!("{query}: {error}"))?;
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
            "{id} is a {kind:?}, which the plugin does not accept as a series name: {query}"
        ));
    }
    let mut rows = Vec::new();
    for row in result
        .rows::<Row>()
        .map_err(|error| format!("{query}: {error}"))?
    {
        let row = row.map_err(|error| format!("{query}: {error}"))?;
        let values: Option<Vec<CqlValue>> = row.columns.into_iter().collect();
        // The plugin draws a null number as 0, which is not a price.
        rows.push(values.ok_or_else(|| format!("a null: {query}"))?);
    }
    Ok(Table { columns, rows })
}

/// The values of a variable: the first column, as Go prints it, without duplicates. A null number
/// is 0.
pub(crate) async fn variable(session: &Session, query: &str) -> Result<Vec<String>, String> {
    let statement = Statement::new(query).with_page_size(PAGE);
    let answer = session
        .query_single_page(statement, (), PagingState::start())
        .await
        .map_err(|error| format!("{query}: {error}"))?;
    let result = answer
        .0
        .into_rows_result()
        .map_err(|error| format!("{query}: {error}"))?;
    let mut values: Vec<String> = Vec::new();
    for row in result
        .rows::<Row>()
        .map_err(|error| format!("{query}: {error}"))?
    {
        let mut row = row.map_err(|error| format!("{query}: {error}"))?;
        let value = match row.columns.swap_remove(0) {
            Some(CqlValue::Text(text)) => text,
            Some(CqlValue::BigInt(number)) => number.to_string(),
            None => "0".to_owned(),
            // Go prints a timestamp in a form that is not a CQL literal.
            other => {
                return Err(format!(
                    "{other:?} cannot be used in another query: {query}"
                ));
            }
        };
        if !values.contains(&value) {
            values.push(value);
        }
    }
    Ok(values)
}
