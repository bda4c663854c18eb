//! Lost answers. A proxy between the store and Cassandra can drop the server's answers or close all
//! connections.

use std::time::Duration;

use tapeflow_protocol::{
    CasOutcome, CheckpointStore, EpochStore, StoreError, workflow::until_answered,
};
use tapeflow_sinks::cassandra::{CassandraConfig, CassandraStore};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::{Test, keyspace::Keyspace, samples};

pub(crate) fn tests() -> Vec<(String, Test)> {
    let test = |name: &str, test: Test| (format!("faulty::{name}"), test);
    vec![
        test(
            "a_lost_answer_leaves_a_proposal_unknown_and_it_may_be_applied",
            Box::new(|host| Box::pin(a_lost_answer_leaves_a_proposal_unknown(host))),
        ),
        test(
            "a_write_with_a_lost_answer_fails_and_can_be_repeated",
            Box::new(|host| Box::pin(a_lost_answer_to_a_write(host))),
        ),
        test(
            "an_unreachable_cluster_is_unavailable_and_not_broken",
            Box::new(|_| Box::pin(an_unreachable_cluster())),
        ),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Everything passes.
    Pass,
    /// Requests pass, answers are dropped.
    Swallow,
    /// Old connections are closed, new ones pass.
    Mended,
}

/// Starts a proxy to `host`. Returns its address and its switch.
async fn proxy(host: String) -> (String, watch::Sender<Mode>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (switch, mode) = watch::channel(Mode::Pass);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&host).await else {
                continue;
            };
            tokio::spawn(carry(client, server, mode.clone()));
        }
    });
    (address, switch)
}

async fn carry(client: TcpStream, server: TcpStream, mut mode: watch::Receiver<Mode>) {
    let born = *mode.borrow_and_update();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = {
        let mode = mode.clone();
        async move {
            let mut bytes = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
                if *mode.borrow() != Mode::Swallow
                    && to_client.write_all(&bytes[..count]).await.is_err()
                {
                    break;
                }
            }
        }
    };
    let requests = async move { tokio::io::copy(&mut from_client, &mut to_server).await };
    // A stream that has lost bytes cannot be used again.
    let mended = async move {
        mode.wait_for(|now| *now == Mode::Mended && born != Mode::Mended)
            .await
            .map(drop)
    };
    tokio::select! {
        () = answers => {}
        _ = requests => {}
        _ = mended => {}
    }
}

async fn through_proxy(keyspace: &Keyspace, host: String) -> (CassandraStore, watch::Sender<Mode>) {
    let (address, switch) = proxy(host).await;
    let config = CassandraConfig {
        hosts: vec![address],
        request_timeout: Duration::from_millis(1_500),
        cas_timeout: Duration::from_millis(1_500),
        ..keyspace.config.clone()
    };
    (
        CassandraStore::connect(config).await.expect("connects"),
        switch,
    )
}

async fn a_lost_answer_leaves_a_proposal_unknown(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let (store, switch) = through_proxy(&keyspace, host).await;
    let checkpoint = samples::first_checkpoint("contract");
    switch.send_replace(Mode::Swallow);
    let outcome = store.compare_and_set(None, &checkpoint).await;
    assert!(matches!(outcome, CasOutcome::Unknown(_)), "{outcome:?}");
    assert!(matches!(
        store.checkpoint().await,
        Err(StoreError::Unavailable(_))
    ));
    switch.send_replace(Mode::Mended);
    // The server received the proposal, and there was no other.
    let found = until_answered("reading the checkpoint", || store.checkpoint())
        .await
        .expect("the proxy passes again");
    assert_eq!(found, Some(checkpoint));
    keyspace.give_back();
}

async fn a_lost_answer_to_a_write(host: String) {
    let keyspace = Keyspace::borrow(&host).await;
    let (store, switch) = through_proxy(&keyspace, host).await;
    let writes = samples::writes(500);
    let keys: Vec<_> = writes.bars.iter().map(|row| row.key.clone()).collect();
    let want: Vec<_> = writes
        .bars
        .iter()
        .map(|row| Some(row.state.into_row()))
        .collect();
    switch.send_replace(Mode::Swallow);
    let outcome = store.write(&writes).await;
    assert!(
        matches!(outcome, Err(StoreError::Unavailable(_))),
        "{outcome:?}"
    );
    switch.send_replace(Mode::Mended);
    until_answered("writing", || store.write(&writes))
        .await
        .expect("the proxy passes again");
    assert_eq!(
        until_answered("reading", || store.read_bars(&keys))
            .await
            .expect("the proxy passes again"),
        want
    );
    keyspace.give_back();
}

async fn an_unreachable_cluster() {
    // A port that was bound and closed again, so that no program listens on it.
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port")
        .local_addr()
        .expect("an address")
        .port();
    let config = CassandraConfig::parse(&format!("cassandra://127.0.0.1:{port}/k"), "contract")
        .expect("an address");
    let refused = CassandraStore::connect(config)
        .await
        .err()
        .expect("refused");
    assert!(
        matches!(&refused, StoreError::Unavailable(text) if text.contains(&format!("127.0.0.1:{port}"))),
        "{refused:?}"
    );
}
