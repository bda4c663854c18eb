//! One connection to the simulated server: its handshake, its subscriptions, its trades, and its
//! injected fault.

use std::{collections::HashSet, io, sync::atomic::Ordering, time::Duration};

use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Error as WsError, Message, protocol::Role},
};

use super::{
    faults::ConnectionFault,
    generate::{MAX_TRADES_PER_FRAME, Selection},
    server::{NextFrame, State},
};
use crate::finnhub::handshake;

/// A subscription to all symbols. Finnhub has no such subscription.
const EVERYTHING: &str = "*";
/// How often due trades are sent.
const TICK: Duration = Duration::from_millis(10);
/// Trades begin this long after the last subscription, so that all symbols of a client start
/// together.
const SETTLE: Duration = Duration::from_millis(20);
/// Frames sent between two reads of the client's messages, where nothing else limits them.
const BURST_FRAMES: u64 = 64;

/// Serves one connection until it ends.
pub(super) async fn serve(mut stream: TcpStream, number: u64, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let request = handshake::read_request(&mut stream).await?;
    let fault = state.config.faults.of(number);
    match fault {
        ConnectionFault::Unauthorized => return refuse(stream, 401).await,
        ConnectionFault::Status(status) => return refuse(stream, status).await,
        ConnectionFault::Unanswered => return wait_for_end(stream).await,
        ConnectionFault::Healthy
        | ConnectionFault::DropMidFrame { .. }
        | ConnectionFault::Close { .. }
        | ConnectionFault::Silent { .. }
        | ConnectionFault::PingOnly
        | ConnectionFault::Flood { .. } => {}
    }
    if request.token.as_ref() != Some(&state.config.token) {
        return refuse(stream, 401).await;
    }
    let Some(acceptance) = request.acceptance else {
        return refuse(stream, 400).await;
    };
    stream.write_all(acceptance.as_bytes()).await?;
    let mut drop_all = state.drop_all.subscribe();
    let (_open, alone) = state.enter();
    if !alone && !state.config.faults.allow_several {
        state.drop_all.send_modify(|drops| *drops += 1);
        return Ok(());
    }
    let socket =
        WebSocketStream::from_partially_read(stream, request.rest, Role::Server, None).await;
    let mut connection = Connection::new(socket, fault, state);
    tokio::select! {
        ended = connection.run() => ended.map_err(io::Error::other),
        _ = drop_all.changed() => Ok(()),
    }
}

async fn refuse(mut stream: TcpStream, status: u16) -> io::Result<()> {
    stream
        .write_all(
            format!(
                "HTTP/1.1 {status} Simulated\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .as_bytes(),
        )
        .await?;
    stream.shutdown().await
}

async fn wait_for_end(mut stream: TcpStream) -> io::Result<()> {
    let mut ignored = [0; 256];
    while stream.read(&mut ignored).await? > 0 {}
    Ok(())
}

struct Connection<'a> {
    socket: WebSocketStream<TcpStream>,
    fault: ConnectionFault,
    state: &'a State,
    subscribed: HashSet<String>,
    selection: Selection,
    /// When trades begin; `None` without subscriptions.
    begin: Option<Instant>,
    /// Trade frames sent.
    frames: u64,
    /// Trades that the rate has allowed so far, sent or not.
    paced: f64,
    exhausted: bool,
}

/// Whether the connection continues.
enum Next {
    Continue,
    End,
}

#[derive(Deserialize)]
struct ClientMessage {
    #[serde(rename = "type")]
    kind: String,
    symbol: String,
}

impl<'a> Connection<'a> {
    fn new(socket: WebSocketStream<TcpStream>, fault: ConnectionFault, state: &'a State) -> Self {
        Self {
            socket,
            fault,
            state,
            subscribed: HashSet::new(),
            selection: Selection::default(),
            begin: None,
            frames: 0,
            paced: 0.0,
            exhausted: false,
        }
    }

