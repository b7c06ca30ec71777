//! Tests of the sample configurations in `packaging/proxies`, with real proxies in front of the real server: a proxy passes bytes on
//! as they arrive, and a failed transfer looks failed through a proxy too.
//!
//! They need the proxies, so they run on request only: `cargo test --test proxies -- --ignored`. An additional `nginx::`,
//! `haproxy::` or `caddy::` selects one proxy. The tests of a proxy that is not installed fail.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(clippy::print_stdout, reason = "the tests print how long the bytes took")]
#![allow(unreachable_pub, reason = "public items are for the modules of this test only")]
#![allow(clippy::disallowed_methods, reason = "there is no clock to pause across processes")]

mod client;
mod events;
mod site;
mod waits;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use client::{Client, Framing};
use events::{a_subscriber_that_leaves_is_noticed, each_event_arrives_before_the_next_change};
use site::{Proxy, Site, curl, spawn};
use waits::{a_loop_of_bounded_waits_meets_a_late_peer, a_wait_without_a_bound_is_cut_by_the_proxy};

/// Both framings of a body.
const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::Chunked];

fn every_byte_arrives_before_the_next_is_sent(proxy: Proxy) {
    const BYTES: usize = 16;
    let site = Site::start(proxy);
    let paths = [
        ("both sides through the proxy", site.plain, site.plain),
        ("the upload through the proxy", site.plain, site.server),
        ("the download through the proxy", site.server, site.plain),
    ];
    for (path, up, down) in paths {
        for framing in FRAMINGS {
            let id = site.create();
            let mut destination = Client::connect(down);
            destination.get(&id);
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(up);
            source.put(&id, framing, BYTES);
            let mut took = Vec::new();
            for at in 0..BYTES {
                let sent = Instant::now();
                source.body(framing, b"x");
                if at == 0 {
                    assert_eq!(destination.status(), Some(200), "{path}, {framing:?}");
                }
                assert_eq!(destination.body_byte().unwrap(), Some(b'x'), "{path}, {framing:?}");
                took.push(sent.elapsed());
            }
            source.end(framing);
            assert_eq!(destination.body_byte().unwrap(), None, "{path}, {framing:?}");
            assert_eq!(source.status(), Some(200), "{path}, {framing:?}");
            println!(
                "{proxy:?}, {path}, {framing:?}: first byte {:?}, slowest {:?}",
                took[0],
                took.iter().max().unwrap()
            );
        }
    }
}

/// A proxy may take an interim response that it did not ask for as the final one.
fn a_waiting_source_with_full_buffers_gets_no_response(proxy: Proxy) {
    const LENGTH: usize = 16 << 20;
    const A_WHILE: Duration = Duration::from_millis(1500);
    let site = Site::start(proxy);
    let id = site.create();
    let mut source = Client::connect(site.plain);
    source.put(&id, Framing::Length, LENGTH);
    let sender = source.send_in_background(vec![b'x'; LENGTH]);
    site.until(&id, "SRC_CONNECTED");
    let early = source.status_within(A_WHILE);
    assert_eq!(early.unwrap_err().kind(), ErrorKind::WouldBlock);
    let open = site.open();
    let download = open.curl(&["--max-time", "30", &open.url(&id)]).output().unwrap();
    assert!(download.status.success(), "{download:?}");
    assert!(download.stdout == vec![b'x'; LENGTH], "{} bytes", download.stdout.len());
    assert_eq!(source.status(), Some(200));
    sender.join().unwrap();
}

fn a_side_that_leaves_while_it_waits_frees_its_seat(proxy: Proxy) {
    let site = Site::start(proxy);
    let id = site.create();
    let mut destination = Client::connect(site.plain);
    destination.get(&id);
    site.until(&id, "DST_CONNECTED");
    drop(destination);
    site.until(&id, "CREATED");
    for framing in FRAMINGS {
        let mut source = Client::connect(site.plain);
        source.put(&id, framing, 1);
        source.body(framing, b"x");
        source.end(framing);
        site.until(&id, "SRC_CONNECTED");
        drop(source);
        site.until(&id, "CREATED");
    }
}

