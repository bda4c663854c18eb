//! What the comparisons with the reference implementation, apache-avro, share.

use apache_avro::{
    Schema, reader::datum::GenericDatumReader, types::Value, writer::datum::GenericDatumWriter,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// The fixed seeds, and a new one for each run. A failing test prints its seed.
pub(crate) fn seeded(check: impl Fn(&mut StdRng)) {
    for seed in (0..60).chain([StdRng::from_os_rng().random()]) {
        println!("seed {seed}");
        check(&mut StdRng::seed_from_u64(seed));
    }
}

fn schema(text: &str) -> Schema {
    Schema::parse_str(text).expect("our own schema")
}

pub(crate) fn write(schema_text: &str, value: Value) -> Vec<u8> {
    let schema = schema(schema_text);
    GenericDatumWriter::builder(&schema)
        .build()
        .expect("a writer")
        .write_value_to_vec(value)
        .expect("a datum")
}

/// Decodes with the reference implementation, which must use all bytes.
pub(crate) fn read(schema_text: &str, mut datum: &[u8]) -> Value {
    let schema = schema(schema_text);
    let value = GenericDatumReader::builder(&schema)
        .build()
        .expect("a reader")
        .read_value(&mut datum)
        .expect("a datum");
    assert!(datum.is_empty(), "the reference leaves nothing");
    value
}

pub(crate) fn single_object(fingerprint: u64, datum: &[u8]) -> Vec<u8> {
    [&[0xC3, 0x01], &fingerprint.to_le_bytes()[..], datum].concat()
}

pub(crate) fn record<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Record(
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}
