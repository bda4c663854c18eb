//! The blocks of README and docs that are marked `sh servers`, run as they are written.
//!
//! The stack is this target's own: its directory and ports come from the environment, and the ports
//! in the text are replaced.

use std::{collections::BTreeMap, ffi::OsString};

use libtest_mimic::Failed;

use crate::{
    CQL_PORT, KAFKA_PORT, STACK,
    blocks::{self, Needs},
};

pub(crate) fn server_blocks() -> Result<(), Failed> {
    let stack = STACK.command("up");
    let mut environment: BTreeMap<OsString, OsString> = stack
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    environment.insert("TAPEFLOW_HTTP".into(), "off".into());
    // Not those of the scratch folder, which would be downloaded again.
    let jars = std::env::var_os("TAPEFLOW_STACK_JARS").unwrap_or_else(|| {
        tapeflow_support::binary::root()
            .join("target/stack/jars")
            .into()
    });
    environment.insert("TAPEFLOW_STACK_JARS".into(), jars);
    let ports = [
        ("127.0.0.1:19092", format!("127.0.0.1:{KAFKA_PORT}")),
        ("127.0.0.1:19042", format!("127.0.0.1:{CQL_PORT}")),
    ];
    for document in blocks::documents() {
        blocks::run(&document, Needs::Servers, &environment, &ports)?;
    }
    Ok(())
}
