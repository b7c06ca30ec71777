//! Files, trees and pipes from disk to disk.

use std::fs;
use std::sync::Arc;

use parking_lot::Mutex;
use rendezvous_client::destination::{Destination, Existing, directory};
use rendezvous_client::link::Link;
use rendezvous_client::receive::ReceiveEnding;
use rendezvous_client::relay::Relay;
use rendezvous_client::send::SendEnding;
use rendezvous_client::source::{Source, open, pipe};
use testkit::server::TestServer;

use crate::memory::{Boxed, Disk, OnDisk, Receiving, Sending, bytes};

const MIB: usize = 1024 * 1024;

/// Sends a source, receives it where `destination` says, and returns where it is.
async fn transfer(
    source: Box<dyn Source>,
    destination: impl FnOnce(&Link) -> Box<dyn Destination>,
) -> Option<std::path::PathBuf> {
    let server = TestServer::start().await;
    let url = format!("http://{}", server.address()).parse().unwrap();
    let mut sending = Sending::start(Boxed(source), Relay { url, token: None });
    let link = sending.link().await;
    let destination = destination(&link);
    let received = Receiving::start(link, destination).ending().await;
    let sent = sending.ending().await;
    assert!(matches!(sent, SendEnding::Stored { .. }), "{sent:?}");
    match received {
        ReceiveEnding::Stored { at, confirmed: true, .. } => at,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_arrives_under_its_name() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from.path().join("a file with \"quotes\"");
    fs::write(&path, bytes(3 * MIB)).unwrap();
    let source = open(&[path], None, 0).unwrap();
    let at = transfer(source, |link| directory(to.path(), link, Existing::Fail).unwrap()).await.unwrap();
    assert_eq!(at.parent(), Some(to.path()));
    assert!(fs::read(&at).unwrap() == bytes(3 * MIB));
    assert_eq!(fs::read_dir(to.path()).unwrap().count(), 1, "neither .part nor state stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_arrives_whole() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tree = from.path().join("tree");
    for directory in 0..5 {
        let directory = tree.join(directory.to_string());
        fs::create_dir_all(&directory).unwrap();
        for file in 0..20 {
            fs::write(directory.join(format!("{file}.txt")), bytes(file * 1000)).unwrap();
        }
    }
    let source = open(&[tree], None, 0).unwrap();
    transfer(source, |link| directory(to.path(), link, Existing::Fail).unwrap()).await;
    for directory in 0..5 {
        for file in 0..20 {
            let path = to.path().join(format!("tree/{directory}/{file}.txt"));
            assert!(fs::read(&path).unwrap() == bytes(file * 1000), "{}", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipe_arrives_whole() {
    let data = bytes(20 * MIB);
    let source = pipe(std::io::Cursor::new(data.clone()), Some("piped"), 16 * MIB);
    let disk: Arc<Mutex<Disk>> = Arc::default();
    transfer(source, |_| OnDisk::boxed(&disk)).await;
    assert!(disk.lock().bytes == data);
}
