//! The heartbeat: each process hears twice a second that the others are alive, and leaves when one is
//! not.
//!
//! Timely has no heartbeat: when a process is paused, or its network is cut without a word, the
//! others wait for it in silence, for ever. A slow store or log also makes a job stand still, and
//! must not end it; so what is watched is not progress but whether the workers of each process
//! still turn. A process beats only while all its workers do. When a peer is silent for
//! [`SILENCE`], or gone, this process leaves with an error, and whoever starts the job starts all
//! of it again: nothing is lost by that, and a paused peer that wakes finds its connections closed
//! and leaves too.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::job::EXIT_FENCED;

/// How often a process beats.
pub(crate) const BEAT: Duration = Duration::from_millis(500);
/// What a beat says: all is well, or this process is fenced and leaves.
const WELL: u8 = 1;
const FENCED: u8 = 3;
/// How long a peer may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// How long a worker of our own may take for one turn: a question to a log that is out of reach may
/// well take this long.
const TURN: Duration = Duration::from_secs(60);

/// What the workers of a process tell of themselves.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    turns: Arc<[AtomicU64]>,
    began: Instant,
    /// When each worker last began a turn, in milliseconds since `began`.
    last: Arc<[AtomicU64]>,
    ending: Arc<AtomicBool>,
    fenced: Arc<AtomicBool>,
}

impl Liveness {
    pub(crate) fn new(workers: usize) -> Self {
        let zeros = || (0..workers).map(|_| AtomicU64::new(0)).collect();
        Self {
            turns: zeros(),
            began: Instant::now(),
            last: zeros(),
            ending: Arc::default(),
            fenced: Arc::default(),
        }
    }

    /// The worker of this process has begun a turn.
    pub(crate) fn turn(&self, worker: usize) {
        self.turns[worker].fetch_add(1, Ordering::Relaxed);
        self.last[worker].store(self.elapsed_ms().max(1), Ordering::Relaxed);
    }

    /// How long ago the slowest worker began a turn; none before all have begun.
    pub(crate) fn age(&self) -> Option<Duration> {
        let slowest = self
            .last
            .iter()
            .map(|last| last.load(Ordering::Relaxed))
            .min()
            .filter(|last| *last > 0)?;
        Some(Duration::from_millis(
            self.elapsed_ms().saturating_sub(slowest),
        ))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Another generation has taken over: the peers are told.
    pub(crate) fn fence(&self) {
        self.fenced.store(true, Ordering::Release);
    }

    /// The job has come to its end: from here on peers go as they please.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }
}

/// Why a process leaves.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The connection was closed: the process has ended or was killed.
    Gone(usize),
    /// Nothing was heard: the process is paused or hangs, or the network is cut.
    Silent(usize),
    /// It says that another generation has taken over.
    Fenced(usize),
}

impl Lost {
    /// The code to leave with.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Gone(_) | Self::Silent(_) => 1,
            Self::Fenced(_) => EXIT_FENCED,
        }
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone(process) => write!(f, "process {process} is gone"),
            Self::Fenced(process) => write!(
                f,
                "process {process} says that another generation has taken the job over"
            ),
            Self::Silent(process) => write!(
                f,
                "process {process} has not been heard for {} s",
                SILENCE.as_secs()
            ),
        }
    }
}

/// Beats and listens, on a thread of its own, until the job ends or a peer is lost; `leave` is
/// called then.
pub(crate) fn watch(
    peers: Vec<Option<TcpStream>>,
    liveness: Liveness,
    leave: impl FnOnce(Lost) + Send + 'static,
) -> std::io::Result<()> {
    for peer in peers.iter().flatten() {
        peer.set_nonblocking(true)?;
    }
    thread::Builder::new()
        .name("heartbeat".into())
        .spawn(move || {
            if let Some(lost) = beat(peers, &liveness, (BEAT, SILENCE, TURN)) {
                leave(lost);
            }
        })?;
    Ok(())
}