/// A whole transfer never looks incomplete, even if the proxy closes its connections at once.
fn many_small_transfers_all_arrive(proxy: Proxy) {
    const TRANSFERS: usize = 100;
    let site = Site::start(proxy);
    for framing in (0..TRANSFERS).map(|at| FRAMINGS[at % 2]) {
        let id = site.create();
        let mut destination = Client::connect(site.plain);
        destination.get(&id);
        let mut source = Client::connect(site.plain);
        source.put(&id, framing, 1000);
        source.body(framing, &[b'x'; 1000]);
        source.end(framing);
        assert_eq!(destination.status(), Some(200), "{framing:?}");
        for _ in 0..1000 {
            assert_eq!(destination.body_byte().unwrap(), Some(b'x'), "{framing:?}");
        }
        assert_eq!(destination.body_byte().unwrap(), None, "{framing:?}");
        assert_eq!(source.status(), Some(200), "{framing:?}");
    }
}

fn a_stalled_destination_does_not_stall_other_transfers(proxy: Proxy) {
    let site = Site::start(proxy);
    let id = site.create();
    let mut stalled = Client::connect(site.plain);
    stalled.get(&id);
    site.until(&id, "DST_CONNECTED");
    let mut source = Client::connect(site.plain);
    source.put(&id, Framing::Chunked, 0);
    let sender = source.send_in_background_until_refused(Framing::Chunked);
    let early = source.status_within(Duration::from_millis(500));
    assert_eq!(early.unwrap_err().kind(), ErrorKind::WouldBlock);
    for framing in FRAMINGS {
        let id = site.create();
        let mut destination = Client::connect(site.plain);
        destination.get(&id);
        site.until(&id, "DST_CONNECTED");
        let mut source = Client::connect(site.plain);
        source.put(&id, framing, 1);
        source.body(framing, b"x");
        source.end(framing);
        assert_eq!(destination.status(), Some(200));
        assert_eq!(destination.body_byte().unwrap(), Some(b'x'));
        assert_eq!(source.status(), Some(200));
    }
    drop((stalled, source));
    sender.join().unwrap();
}

fn a_killed_source_is_no_whole_download(proxy: Proxy) {
    let site = Site::start(proxy);
    for framing in FRAMINGS {
        for listener in site.listeners() {
            let id = site.create();
            let destination = spawn(listener.curl(&["-w", "%{http_code}"]).arg(listener.url(&id)));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, 10);
            source.body(framing, b"hello");
            site.until_bytes(&id, 5);
            drop(source);
            let download = destination.output();
            assert!(!download.status.success(), "{listener:?}, {framing:?}: {download:?}");
            assert_eq!(site.status(&id)["state"], "SRC_DISCONNECTED");
        }
    }
}

fn a_source_killed_before_its_first_byte_is_a_502(proxy: Proxy) {
    let site = Site::start(proxy);
    for framing in FRAMINGS {
        for listener in site.listeners() {
            let id = site.create();
            let destination = spawn(listener.curl(&["-w", "%{http_code}"]).arg(listener.url(&id)));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, 10);
            site.until(&id, "STREAMING");
            drop(source);
            let download = destination.output();
            assert_eq!(download.status.code(), Some(22), "{listener:?}, {framing:?}: {download:?}");
            assert!(download.stdout.ends_with(b"502"), "{listener:?}, {framing:?}: {download:?}");
        }
    }
}

/// Like `a_killed_source_is_no_whole_download`, with a source over TLS, and over HTTP/2 if the proxy supports it.
fn a_killed_source_over_tls_is_no_whole_download(proxy: Proxy) {
    let site = Site::start(proxy);
    for listener in site.listeners() {
        let id = site.create();
        let destination = spawn(listener.curl(&[]).arg(listener.url(&id)));
        site.until(&id, "DST_CONNECTED");
        let secure = site.secure();
        let mut source = spawn(secure.curl(&["-T", "-"]).arg(secure.url(&id)).stdin(Stdio::piped()));
        let mut pipe = source.0.stdin.take().unwrap();
        pipe.write_all(b"hello").unwrap();
        site.until_bytes(&id, 5);
        source.0.kill().unwrap();
        let download = destination.output();
        assert!(!download.status.success(), "{listener:?}: {download:?}");
        assert_eq!(site.status(&id)["state"], "SRC_DISCONNECTED");
    }
}

