//! One connection to another process of the job.
//!
//! With a secret it is TLS 1.3 ([`super::keys`]): a frame that was changed, repeated, left out or
//! moved ends the connection with an error and is never handed on. Without one, which the command
//! line allows on loopback alone, it is the bare socket.
//!
//! Timely reads a connection on one thread and writes it on another, each with a handle of its own.
//! So the session of TLS is shared under a lock that no one holds while it waits for the network:
//! a peer that does not read cannot keep this side from reading.
//!
//! A failed handshake is not answered, not even with an alert.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::{ClientConnection, Connection, ServerConnection, pki_types::ServerName};
use timely::communication::allocator::zero_copy::stream::Stream;

use super::keys::Keys;

/// The most encrypted bytes that are read at once: about one TLS record.
const READ_BYTES: usize = 16 * 1024;

/// A connection that this process may trust as far as it trusts the peer.
pub(crate) struct Link {
    socket: TcpStream,
    /// `None` without a secret.
    tls: Option<Arc<Tls>>,
}

/// What the handles of an encrypted connection share.
struct Tls {
    /// Held for a moment at a time, never while waiting for the network.
    session: Mutex<Connection>,
    /// Encrypted bytes that were read and not decrypted. Held by the one that reads.
    received: Mutex<Received>,
    /// Encrypted bytes that the socket has not taken. Held by the one that writes, so that records
    /// leave in the order in which they were encrypted.
    outgoing: Mutex<Vec<u8>>,
}

struct Received {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// Which end of a connection this process is.
pub(crate) enum End {
    Caller,
    Listener,
}

impl Link {
    /// Proves the job's secret to the peer and has it proven, until `deadline`. Without keys there
    /// is nothing to prove.
    ///
    /// # Errors
    /// The peer does not know the secret, or the connection broke. The peer learns nothing.
    pub(crate) fn establish(
        socket: TcpStream,
        keys: Option<&Keys>,
        end: End,
        deadline: Instant,
    ) -> io::Result<Self> {
        let Some(keys) = keys else {
            return Ok(Self { socket, tls: None });
        };
        let session = match end {
            End::Caller => {
                // No name is sent or compared: the key alone counts.
                let name = ServerName::try_from("tapeflow").map_err(io::Error::other)?;
                ClientConnection::new(Arc::clone(&keys.caller), name).map(Connection::from)
            }
            End::Listener => {
                ServerConnection::new(Arc::clone(&keys.listener)).map(Connection::from)
            }
        };
        let mut session = session.map_err(io::Error::other)?;
        let mut received = Received {
            bytes: vec![0; READ_BYTES].into(),
            start: 0,
            end: 0,
        };
        let mut outgoing = Vec::new();
        loop {
            while session.wants_write() {
                session.write_tls(&mut outgoing)?;
            }
            (&socket).write_all(&outgoing)?;
            outgoing.clear();
            if !session.is_handshaking() {
                break;
            }
            if !received.feed(&mut session)? {
                socket.set_read_timeout(Some(left(deadline)?))?;
                if received.fill(&socket)? == 0 {
                    return Err(no_handshake("it closes the connection"));
                }
            }
        }
        Ok(Self {
            socket,
            tls: Some(Arc::new(Tls {
                session: Mutex::new(session),
                received: Mutex::new(received),
                outgoing: Mutex::new(outgoing),
            })),
        })
    }

    /// The bytes that arrive next must be there within this time; `None` for no limit.
    pub(crate) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.set_read_timeout(limit)
    }

    pub(crate) fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.socket.set_write_timeout(limit)
    }

    pub(crate) fn set_nodelay(&self) -> io::Result<()> {
        self.socket.set_nodelay(true)
    }
}

/// The time until a deadline, which must not have passed.
pub(crate) fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err(no_handshake("it takes too long"))
    } else {
        Ok(left)
    }
}

