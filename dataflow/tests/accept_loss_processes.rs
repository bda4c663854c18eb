//! Offsets that are gone from a partition of a process other than the coordinator's. A target of
//! its own, because a process of a job of several exits when any of its threads panics.

mod support;

use std::{net::TcpListener, sync::Arc};

use support::{
    check::check_without,
    feed::feed_as,
    interrupted_run::{Interruption, checkpoint, clear_of_repeats, loss_letters, next, run_with},
    job::{block_on, config, io},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::{JobConfig, Metrics, Stop, run};
use tapeflow_protocol::LostRange;
use tapeflow_schemas::{Secret, SessionId};
use tapeflow_sinks::memory::MemoryStore;

#[test]
fn a_loss_in_another_process_is_bound_and_counted_there() {
    let (log, store) = (MemoryLog::new(2), Arc::new(MemoryStore::new()));
    feed_as(&log, SessionId([1; 16]), 1, 300);
    run_with(&config(1, 8), &log, &store, Interruption::None).expect("runs to the end");
    feed_as(&log, SessionId([2; 16]), 2, 200);
    let from = next(&store, 1);
    let lost = LostRange {
        from,
        to: clear_of_repeats(&log, 1, from + 20),
    };
    log.remove_below(1, lost.to);
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let hosts: Vec<String> = listeners
        .iter()
        .map(|listener| listener.local_addr().expect("an address").to_string())
        .collect();
    drop(listeners);
    let job = JobConfig {
        processes: 2,
        hosts,
        secret: Some(Secret::new("0123456789abcdef0123456789abcdef")),
        accept_loss: true,
        ..config(1, 8)
    };
    let processes = [0, 1].map(|process| {
        let (job, log, store) = (
            JobConfig {
                process,
                ..job.clone()
            },
            log.clone(),
            Arc::clone(&store),
        );
        std::thread::spawn(move || {
            let metrics = Arc::new(Metrics::default());
            run(
                job,
                Arc::new(log),
                store,
                Stop::default(),
                Arc::new(()),
                Arc::clone(&metrics),
                io().handle(),
            )
            .expect("runs to the end");
            metrics.lost.get()
        })
    });
    let counted = processes.map(|process| process.join().expect("no panic"));
    assert_eq!(counted, [0, lost.offsets()]);
    assert_eq!(loss_letters(&store), [(1, lost.from, lost.to)]);
    assert_eq!(
        checkpoint(&store)
            .committed
            .cuts
            .iter()
            .map(|cut| cut.lost)
            .collect::<Vec<_>>(),
        [None, Some(lost)]
    );
    block_on(check_without(
        &config(1, 8),
        &log,
        &*store,
        "two processes",
        &|partition, offset| partition == 1 && lost.contains(offset),
    ));
}