fn a_killed_destination_is_no_delivery(proxy: Proxy) {
    const MORE_THAN_ALL_BUFFERS: usize = 1 << 30;
    let site = Site::start(proxy);
    for framing in FRAMINGS {
        for listener in site.listeners() {
            let id = site.create();
            let mut destination = spawn(listener.curl(&["-N"]).arg(listener.url(&id)).stdout(Stdio::piped()));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, MORE_THAN_ALL_BUFFERS);
            source.body(framing, b"x");
            destination.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            destination.0.kill().unwrap();
            destination.0.wait().unwrap();
            let sender = source.send_in_background_until_refused(framing);
            let status = source.status();
            assert!(matches!(status, None | Some(502)), "{listener:?}, {framing:?}: {status:?}");
            drop(source);
            sender.join().unwrap();
            site.until(&id, "DST_DISCONNECTED");
        }
    }
}

fn a_killed_server_is_neither_a_whole_download_nor_a_delivery(proxy: Proxy) {
    for framing in FRAMINGS {
        for is_secure in [false, true] {
            let mut site = Site::start(proxy);
            let listener = if is_secure { site.secure() } else { site.open() };
            let id = site.create();
            let destination = spawn(listener.curl(&[]).arg(listener.url(&id)));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, 10);
            source.body(framing, b"hello");
            site.until_bytes(&id, 5);
            site.kill_server();
            let download = destination.output();
            assert!(!download.status.success(), "{listener:?}, {framing:?}: {download:?}");
            let status = source.status();
            assert!(matches!(status, None | Some(502)), "{listener:?}, {framing:?}: {status:?}");
        }
    }
}

/// An HTTP/1.0 client could not distinguish a part of a body without a length from the whole.
fn http_1_0_is_refused(proxy: Proxy) {
    let site = Site::start(proxy);
    let id = site.create();
    let open = site.open();
    let refused = open.curl(&["--http1.0", "-w", "%{http_code}", &open.url(&id)]).output().unwrap();
    assert!(refused.stdout.ends_with(b"505"), "{refused:?}");
    assert_eq!(site.status(&id)["state"], "CREATED");
}

fn a_refusal_can_be_read_while_the_body_is_being_sent(proxy: Proxy) {
    let site = Site::start(proxy);
    let mut source = Client::connect(site.plain);
    source.put("unknown", Framing::Chunked, 0);
    let sender = source.send_in_background_until_refused(Framing::Chunked);
    assert_eq!(source.status(), Some(404));
    drop(source);
    sender.join().unwrap();
}

/// A `PUT` that failed may have been delivered, so only its sender may decide to repeat it.
fn a_failed_request_is_not_repeated(proxy: Proxy) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut site = Site::start_in_front_of(proxy, server.local_addr().unwrap());
    for framing in FRAMINGS {
        let mut source = Client::connect(site.plain);
        source.put("id", framing, 1);
        source.body(framing, b"x");
        source.end(framing);
        let mut request = server.accept().unwrap().0;
        request.read_exact(&mut [0; "PUT /stream/id HTTP/1.1\r\n".len()]).unwrap();
        drop(request);
        let status = source.status();
        assert!(matches!(status, None | Some(502)), "{framing:?}: {status:?}");
    }
    site.stop_proxy();
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "the proxy repeated the request");
}

/// The proxy replaces the forwarding fields of clients, so that each has the limits of its own address.
fn clients_are_distinguished_by_address(proxy: Proxy) {
    let site = Site::start_with(proxy, &["--max-creations-per-minute", "1"]);
    let creates = |from: &str| {
        let claims = ["-H", "X-Forwarded-For: 192.0.2.7", "-H", "Forwarded: for=192.0.2.8"];
        let url = format!("http://{}/stream", site.plain);
        let post = ["--interface", from, "-X", "POST", "-o", "/dev/null", "-w", "%{http_code}", &url];
        String::from_utf8(curl(&claims).args(post).output().unwrap().stdout).unwrap()
    };
    assert_eq!(["127.0.0.2", "127.0.0.2", "127.0.0.3"].map(creates), ["201", "429", "201"]);
}

