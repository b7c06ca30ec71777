//! What a person sees: stored, continued after a cut or a restart, or told why not.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rendezvous_client::destination::Stored;
use rendezvous_client::receive::{ReceiveEnding, Refusal};
use rendezvous_client::relay::{Relay, Token, Unusable};
use rendezvous_client::send::SendEnding;
use testkit::server::TestServer;

use crate::memory::{Disk, Memory, OnDisk, Receiving, Sending, bytes, digest_of};
use crate::proxy::Proxy;

const MIB: usize = 1024 * 1024;

fn relay_at(address: SocketAddr) -> Relay {
    Relay { url: format!("http://{address}").parse().unwrap(), token: None }
}

fn data(length: usize) -> Arc<Vec<u8>> {
    Arc::new(bytes(length))
}

fn assert_stored(sent: &SendEnding, received: &ReceiveEnding, disk: &Arc<Mutex<Disk>>, data: &[u8]) {
    let disk = disk.lock();
    assert!(disk.bytes == data, "{} bytes arrived, {} were sent", disk.bytes.len(), data.len());
    assert!(matches!(received, ReceiveEnding::Stored { confirmed: true, .. }), "{received:?}");
    assert!(disk.is_confirmed);
    match sent {
        SendEnding::Stored { bytes, sha256 } => {
            assert_eq!((*bytes, *sha256), (data.len() as u64, digest_of(data)));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_and_pipes_of_all_sizes_are_stored_and_confirmed() {
    let server = TestServer::start().await;
    for (length, is_pipe) in [
        (0, false),
        (0, true),
        (1, false),
        (65_000, true),
        (3 * MIB, false),
        (9 * MIB + 7, true),
        (21 * MIB, false),
    ] {
        let data = data(length);
        let source = if is_pipe { Memory::pipe(&data) } else { Memory::file(&data) };
        let mut sending = Sending::start(source, relay_at(server.address()));
        let link = sending.link().await;
        let disk = Arc::default();
        let received = Receiving::start(link, OnDisk::boxed(&disk)).ending().await;
        assert_stored(&sending.ending().await, &received, &disk, &data);
        let description = disk.lock().description.clone().unwrap();
        assert_eq!(
            (description.name.as_str(), description.mode, description.mtime),
            ("file", Some(0o640), Some(1))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_for_a_pipe_is_handed_on() {
    let server = TestServer::start().await;
    let data = data(MIB);
    let mut sending = Sending::start(Memory::file(&data), relay_at(server.address()));
    let link = sending.link().await;
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let handed = Box::new(OnDisk { disk: Arc::clone(&disk), stored: Stored::Handed });
    let received = Receiving::start(link, handed).ending().await;
    assert!(matches!(received, ReceiveEnding::Handed { confirmed: true, .. }), "{received:?}");
    assert!(matches!(sending.ending().await, SendEnding::Handed { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_cut_connections_a_transfer_goes_on_where_it_was() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    let data = data(24 * MIB);
    let mut sending = Sending::start(Memory::file(&data), relay_at(proxy.address));
    let link = sending.link().await;
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let mut receiving = Receiving::start(link, OnDisk::boxed(&disk));
    for part in 1..4 {
        receiving.until(part * 5 * MIB as u64).await;
        proxy.cut();
    }
    assert_stored(&sending.ending().await, &receiving.ending().await, &disk, &data);
    assert_eq!(disk.lock().begun, 1, "it never began again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_relay_does_not_end_a_transfer() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.address()).await;
    let data = data(16 * MIB);
    let mut sending = Sending::start(Memory::pipe(&data), relay_at(proxy.address));
    let link = sending.link().await;
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let mut receiving = Receiving::start(link, OnDisk::boxed(&disk));
    receiving.until(4 * MIB as u64).await;
    let restarted = TestServer::start().await;
    proxy.turn_to(restarted.address());
    drop(server);
    assert_stored(&sending.ending().await, &receiving.ending().await, &disk, &data);
    assert_eq!(disk.lock().begun, 1, "it never began again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_receiver_goes_on_with_what_it_has() {
    let server = TestServer::start().await;
    let data = data(16 * MIB);
    let mut sending = Sending::start(Memory::file(&data), relay_at(server.address()));
    let link = sending.link().await;
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let mut receiving = Receiving::start(link.clone(), OnDisk::boxed(&disk));
    receiving.until(4 * MIB as u64).await;
    receiving.stop.cancel();
    assert!(matches!(receiving.ending().await, ReceiveEnding::Interrupted));
    assert!(!disk.lock().is_abandoned);
    let received = Receiving::start(link, OnDisk::boxed(&disk)).ending().await;
    assert_stored(&sending.ending().await, &received, &disk, &data);
    assert_eq!(disk.lock().begun, 1, "it never began again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_sender_tells_the_receiver() {
    let server = TestServer::start().await;
    let data = data(64 * MIB);
    let mut sending = Sending::start(Memory::file(&data), relay_at(server.address()));
    let link = sending.link().await;
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let mut receiving = Receiving::start(link, OnDisk::boxed(&disk));
    receiving.until(MIB as u64).await;
    sending.stop.cancel();
    let received = receiving.ending().await;
    assert!(matches!(received, ReceiveEnding::Refused { reason: Refusal::Other, .. }), "{received:?}");
    assert!(matches!(sending.ending().await, SendEnding::Interrupted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_changed_ends_the_transfer_on_both_sides() {
    let server = TestServer::start().await;
    let data = data(8 * MIB);
    let mut source = Memory::file(&data);
    source.changes_at = Some(5 * MIB);
    let mut sending = Sending::start(source, relay_at(server.address()));
    let link = sending.link().await;
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let received = Receiving::start(link, OnDisk::boxed(&disk)).ending().await;
    assert!(matches!(received, ReceiveEnding::Refused { reason: Refusal::Changed, .. }), "{received:?}");
    assert!(disk.lock().is_abandoned);
    assert!(matches!(sending.ending().await, SendEnding::Source(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_cannot_be_used_ends_a_sender_before_any_link() {
    let token = "create-of-16-bytes";
    let needs_token = TestServer::start_with(|config| {
        config.create_token = rendezvous_server::config::Token::parse(token).ok();
    });
    let needs_token = needs_token.await;
    let no_paths = TestServer::start_with(|config| config.no_paths = true).await;
    let with =
        |text: &str| Relay { token: Some(Token::parse(text).unwrap()), ..relay_at(needs_token.address()) };
    for (relay, expected) in [
        (relay_at(needs_token.address()), Unusable::TokenNeeded),
        (with("wrong-wrong-wrong-wrong"), Unusable::TokenRefused),
        (relay_at(no_paths.address()), Unusable::NoPaths { url: relay_at(no_paths.address()).url }),
    ] {
        let mut sending = Sending::start(Memory::file(&data(1)), relay);
        assert!(sending.events.recv().await.is_none(), "an event before the ending {expected:?}");
        match sending.ending().await {
            SendEnding::Unusable(unusable) => assert_eq!(unusable, expected),
            other => panic!("{other:?}"),
        }
    }
    // The receiver needs no token.
    let data = data(MIB);
    let mut sending = Sending::start(Memory::file(&data), with(token));
    let link = sending.link().await;
    let disk: Arc<Mutex<Disk>> = Arc::default();
    let received = Receiving::start(link, OnDisk::boxed(&disk)).ending().await;
    assert_stored(&sending.ending().await, &received, &disk, &data);
}
