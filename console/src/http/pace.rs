//! Drops a client that reads too slowly: each keeps a connection and what waits to be sent.
//!
//! A limit on the time without any progress is not enough. A client that reads a byte every few
//! seconds would keep a stream for ever.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// How fast a client must read, while there is something to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The time of waiting for the client over which its rate is measured.
    pub(crate) over: Duration,
    /// Bytes a second. The status that each live page gets has about this size.
    pub(crate) least: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            over: Duration::from_secs(20),
            least: 2_048,
        }
    }
}

/// The time that a connection waited for its client, and what the client took meanwhile.
#[derive(Debug, Default)]
struct Meter {
    waited: Duration,
    bytes: u64,
    waits_since: Option<Instant>,
}

impl Meter {
    /// After an attempt to write, which took `written` bytes or has to wait. Returns whether the
    /// client is too slow.
    fn attempted(&mut self, written: Option<usize>, pace: Pace, now: Instant) -> bool {
        if let Some(since) = self.waits_since.take() {
            self.waited += now.duration_since(since);
        }
        match written {
            Some(bytes) => self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX),
            None => self.waits_since = Some(now),
        }
        if self.waited < pace.over {
            return false;
        }
        let wanted = u128::from(pace.least) * self.waited.as_millis() / 1_000;
        let is_slow = u128::from(self.bytes) < wanted;
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        is_slow
    }
}

/// A connection whose client must keep pace.
pub(super) struct Paced<S> {
    stream: S,
    pace: Pace,
    meter: Meter,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, pace: Pace) -> Self {
        Self {
            stream,
            pace,
            meter: Meter::default(),
        }
    }

    fn after(&mut self, attempt: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let written = match &attempt {
            Poll::Ready(Ok(bytes)) => Some(*bytes),
            Poll::Ready(Err(_)) => return attempt,
            Poll::Pending => None,
        };
        if self.meter.attempted(written, self.pace, Instant::now()) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client reads too slowly",
            )));
        }
        attempt
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.after(attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.after(attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a client that takes `bytes` after each second of waiting is dropped within a minute.
    fn is_dropped(bytes: usize) -> bool {
        let pace = Pace {
            over: Duration::from_secs(20),
            least: 2_048,
        };
        let (mut meter, begun) = (Meter::default(), Instant::now());
        (0..60).any(|second| {
            let now = begun + Duration::from_secs(second);
            // Woken after the wait, it takes some, and waits again.
            meter.attempted(Some(bytes), pace, now) || meter.attempted(None, pace, now)
        })
    }

    #[test]
    fn a_client_below_the_rate_is_dropped_and_one_above_it_is_not() {
        assert!(is_dropped(0) && is_dropped(1) && is_dropped(1_900));
        assert!(!is_dropped(2_300));
    }

    #[test]
    fn a_client_that_is_never_waited_for_is_not_slow() {
        let (mut meter, begun) = (Meter::default(), Instant::now());
        let dropped = (0..10_000).any(|second| {
            let now = begun + Duration::from_secs(second);
            meter.attempted(Some(1), Pace::default(), now)
        });
        assert!(!dropped, "a quiet stream sends little, and at once");
    }
}