fn no_handshake(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

fn refused(error: rustls::Error) -> io::Error {
    match error {
        rustls::Error::InvalidCertificate(_) => no_handshake("it does not prove this job's secret"),
        other => io::Error::new(ErrorKind::InvalidData, other),
    }
}

fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Received {
    /// Passes bytes on to be decrypted; false if there are none. Stops with each record that holds
    /// data: the session keeps only so many decrypted bytes.
    fn feed(&mut self, session: &mut Connection) -> io::Result<bool> {
        if self.start == self.end {
            return Ok(false);
        }
        self.start += session.read_tls(&mut &self.bytes[self.start..self.end])?;
        session.process_new_packets().map_err(refused)?;
        Ok(true)
    }

    /// Reads more bytes, when all have been passed on. 0 at the end of the stream.
    fn fill(&mut self, mut socket: &TcpStream) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.end = socket.read(&mut self.bytes)?;
        Ok(self.end)
    }
}

impl Tls {
    /// Hands the socket what it has not taken yet.
    fn flush(mut socket: &TcpStream, outgoing: &mut Vec<u8>) -> io::Result<()> {
        let mut sent = 0;
        let result = loop {
            if sent == outgoing.len() {
                break Ok(());
            }
            match socket.write(&outgoing[sent..]) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        outgoing.drain(..sent);
        result
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return self.socket.read(buffer);
        };
        let mut received = locked(&tls.received);
        loop {
            {
                let mut session = locked(&tls.session);
                match session.reader().read(buffer) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    other => return other,
                }
                if received.feed(&mut session)? {
                    continue;
                }
            }
            if received.fill(&self.socket)? == 0 {
                // Now the session knows: it was told of the end, or the stream was cut off.
                locked(&tls.session).read_tls(&mut io::empty())?;
            }
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return self.socket.write(bytes);
        };
        let mut outgoing = locked(&tls.outgoing);
        // At most one write's bytes wait.
        Tls::flush(&self.socket, &mut outgoing)?;
        let accepted = {
            let mut session = locked(&tls.session);
            let accepted = session.writer().write(bytes)?;
            while session.wants_write() {
                session.write_tls(&mut *outgoing)?;
            }
            accepted
        };
        match Tls::flush(&self.socket, &mut outgoing) {
            // The bytes are encrypted and must follow before any others.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(accepted),
            other => other.map(|()| accepted),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tls.as_ref().map_or(Ok(()), |tls| {
            Tls::flush(&self.socket, &mut locked(&tls.outgoing))
        })
    }
}

