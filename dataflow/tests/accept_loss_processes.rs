//! Offsets that are gone, in a partition of another process than the coordinator's. In a target of its
//! own: a process of several leaves as a whole when anything in it panics.

mod support;

#[path = "accept_loss/course.rs"]
#[allow(dead_code, reason = "this target uses part of it")]
mod course;

use std::{net::TcpListener, sync::Arc};

use course::{Ends, block_on, checkpoint, clear_of_repeats, letters, life, next};
use support::{MemoryLog, check_without, config, feed_as, io};
use tapeflow_dataflow::{JobConfig, Metrics, Stop, run};
use tapeflow_protocol::LostRange;
use tapeflow_schemas::SessionId;
use tapeflow_sinks::memory::MemoryStore;

#[test]
fn a_loss_in_another_process_is_bound_and_counted_there() {
    let (log, store) = (MemoryLog::new(2), Arc::new(MemoryStore::new()));
    feed_as(&log, SessionId([1; 16]), 1, 300);
    life(&config(1, 8), &log, &store, Ends::ByItself).expect("runs to the end");
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
    assert_eq!(letters(&store), [(1, lost.from, lost.to)]);
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
