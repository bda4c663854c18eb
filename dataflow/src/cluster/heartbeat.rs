//! The heartbeat: each process tells the others twice a second that it is alive, and exits when one
//! of them is not.
//!
//! Timely has no heartbeat. When a process is paused, or its network fails silently, the others
//! would wait for it forever. A slow store or log also delays a job, and must not end it. So the
//! heartbeat does not watch progress, but whether the workers of each process still step: a process
//! sends its heartbeat only while all its workers do. A worker that waits for the store at the
//! start ([`Liveness::wait`]) need not step: the take-over waits for a repair or a silent store as
//! long as it takes.
//!
//! When a peer is silent for [`SILENCE`] or its connection closes, this process exits with an
//! error, and a supervisor restarts all processes of the job. Nothing is lost. A paused peer that
//! resumes finds its connections closed and exits too. A byte that no process sends ends this
//! process in the same way. What a peer says about another generation is a reason to look at the
//! checkpoint and nothing more ([`super::fence`]).

use std::{
    io::{ErrorKind, Read, Write},
    thread,
    time::{Duration, Instant},
};

use timely::communication::allocator::zero_copy::stream::Stream;

use crate::cluster::{link::Link, liveness::Liveness};

/// The interval between heartbeats.
pub(crate) const INTERVAL: Duration = Duration::from_millis(500);
/// The byte of a heartbeat: this process is alive.
const ALIVE: u8 = 1;
/// The byte of a heartbeat: this process is fenced and exits.
const FENCED: u8 = 3;
/// How long a peer may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// The longest step of a worker of this process. A request to an unreachable log may take so long.
const LONGEST_STEP: Duration = Duration::from_secs(60);

/// The limits of a heartbeat; tests use shorter ones.
#[derive(Clone, Copy)]
struct Limits {
    interval: Duration,
    silence: Duration,
    longest_step: Duration,
}

/// Why this process exits: what happened to a peer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LostPeer {
    /// The connection was closed: the peer has exited or was killed.
    Closed(usize),
    /// No heartbeat arrived: the peer is paused or hangs, or the network failed.
    Silent(usize),
    /// The peer says that another generation has taken over. Only the checkpoint can tell.
    SaysFenced(usize),
    /// Something arrived that no process sends.
    Garbled(usize),
}

impl std::fmt::Display for LostPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(process) => write!(f, "process {process} closed its connection"),
            Self::SaysFenced(process) => write!(
                f,
                "process {process} reports that another generation has taken the job over"
            ),
            Self::Garbled(process) => write!(
                f,
                "on the heartbeat connection of process {process} something arrived that is no \
                 heartbeat"
            ),
            Self::Silent(process) => write!(
                f,
                "process {process} sent no heartbeat for {} s",
                SILENCE.as_secs()
            ),
        }
    }
}

/// Sends and checks heartbeats on a new thread until the job ends. Calls `on_lost` if a peer is
/// lost.
pub(crate) fn start(
    peers: Vec<Option<Link>>,
    liveness: Liveness,
    on_lost: impl FnOnce(LostPeer) + Send + 'static,
) -> std::io::Result<()> {
    for peer in peers.iter().flatten() {
        peer.set_nonblocking(true)?;
    }
    thread::Builder::new()
        .name("heartbeat".into())
        .spawn(move || {
            let limits = Limits {
                interval: INTERVAL,
                silence: SILENCE,
                longest_step: LONGEST_STEP,
            };
            if let Some(lost) = exchange(peers, &liveness, limits) {
                on_lost(lost);
            }
        })?;
    Ok(())
}

