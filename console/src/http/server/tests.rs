//! Each bound of the listener, set small.

use std::net::Ipv4Addr;

use axum::{body::Body, http::StatusCode, routing::get};
use futures::stream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::*;
use crate::http::pace::Pace;

/// A listener with these limits.
async fn serve(limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let endless = || async {
        Body::from_stream(stream::repeat_with(|| {
            Ok::<_, io::Error>(vec![b'x'; 64 << 10])
        }))
    };
    let livez = Router::new().route("/livez", get(|| async { "ok" }));
    let routes = Routes {
        all: livez
            .clone()
            .route("/", get(|| async { "served" }))
            .route(ENDLESS, get(endless)),
        probes: livez.fallback(|| async { StatusCode::SERVICE_UNAVAILABLE }),
    };
    tokio::spawn(accept(listener, routes, None, limits));
    address
}

/// A connection from an address of this machine.
async fn connect(to: SocketAddr, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    let from = SocketAddr::from((Ipv4Addr::from(from), 0));
    socket.bind(from).expect("an address of loopback");
    socket.connect(to).await.expect("a connection")
}

/// A path whose answer never ends.
const ENDLESS: &str = "/endless";
const HERE: [u8; 4] = [127, 0, 0, 1];

/// The status code of an answer; none if the connection was closed.
async fn ask(stream: &mut TcpStream, path: &str) -> Option<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

/// Reads until the connection ends.
async fn ends(stream: &mut TcpStream) {
    let mut rest = vec![0; 64 << 10];
    while stream.read(&mut rest).await.is_ok_and(|bytes| bytes > 0) {}
}

#[tokio::test]
async fn probes_are_answered_while_idle_connections_take_every_place() {
    let address = serve(Limits {
        connections: 2,
        probes: 2,
        ..Limits::default()
    })
    .await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(address, HERE).await;
        assert_eq!(ask(&mut stream, "/").await, Some(200));
        idle.push(stream);
    }
    // The places for probes are taken by idle connections too.
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(connect(address, HERE).await);
    }
    for _ in 0..3 {
        let mut probe = connect(address, HERE).await;
        assert_eq!(ask(&mut probe, "/livez").await, Some(200));
        let mut other = connect(address, HERE).await;
        assert_eq!(ask(&mut other, "/").await, Some(503));
    }
    ends(&mut silent[0]).await;
    drop(idle);
    loop {
        let mut stream = connect(address, HERE).await;
        match ask(&mut stream, "/").await {
            Some(200) => break,
            other => assert_eq!(other, Some(503), "until the places are given back"),
        }
    }
}

#[tokio::test]
async fn one_peer_does_not_take_the_places_of_all() {
    let address = serve(Limits {
        connections: 3,
        of_peer: 2,
        ..Limits::default()
    })
    .await;
    let (mut first, mut second) = (connect(address, HERE).await, connect(address, HERE).await);
    assert_eq!(ask(&mut first, "/").await, Some(200));
    assert_eq!(ask(&mut second, "/").await, Some(200));
    let mut third = connect(address, HERE).await;
    assert_eq!(ask(&mut third, "/").await, Some(503));
    let mut other = connect(address, [127, 0, 0, 2]).await;
    assert_eq!(ask(&mut other, "/").await, Some(200));
}

#[tokio::test]
async fn an_old_connection_ends_also_if_it_is_used() {
    let address = serve(Limits {
        age: Duration::from_millis(50),
        ..Limits::default()
    })
    .await;
    let mut stream = connect(address, HERE).await;
    let mut answers = 0;
    while ask(&mut stream, "/livez").await == Some(200) {
        answers += 1;
        let mut rest = [0; 1_024];
        let _ = stream.read(&mut rest).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(answers > 0, "it was served before");
}

#[tokio::test]
async fn an_idle_connection_for_probes_ends_by_itself() {
    let address = serve(Limits {
        connections: 0,
        probe_age: Duration::from_millis(50),
        ..Limits::default()
    })
    .await;
    ends(&mut connect(address, HERE).await).await;
}

#[tokio::test]
async fn a_slow_reader_of_a_stream_is_dropped() {
    let address = serve(Limits {
        pace: Pace {
            over: Duration::from_millis(200),
            least: 1 << 40,
        },
        ..Limits::default()
    })
    .await;
    let mut stream = connect(address, HERE).await;
    assert_eq!(ask(&mut stream, ENDLESS).await, Some(200));
    // It reads now and then, so that it is never without progress for long.
    let mut some = vec![0; 64 << 10];
    while stream.read(&mut some).await.is_ok_and(|bytes| bytes > 0) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