fn beat(
    mut peers: Vec<Option<TcpStream>>,
    liveness: &Liveness,
    (every, silence, turn): (Duration, Duration, Duration),
) -> Option<Lost> {
    let now = Instant::now();
    let mut heard = vec![now; peers.len()];
    let mut turned: Vec<(u64, Instant)> = liveness
        .turns
        .iter()
        .map(|turns| (turns.load(Ordering::Relaxed), now))
        .collect();
    let mut looked = now;
    loop {
        thread::sleep(every);
        let now = Instant::now();
        // A process that was paused itself has heard nobody meanwhile, and judges nobody by that.
        if now.duration_since(looked) > silence / 2 {
            heard.fill(now);
        }
        looked = now;
        for ((seen, at), turns) in turned.iter_mut().zip(&*liveness.turns) {
            let turns = turns.load(Ordering::Relaxed);
            if turns != *seen {
                (*seen, *at) = (turns, now);
            }
        }
        let alive = turned.iter().all(|(_, at)| now.duration_since(*at) < turn);
        for (process, peer) in peers.iter_mut().enumerate() {
            let Some(socket) = peer else { continue };
            let mut bytes = [0; 64];
            let gone = loop {
                match socket.read(&mut bytes) {
                    Ok(0) => break true,
                    Ok(count) if bytes[..count].contains(&FENCED) => {
                        return Some(Lost::Fenced(process));
                    }
                    Ok(_) => heard[process] = now,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(_) => break true,
                }
            };
            // A full buffer means a peer that does not read: it will be found silent.
            let gone = gone
                || (alive
                    && socket
                        .write(&[if liveness.fenced.load(Ordering::Acquire) {
                            FENCED
                        } else {
                            WELL
                        }])
                        .is_err_and(|error| {
                            !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
                        }));
            // At the end a peer that has gone is let go. Our own side stays open until then: others
            // may not have heard of the end yet, and would take a closed connection for a death.
            let ending = liveness.ending.load(Ordering::Acquire);
            if gone && ending {
                *peer = None;
            } else if gone {
                return Some(Lost::Gone(process));
            } else if now.duration_since(heard[process]) > silence && !ending {
                return Some(Lost::Silent(process));
            }
        }
        if peers.iter().all(Option::is_none) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::mpsc::channel};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let there =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        (there, listener.accept().expect("accepted").0)
    }

    /// Faster than in earnest, and slow enough for a machine that does much else.
    const FAST: (Duration, Duration, Duration) = (
        Duration::from_millis(5),
        Duration::from_millis(1_500),
        Duration::from_millis(1_500),
    );

    /// One side of a pair, watched in a thread; what it came to is sent.
    fn side(
        socket: TcpStream,
        process: usize,
        liveness: &Liveness,
    ) -> std::sync::mpsc::Receiver<Option<Lost>> {
        socket.set_nonblocking(true).expect("set");
        let (send, came_to) = channel();
        let liveness = liveness.clone();
        let mut peers = vec![None, None];
        peers[process] = Some(socket);
        thread::spawn(move || send.send(beat(peers, &liveness, FAST)));
        came_to
    }

    #[test]
    fn a_peer_that_is_closed_is_gone_and_one_that_hangs_is_silent() {
        let (here, there) = pair();
        let liveness = Liveness::new(1);
        let came_to = side(here, 1, &liveness);
        drop(there);
        assert_eq!(came_to.recv(), Ok(Some(Lost::Gone(1))));
        let (here, _open) = pair();
        assert_eq!(side(here, 0, &liveness).recv(), Ok(Some(Lost::Silent(0))));
    }

    #[test]
    fn two_that_turn_stay_and_one_whose_worker_hangs_is_found_silent() {
        let (here, there) = pair();
        let (mine, theirs) = (Liveness::new(2), Liveness::new(1));
        let (came_to, of_theirs) = (side(here, 1, &mine), side(there, 0, &theirs));
        let begun = Instant::now();
        while begun.elapsed() < 2 * FAST.1 {
            mine.turn(0);
            mine.turn(1);
            theirs.turn(0);
            assert!(
                came_to.try_recv().is_err() && of_theirs.try_recv().is_err(),
                "both turn"
            );
            thread::sleep(Duration::from_millis(2));
        }
        // One of two workers stops turning: our process no longer beats, and the other finds it
        // silent.
        let hung = Instant::now();
        let lost = loop {
            mine.turn(0);
            theirs.turn(0);
            if let Ok(lost) = of_theirs.try_recv() {
                break lost;
            }
            assert!(hung.elapsed() < Duration::from_secs(60), "never found");
            thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(lost, Some(Lost::Silent(0)));
    }

    #[test]
    fn a_process_that_is_fenced_tells_its_peers() {
        let (here, there) = pair();
        let (mine, theirs) = (Liveness::new(1), Liveness::new(1));
        mine.fence();
        let (_mine, of_theirs) = (side(here, 1, &mine), side(there, 0, &theirs));
        assert_eq!(of_theirs.recv(), Ok(Some(Lost::Fenced(0))));
    }

    #[test]
    fn at_the_end_peers_go_as_they_please_and_nobody_hangs_up_on_one_that_has_not_heard_of_it() {
        let (here, there) = pair();
        let (mine, theirs) = (Liveness::new(1), Liveness::new(1));
        mine.end();
        let (came_to, of_theirs) = (side(here, 1, &mine), side(there, 0, &theirs));
        let begun = Instant::now();
        while begun.elapsed() < FAST.1 / 2 {
            mine.turn(0);
            theirs.turn(0);
            assert!(
                came_to.try_recv().is_err() && of_theirs.try_recv().is_err(),
                "the other has not heard of the end"
            );
            thread::sleep(Duration::from_millis(2));
        }
        let (here, there) = pair();
        let came_to = side(here, 1, &mine);
        drop(there);
        assert_eq!(came_to.recv(), Ok(None));
    }
}