/// Sends and checks heartbeats until the peers have ended (`None`) or one is lost.
fn exchange(mut peers: Vec<Option<Link>>, liveness: &Liveness, limits: Limits) -> Option<LostPeer> {
    let now = Instant::now();
    let mut last_heartbeat = vec![now; peers.len()];
    // The number of steps of each worker, and when it last changed.
    let mut steps: Vec<(u64, Instant)> = liveness.steps().map(|steps| (steps, now)).collect();
    let mut last_check = now;
    loop {
        thread::sleep(limits.interval);
        let now = Instant::now();
        // If this process was paused, it has received no heartbeat, and the peers may be alive.
        if now.duration_since(last_check) > limits.silence / 2 {
            last_heartbeat.fill(now);
        }
        last_check = now;
        for ((known, changed), steps) in steps.iter_mut().zip(liveness.steps()) {
            if steps != *known || liveness.waits() {
                (*known, *changed) = (steps, now);
            }
        }
        let alive = steps
            .iter()
            .all(|(_, changed)| now.duration_since(*changed) < limits.longest_step);
        for (process, peer) in peers.iter_mut().enumerate() {
            let Some(socket) = peer else { continue };
            let mut bytes = [0; 64];
            let closed = loop {
                match socket.read(&mut bytes) {
                    Ok(0) => break true,
                    Ok(count) => match bytes[..count].iter().find(|byte| **byte != ALIVE) {
                        None => last_heartbeat[process] = now,
                        Some(&FENCED) => return Some(LostPeer::SaysFenced(process)),
                        Some(_) => return Some(LostPeer::Garbled(process)),
                    },
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break true,
                }
            };
            // If the buffer is full, the peer does not read. It will be found silent.
            let closed = closed
                || (alive
                    && socket
                        .write(&[if liveness.is_fenced() { FENCED } else { ALIVE }])
                        .is_err_and(|error| {
                            !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
                        }));
            // When the job ends, a peer may close its connection. This side stays open until then:
            // a peer that does not know of the end yet would take a closed connection for a
            // failure.
            let ending = liveness.is_ending();
            if closed && ending {
                *peer = None;
            } else if closed {
                return Some(LostPeer::Closed(process));
            } else if now.duration_since(last_heartbeat[process]) > limits.silence && !ending {
                return Some(LostPeer::Silent(process));
            }
        }
        if peers.iter().all(Option::is_none) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::cluster::link::tests::{Protected, pair};

    /// Shorter than in production, and long enough for a loaded machine.
    const SHORT: Limits = Limits {
        interval: Duration::from_millis(5),
        silence: Duration::from_millis(1_500),
        longest_step: Duration::from_millis(1_500),
    };

    /// Runs one side of a pair in a thread. The receiver gets its result.
    fn side(
        socket: Link,
        process: usize,
        liveness: &Liveness,
    ) -> std::sync::mpsc::Receiver<Option<LostPeer>> {
        socket.set_nonblocking(true).expect("set");
        let (send, result) = channel();
        let liveness = liveness.clone();
        let mut peers = vec![None, None];
        peers[process] = Some(socket);
        thread::spawn(move || send.send(exchange(peers, &liveness, SHORT)));
        result
    }

    #[test]
    fn a_closed_peer_and_a_hanging_peer_are_detected() {
        let (here, there) = pair(Protected::BySecret);
        let liveness = Liveness::new(1);
        let result = side(here, 1, &liveness);
        drop(there);
        assert_eq!(result.recv(), Ok(Some(LostPeer::Closed(1))));
        let (here, _open) = pair(Protected::BySecret);
        assert_eq!(
            side(here, 0, &liveness).recv(),
            Ok(Some(LostPeer::Silent(0)))
        );
    }

    #[test]
    fn a_process_with_a_hanging_worker_is_found_silent() {
        let (here, there) = pair(Protected::BySecret);
        let (mine, theirs) = (Liveness::new(2), Liveness::new(1));
        let (result, their_result) = (side(here, 1, &mine), side(there, 0, &theirs));
        let started = Instant::now();
        while started.elapsed() < 2 * SHORT.silence {
            mine.step(0);
            mine.step(1);
            theirs.step(0);
            assert!(
                result.try_recv().is_err() && their_result.try_recv().is_err(),
                "both processes step"
            );
            thread::sleep(Duration::from_millis(2));
        }
        // One of two workers stops: its process sends no heartbeat, and the peer finds it silent.
        let hung = Instant::now();
        let lost = loop {
            mine.step(0);
            theirs.step(0);
            if let Ok(lost) = their_result.try_recv() {
                break lost;
            }
            assert!(hung.elapsed() < Duration::from_secs(60), "never detected");
            thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(lost, Some(LostPeer::Silent(0)));
    }

    #[test]
    fn a_fenced_process_tells_its_peers() {
        let (here, there) = pair(Protected::BySecret);
        let (mine, theirs) = (Liveness::new(1), Liveness::new(1));
        mine.set_fenced();
        let (_mine, their_result) = (side(here, 1, &mine), side(there, 0, &theirs));
        assert_eq!(their_result.recv(), Ok(Some(LostPeer::SaysFenced(0))));
    }

    #[test]
    fn what_is_no_heartbeat_is_never_taken_for_a_fence() {
        for byte in (0..=u8::MAX).filter(|byte| ![ALIVE, FENCED].contains(byte)) {
            let (here, mut there) = pair(Protected::No);
            let liveness = Liveness::new(1);
            there.write_all(&[ALIVE, byte, FENCED]).expect("sent");
            assert_eq!(
                side(here, 0, &liveness).recv(),
                Ok(Some(LostPeer::Garbled(0))),
                "{byte}"
            );
        }
    }

    #[test]
    fn a_process_that_waits_for_the_store_longer_than_any_step_is_not_left() {
        let (here, there) = pair(Protected::BySecret);
        let (mine, theirs) = (Liveness::new(1), Liveness::new(1));
        let wait = mine.wait();
        let (result, their_result) = (side(here, 1, &mine), side(there, 0, &theirs));
        let started = Instant::now();
        // The take-over of one process waits for a repair: none of its workers has begun a step.
        while started.elapsed() < SHORT.longest_step + 2 * SHORT.silence {
            theirs.step(0);
            assert!(
                result.try_recv().is_err() && their_result.try_recv().is_err(),
                "the other process leaves one that waits"
            );
            thread::sleep(Duration::from_millis(2));
        }
        // When the wait is over, its workers must step like any others.
        drop(wait);
        let lost = loop {
            theirs.step(0);
            if let Ok(lost) = their_result.try_recv() {
                break lost;
            }
            assert!(
                started.elapsed() < Duration::from_secs(60),
                "never detected"
            );
            thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(lost, Some(LostPeer::Silent(0)));
    }

    #[test]
    fn at_the_end_peers_may_close_and_none_closes_before_the_others_know() {
        let (here, there) = pair(Protected::BySecret);
        let (mine, theirs) = (Liveness::new(1), Liveness::new(1));
        mine.set_ending();
        let (result, their_result) = (side(here, 1, &mine), side(there, 0, &theirs));
        let started = Instant::now();
        while started.elapsed() < SHORT.silence / 2 {
            mine.step(0);
            theirs.step(0);
            assert!(
                result.try_recv().is_err() && their_result.try_recv().is_err(),
                "the peer does not know of the end"
            );
            thread::sleep(Duration::from_millis(2));
        }
        let (here, there) = pair(Protected::BySecret);
        let result = side(here, 1, &mine);
        drop(there);
        assert_eq!(result.recv(), Ok(None));
    }
}