fn large_bodies_arrive_as_they_were_sent(proxy: Proxy) {
    let mebibytes = std::env::var("RENDEZVOUS_PROXY_MIB").map_or(64, |text| text.parse::<u64>().unwrap());
    let site = Site::start(proxy);
    let folder = tempfile::tempdir().unwrap();
    let [sent, received] =
        ["sent", "received"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    let mut random = File::open("/dev/urandom").unwrap().take(mebibytes << 20);
    std::io::copy(&mut random, &mut File::create(&sent).unwrap()).unwrap();
    for is_chunked in [false, true] {
        for (up, down) in [(site.open(), site.open()), (site.secure(), site.secure())] {
            let id = site.create();
            let begun = Instant::now();
            let destination = spawn(down.curl(&["-o", &received]).arg(down.url(&id)));
            let mut source = up.curl(&["-T", if is_chunked { "-" } else { &sent }]);
            let upload = source.arg(up.url(&id)).stdin(File::open(&sent).unwrap()).output().unwrap();
            assert!(upload.status.success(), "{up:?}: {upload:?}");
            let download = destination.output();
            assert!(download.status.success(), "{down:?}: {download:?}");
            let hashes = [&sent, &received].map(|path| sha256(path));
            assert_eq!(hashes[0], hashes[1], "{up:?}, chunked: {is_chunked}");
            println!(
                "{proxy:?} {up:?}, chunked: {is_chunked}: {mebibytes} MiB in {:?}, sha256 {}",
                begun.elapsed(),
                hashes[1]
            );
            fs::remove_file(&received).unwrap();
        }
    }
}

fn sha256(path: &str) -> String {
    let output = Command::new("sha256sum").stdin(File::open(path).unwrap()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end_matches(" -\n").trim().to_owned()
}

macro_rules! through {
    ($($module:ident: $proxy:ident),* => $tests:tt) => { $(through! { @ $module $proxy $tests })* };
    (@ $module:ident $proxy:ident [$($test:ident),* $(,)?]) => {
        mod $module {
            $(
                #[test]
                #[ignore = "needs the proxy installed"]
                fn $test() {
                    super::$test(crate::site::Proxy::$proxy);
                }
            )*
        }
    };
}

through! {
    nginx: Nginx, haproxy: Haproxy, caddy: Caddy => [
        every_byte_arrives_before_the_next_is_sent,
        a_waiting_source_with_full_buffers_gets_no_response,
        a_side_that_leaves_while_it_waits_frees_its_seat,
        many_small_transfers_all_arrive,
        a_stalled_destination_does_not_stall_other_transfers,
        a_killed_source_is_no_whole_download,
        a_source_killed_before_its_first_byte_is_a_502,
        a_killed_source_over_tls_is_no_whole_download,
        a_killed_destination_is_no_delivery,
        a_killed_server_is_neither_a_whole_download_nor_a_delivery,
        http_1_0_is_refused,
        a_refusal_can_be_read_while_the_body_is_being_sent,
        a_failed_request_is_not_repeated,
        clients_are_distinguished_by_address,
        large_bodies_arrive_as_they_were_sent,
        each_event_arrives_before_the_next_change,
        a_subscriber_that_leaves_is_noticed,
    ]
}

through! {
    silent_nginx: SilentNginx => [a_waiting_source_with_full_buffers_gets_no_response]
}

through! {
    default_nginx: DefaultNginx => [each_event_arrives_before_the_next_change]
}

through! {
    hasty_nginx: HastyNginx, hasty_haproxy: HastyHaproxy => [
        a_loop_of_bounded_waits_meets_a_late_peer,
        a_wait_without_a_bound_is_cut_by_the_proxy,
    ]
}
