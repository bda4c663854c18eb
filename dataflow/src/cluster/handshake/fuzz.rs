//! What must hold of any line that a process of the job sends in the handshake.

use super::*;

/// A line of the handshake, without its end, as a called process and a caller read it.
///
/// # Panics
/// If an unknown peer is welcome, or if an answer could not be read by its caller.
pub fn check_line(line: &[u8]) {
    if let Ok(answer) = of_line::<Answer>(line) {
        let again = to_line(&answer).expect("it was JSON");
        assert_eq!(of_line::<Answer>(&again).expect("its own line"), answer);
    }
    let Ok(hello) = of_line::<Hello>(line) else {
        return;
    };
    let again = to_line(&hello).expect("it was JSON");
    assert_eq!(of_line::<Hello>(&again).expect("its own line"), hello);
    for process in 0..3 {
        let config = ClusterConfig {
            job: "trades".into(),
            settings: "2 workers".into(),
            process,
            hosts: vec![String::new(); 3],
            nonce: "own".into(),
            secret: None,
            timeout: Duration::ZERO,
        };
        for known in [None, Some("n")] {
            check_answer(&hello, &config, known);
        }
    }
}

fn check_answer(hello: &Hello, config: &ClusterConfig, known: Option<&str>) {
    let answer = answer_to(hello, config, known);
    let belongs = hello.tapeflow_cluster == VERSION
        && hello.job == config.job
        && hello.settings == config.settings
        && hello.processes == config.hosts.len()
        && hello.to == config.process
        && (config.process + 1..config.hosts.len()).contains(&hello.from);
    let is_refused = matches!(answer, Answer::Refused { .. });
    assert_eq!(is_refused, !belongs, "{hello:?}: {answer:?}");
    if let Answer::Welcome { nonce } = &answer {
        assert_eq!(Some(&**nonce), known);
        match &hello.nonce {
            Some(theirs) => assert_eq!(theirs, nonce),
            None => assert_eq!(config.process, 0, "only process 0 tells the nonce"),
        }
    }
    let line = to_line(&answer).expect("JSON");
    assert!(line.len() <= MAX_LINE_BYTES, "{} bytes", line.len());
    let read: Answer = of_line(&line[..line.len() - 1]).expect("its caller reads it");
    assert_eq!(read, answer);
}
