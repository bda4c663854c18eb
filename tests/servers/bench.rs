//! `tapeflow bench` on real servers: every bar right, a topic that is kept and read again, and
//! hands off what it has not made.

use libtest_mimic::Failed;

use crate::job::{Feed, brokers, tapeflow, told};

/// Runs a bench that must end with this code; the last line on standard output and all it said.
fn bench(flags: &[&str], code: i32) -> Result<(String, String), Failed> {
    let (brokers, cassandra) = (brokers(), format!("127.0.0.1:{}", crate::CQL_PORT));
    let arguments = [
        &[
            "bench",
            "--json",
            "--brokers",
            &brokers,
            "--cassandra",
            &cassandra,
            "--market-symbols",
            "100",
            "--sizes",
            "1m,1h",
        ],
        flags,
    ]
    .concat();
    let output = tapeflow(&arguments)
        .output()
        .map_err(|fault| fault.to_string())?;
    let told = told(&arguments, &output);
    if output.status.code() == Some(code) {
        Ok((
            String::from_utf8_lossy(&output.stdout)
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned(),
            told,
        ))
    } else {
        Err(format!("code {code} was expected of {told}").into())
    }
}

fn figures(line: &str) -> Result<serde_json::Value, Failed> {
    Ok(serde_json::from_str(line).map_err(|fault| format!("{fault}: {line}"))?)
}

pub(crate) fn on_servers() -> Result<(), Failed> {
    let topic = "tapeflow_bench_kept";
    let feed = [
        "--trades",
        "5000",
        "--per-message",
        "4",
        "--bench-topic",
        topic,
    ];
    let first = figures(
        &bench(
            &[&feed[..], &["--keep", "--processes", "2", "--workers", "1"]].concat(),
            0,
        )?
        .0,
    )?;
    assert!(
        first["correct"] == true && first["fill_seconds"].as_f64() > Some(0.0),
        "{first}"
    );
    assert_eq!(
        (&first["messages"], &first["processes"]),
        (&1_250.into(), &2.into())
    );
    let second = figures(&bench(&feed, 0)?.0)?;
    assert!(
        second["correct"] == true && second["fill_seconds"].is_null(),
        "read again, not filled: {second}"
    );
    assert!(
        figures(&bench(&feed, 0)?.0)?["correct"] == true,
        "a topic that the run did not make stays"
    );
    let (_, said) = bench(&[&feed[..], &["--seed", "2"]].concat(), 2)?;
    assert!(
        said.contains("was not filled by this bench with these settings"),
        "{said}"
    );
    // One that somebody else has made, whatever it is called.
    Feed {
        topic: "tapeflow_bench_of_others".into(),
    }
    .init("tapeflow_bench_of_others")?;
    let (_, said) = bench(
        &[
            "--trades",
            "5000",
            "--bench-topic",
            "tapeflow_bench_of_others",
        ],
        2,
    )?;
    assert!(said.contains("it is another one's"), "{said}");
    let steady = figures(&bench(&["--rate", "300", "--duration", "2s"], 0)?.0)?;
    assert!(
        steady["correct"] == true && steady["freshness_ms"]["p99"].as_f64() > Some(0.0),
        "{steady}"
    );
    Ok(())
}