impl Stream for Link {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
            tls: self.tls.clone(),
        })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if let Some(tls) = &self.tls
            && how != Shutdown::Read
        {
            let mut outgoing = locked(&tls.outgoing);
            {
                let mut session = locked(&tls.session);
                session.send_close_notify();
                while session.wants_write() {
                    session.write_tls(&mut *outgoing)?;
                }
            }
            Tls::flush(&self.socket, &mut outgoing)?;
        }
        self.socket.shutdown(how)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        net::TcpListener,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use tapeflow_schemas::Secret;

    use super::*;

    /// Whether a pair of links proves a secret.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(in crate::cluster) enum Protected {
        BySecret,
        No,
    }

    fn keys(secret: &str) -> Keys {
        Keys::derive(&Secret::new(secret)).expect("keys")
    }

    fn sockets() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let there =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        (there, listener.accept().expect("accepted").0)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A caller and a listener, over these two sockets.
    fn over(
        (caller, listener): (TcpStream, TcpStream),
        theirs: Option<Keys>,
        mine: Option<Keys>,
    ) -> (io::Result<Link>, io::Result<Link>) {
        let called = thread::spawn(move || {
            Link::establish(listener, theirs.as_ref(), End::Listener, soon())
        });
        let caller = Link::establish(caller, mine.as_ref(), End::Caller, soon());
        (caller, called.join().expect("no panic"))
    }

    /// Two connected links.
    pub(in crate::cluster) fn pair(protected: Protected) -> (Link, Link) {
        let keys = (protected == Protected::BySecret).then(|| keys("a secret"));
        let (caller, listener) = over(sockets(), keys.clone(), keys);
        (caller.expect("connected"), listener.expect("connected"))
    }

    /// A caller and a listener, connected, with something between them that may change each piece
    /// of bytes which the caller sends from then on.
    fn through(mut change: impl FnMut(&mut Vec<u8>) + Send + 'static) -> (Link, Link) {
        let connected = Arc::new(AtomicBool::new(false));
        let starts = Arc::clone(&connected);
        let ((caller, mut left), (mut right, listener)) = (sockets(), sockets());
        let (mut back_from, mut back_to) = (
            right.try_clone().expect("a handle"),
            left.try_clone().expect("a handle"),
        );
        thread::spawn(move || io::copy(&mut back_from, &mut back_to));
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(count @ 1..) = left.read(&mut buffer) {
                let mut bytes = buffer[..count].to_vec();
                if starts.load(Ordering::Acquire) {
                    change(&mut bytes);
                }
                if right.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = right.shutdown(Shutdown::Both);
            let _ = left.shutdown(Shutdown::Both);
        });
        let keys = Some(keys("a secret"));
        let (caller, listener) = over((caller, listener), keys.clone(), keys);
        let ends = (caller.expect("connected"), listener.expect("connected"));
        connected.store(true, Ordering::Release);
        ends
    }

    #[test]
    fn what_is_written_arrives_in_order_on_separate_handles_in_both_directions() {
        for protected in [Protected::BySecret, Protected::No] {
            let (caller, listener) = pair(protected);
            let lengths = [1, 2, 47, 16_383, 16_384, 16_385, 65_536, 300_000];
            let bytes: Vec<u8> = (0..lengths.iter().sum::<usize>())
                .map(|at| u8::try_from(at * 31 % 251).expect("below 251"))
                .collect();
            let mut threads = Vec::new();
            for (from, to) in [(&caller, &listener), (&listener, &caller)] {
                let (mut from, mut to) = (
                    from.try_clone().expect("a handle"),
                    to.try_clone().expect("a handle"),
                );
                let (sent, want) = (bytes.clone(), bytes.clone());
                threads.push(thread::spawn(move || {
                    let mut rest = &sent[..];
                    for length in lengths {
                        let (now, later) = rest.split_at(length);
                        from.write_all(now).expect("sent");
                        rest = later;
                    }
                    from.flush().expect("sent");
                    Stream::shutdown(&from, Shutdown::Write).expect("closed");
                }));
                threads.push(thread::spawn(move || {
                    let mut found = Vec::new();
                    to.read_to_end(&mut found).expect("a clean end");
                    assert!(found == want, "{protected:?}");
                }));
            }
            threads
                .into_iter()
                .for_each(|thread| thread.join().expect("no panic"));
        }
    }

    #[test]
    fn a_reader_that_does_not_read_keeps_no_more_than_one_write_and_loses_nothing() {
        let (mut caller, mut listener) = pair(Protected::BySecret);
        Stream::set_nonblocking(&caller, true).expect("set");
        let chunk = [7; 10_000];
        let mut accepted = 0;
        loop {
            match caller.write(&chunk) {
                Ok(count) => accepted += count,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        let tls = caller.tls.as_ref().expect("a secret");
        assert!(locked(&tls.outgoing).len() < 2 * chunk.len());
        let reader = thread::spawn(move || {
            let mut found = vec![0; accepted];
            listener.read_exact(&mut found).expect("all of it");
            assert!(found.iter().all(|byte| *byte == 7));
        });
        while caller.flush().is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        reader.join().expect("no panic");
    }

    #[test]
    fn another_secret_and_no_secret_are_refused_on_both_sides_without_a_word() {
        let (caller, listener) = over(
            sockets(),
            Some(keys("a secret")),
            Some(keys("another secret")),
        );
        let error = caller.err().expect("refused").to_string();
        assert!(error.contains("does not prove"), "{error}");
        assert!(listener.is_err());
        let (plain, listener) = sockets();
        let called = thread::spawn(move || {
            Link::establish(listener, Some(&keys("a secret")), End::Listener, soon())
        });
        let mut plain = plain;
        plain.write_all(b"{\"hello\":1}\n").expect("sent");
        assert!(called.join().expect("no panic").is_err());
        let mut heard = Vec::new();
        let _ = plain.read_to_end(&mut heard);
        assert!(heard.is_empty(), "{heard:?}");
    }

    #[test]
    fn one_flipped_bit_anywhere_is_never_read() {
        // Type and version in a record's head carry nothing, and receivers may ignore them.
        const IGNORED_BYTES: usize = 3;
        let flips = [
            (0, 0),
            (0, 7),
            (1, 3),
            (2, 0),
            (3, 0),
            (4, 0),
            (5, 0),
            (100, 6),
            (5_000, 1),
            (15_000, 4),
        ];
        for (at, bit) in flips {
            let mut passed = 0;
            let (mut caller, mut listener) = through(move |bytes| {
                if passed <= at && at < passed + bytes.len() {
                    bytes[at - passed] ^= 1 << bit;
                }
                passed += bytes.len();
            });
            let _ = caller.write_all(&[9; 16_000]);
            let _ = Stream::shutdown(&caller, Shutdown::Write);
            let mut found = Vec::new();
            let end = listener.read_to_end(&mut found);
            let unchanged = end.is_ok() && found == [9; 16_000];
            assert!(
                (end.is_err() && found.is_empty()) || (at < IGNORED_BYTES && unchanged),
                "byte {at}, bit {bit}: {} bytes, {end:?}",
                found.len()
            );
        }
    }

    #[test]
    fn a_frame_that_is_sent_again_or_left_out_ends_the_connection() {
        for repeated in [true, false] {
            let mut first = true;
            let (mut caller, mut listener) = through(move |bytes| {
                if !std::mem::take(&mut first) {
                    return;
                }
                if repeated {
                    bytes.extend_from_within(..);
                } else {
                    bytes.clear();
                }
            });
            caller.write_all(b"1").expect("sent");
            if !repeated {
                // In a piece of its own.
                thread::sleep(Duration::from_millis(100));
                let _ = caller.write_all(b"2");
            }
            let mut found = Vec::new();
            assert!(listener.read_to_end(&mut found).is_err(), "{repeated}");
            assert!(found.is_empty() || (repeated && found == b"1"), "{found:?}");
        }
    }

    #[test]
    fn a_stream_that_is_cut_off_does_not_look_like_an_end() {
        let (caller, mut listener) = pair(Protected::BySecret);
        drop(caller);
        let mut found = Vec::new();
        let error = listener.read_to_end(&mut found).expect_err("cut off");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }

    /// What encryption costs. `cargo test --release -- --ignored --nocapture cost_of_encryption`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_encryption() {
        const MEGABYTES: usize = 2_000;
        for protected in [Protected::No, Protected::BySecret] {
            let (mut caller, mut listener) = pair(protected);
            let reader = thread::spawn(move || {
                let mut buffer = vec![0; 64 * 1024];
                while listener.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
            let cpu = || {
                let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
                let fields: Vec<u64> = stat
                    .rsplit(')')
                    .next()
                    .expect("a name")
                    .split_whitespace()
                    .skip(11)
                    .take(2)
                    .map(|ticks| ticks.parse().expect("a number"))
                    .collect();
                fields.iter().sum::<u64>() * 10
            };
            let begun = cpu();
            let chunk = vec![5; 64 * 1024];
            for _ in 0..MEGABYTES * 16 {
                caller.write_all(&chunk).expect("sent");
            }
            Stream::shutdown(&caller, Shutdown::Write).expect("closed");
            reader.join().expect("no panic");
            eprintln!(
                "{protected:?}: {} us of CPU a MiB, both ends together",
                (cpu() - begun) * 1_000 / MEGABYTES as u64
            );
        }
    }
}
