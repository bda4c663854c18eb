//! The packed parts of a checkpoint: its duplicate filters and its last records. They are in a text
//! that is sound apart from them, as the fuzzer makes no base64.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::checkpoint::check_text;

/// The most partitions and bindings.
const PARTITIONS: u8 = 4;
const BINDINGS: u8 = 4;

/// The number of partitions, the number of bindings, and for each binding its last records and its
/// filters, each after its length in one byte.
pub(crate) fn check(bytes: &[u8]) {
    let Some(([partitions, bindings], mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let partitions = 1 + partitions % PARTITIONS;
    let bindings: Vec<String> = (1..=1 + u64::from(bindings % BINDINGS))
        .map(|epoch| {
            let (last, filters) = (take(&mut rest), take(&mut rest));
            binding(epoch, partitions, last, filters)
        })
        .collect();
    let (committed, bound) = bindings.split_first().expect("one at least");
    check_text(&format!(
        r#"{{"format":3,"job":"j","generation":1,"version":1,"owner":"o","fingerprint":"f",
        "source":{{"cluster":"c","topic":"t","topic_id":null}},"datacenter":null,
        "recovery_timestamp":1,"last_write_timestamp":9,"committed":{committed},"bound":[{}]}}"#,
        bound.join(",")
    ));
}

/// The next bytes, as many as the first of them says.
fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let Some((length, tail)) = rest.split_first() else {
        return &[];
    };
    let (taken, tail) = tail.split_at(usize::from(*length).min(tail.len()));
    *rest = tail;
    taken
}

fn binding(epoch: u64, partitions: u8, last: &[u8], filters: &[u8]) -> String {
    let each = |value: &str| vec![value; usize::from(partitions)].join(",");
    let mut text = String::new();
    write!(
        text,
        r#"{{"epoch":{epoch},"write_timestamp":{epoch},"next":[{}],"watermark_ms":[{}],
        "last":"{}","lost":{{}},"filters":"{}"}}"#,
        each(&(1_000 * epoch).to_string()),
        each("null"),
        STANDARD.encode(last),
        STANDARD.encode(filters)
    )
    .expect("into memory");
    text
}