    async fn run(&mut self) -> Result<(), WsError> {
        let mut pings = self.pings();
        loop {
            let next_trades = self.next_trades();
            let at = next_trades.unwrap_or_else(Instant::now);
            tokio::select! {
                message = self.socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.handle(&text).await?,
                    Some(Ok(Message::Close(_))) | None => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error),
                },
                _ = pings.tick(), if !self.is_silent() => {
                    self.send(r#"{"type":"ping"}"#.into()).await?;
                }
                () = sleep_until(at), if next_trades.is_some() => {
                    if let Next::End = self.send_trades().await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn pings(&self) -> Interval {
        let every = self.state.config.ping_every.max(Duration::from_millis(1));
        let mut pings = interval_at(Instant::now() + every, every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings
    }

    fn is_silent(&self) -> bool {
        match self.fault {
            ConnectionFault::Silent { after_frames } => self.frames >= after_frames,
            _ => false,
        }
    }

    /// When to send trades next; `None` if there will be none.
    fn next_trades(&self) -> Option<Instant> {
        if self.exhausted || self.is_silent() || self.fault == ConnectionFault::PingOnly {
            return None;
        }
        let begin = self.begin?;
        let unpaced = self.state.config.trades_per_second.is_none() || self.is_flooding();
        Some(if unpaced {
            begin
        } else {
            begin.max(Instant::now() + TICK)
        })
    }

    fn is_flooding(&self) -> bool {
        matches!(self.fault, ConnectionFault::Flood { frames } if self.frames < frames)
    }

    async fn handle(&mut self, text: &str) -> Result<(), WsError> {
        let Ok(message) = serde_json::from_str::<ClientMessage>(text) else {
            return self.send_error("Unknown message").await;
        };
        let faults = &self.state.config.faults;
        match message.kind.as_str() {
            "subscribe" if self.subscribed.contains(&message.symbol) => return Ok(()),
            "subscribe"
                if !self.has(&message.symbol)
                    || faults.invalid_symbols.contains(&message.symbol) =>
            {
                return self
                    .send_error(&format!("Invalid symbol {}", message.symbol))
                    .await;
            }
            "subscribe"
                if faults
                    .symbol_limit
                    .is_some_and(|limit| self.subscribed.len() >= limit) =>
            {
                return self.send_error("Subscribing to too many symbols").await;
            }
            "subscribe" => {
                self.state
                    .counters
                    .subscriptions
                    .fetch_add(1, Ordering::Relaxed);
                self.subscribed.insert(message.symbol);
            }
            "unsubscribe" => {
                self.subscribed.remove(&message.symbol);
            }
            _ => return self.send_error("Unknown message").await,
        }
        let everything = self.subscribed.contains(EVERYTHING);
        self.selection = self
            .state
            .select(|symbol| everything || self.subscribed.contains(symbol));
        self.begin = (!self.subscribed.is_empty()).then(|| Instant::now() + SETTLE);
        self.paced = 0.0;
        Ok(())
    }

    fn has(&self, symbol: &str) -> bool {
        symbol == EVERYTHING
            || self
                .state
                .config
                .symbols
                .iter()
                .any(|known| known == symbol)
    }

    async fn send_error(&mut self, message: &str) -> Result<(), WsError> {
        self.send(serde_json::json!({ "type": "error", "msg": message }).to_string())
            .await
    }

    async fn send(&mut self, text: String) -> Result<(), WsError> {
        self.socket.send(Message::text(text)).await?;
        self.state.counters.frames.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sends the trades that are due, or injects the connection's fault.
    async fn send_trades(&mut self) -> Result<Next, WsError> {
        let mut due = self.due();
        let mut burst = BURST_FRAMES;
        while due >= 1.0 && burst > 0 && !self.is_silent() {
            let limit = (1..=MAX_TRADES_PER_FRAME)
                .take_while(|trades| real(*trades) <= due)
                .last()
                .unwrap_or(1);
            let (text, entries, price_updates) = match self.state.next_frame(&self.selection, limit)
            {
                NextFrame::Frame {
                    text,
                    entries,
                    price_updates,
                } => (text, entries, price_updates),
                NextFrame::Exhausted => {
                    self.exhausted = true;
                    break;
                }
            };
            match self.fault {
                ConnectionFault::Close { after_frames } if self.frames >= after_frames => {
                    self.socket.close(None).await?;
                    return Ok(Next::End);
                }
                ConnectionFault::DropMidFrame { after_frames } if self.frames >= after_frames => {
                    return self.drop_within(&text).await;
                }
                _ if self.drops_by_chance() => return self.drop_within(&text).await,
                _ => {}
            }
            self.socket.feed(Message::text(text)).await?;
            self.frames += 1;
            let counters = &self.state.counters;
            counters.frames.fetch_add(1, Ordering::Relaxed);
            counters
                .trades
                .fetch_add(entries - price_updates, Ordering::Relaxed);
            counters
                .price_updates
                .fetch_add(price_updates, Ordering::Relaxed);
            let cost = real(entries.max(1));
            due -= cost;
            self.paced += cost;
            burst -= 1;
        }
        self.socket.flush().await?;
        Ok(Next::Continue)
    }

    /// The number of due trades: the rate times the time since the first, less those sent. A slow
    /// client misses none. A real server would disconnect it at some point; this one does not.
    fn due(&self) -> f64 {
        match (self.state.config.trades_per_second, self.begin) {
            _ if self.is_flooding() => f64::INFINITY,
            (None, _) => f64::INFINITY,
            (Some(rate), Some(begin)) => begin.elapsed().as_secs_f64() * rate - self.paced,
            (Some(_), None) => 0.0,
        }
    }

    fn drops_by_chance(&self) -> bool {
        let share = self.state.config.faults.drop_mid_frame;
        share > 0.0 && self.state.chance(share)
    }

    /// Sends the beginning of a frame, and closes the connection.
    async fn drop_within(&mut self, text: &str) -> Result<Next, WsError> {
        self.socket.flush().await?;
        let length = u16::try_from(text.len()).unwrap_or(u16::MAX).max(126);
        // Final fragment of a text frame, unmasked, 16-bit length.
        let mut bytes = vec![0x81, 126];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&text.as_bytes()[..text.len() / 2]);
        let stream = self.socket.get_mut();
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        Ok(Next::End)
    }
}

fn real(trades: u64) -> f64 {
    f64::from(u32::try_from(trades).unwrap_or(u32::MAX))
}
