//! The samples of `packaging/proxies`, in the real proxies, before the real server: bytes pass as they come, and a cut transfer
//! looks cut on the other side of a proxy too.
//!
//! They need the proxies, so they run when they are asked for: `cargo test --test proxies -- --ignored`, and with `nginx::`,
//! `haproxy::` or `caddy::` behind it those of one. A proxy that is not installed fails its tests.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]
#![allow(clippy::print_stdout, reason = "what it took is told")]
#![allow(unreachable_pub, reason = "what is public here is so for this one crate")]
#![allow(clippy::disallowed_methods, reason = "there is no clock to pause across processes")]

mod client;
mod site;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use client::{Client, Framing};
use site::{Proxy, Site, curl, spawn};

/// Both framings of a body.
const FRAMINGS: [Framing; 2] = [Framing::Length, Framing::Chunked];

fn every_byte_arrives_before_the_next_is_sent(proxy: Proxy) {
    const BYTES: usize = 16;
    let site = Site::start(proxy);
    let ways = [
        ("both ways", site.plain, site.plain),
        ("up", site.plain, site.server),
        ("down", site.server, site.plain),
    ];
    for (way, up, down) in ways {
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
                    assert_eq!(destination.status(), Some(200), "{way}, {framing:?}");
                }
                assert_eq!(destination.body_byte().unwrap(), Some(b'x'), "{way}, {framing:?}");
                took.push(sent.elapsed());
            }
            source.end(framing);
            assert_eq!(destination.body_byte().unwrap(), None, "{way}, {framing:?}");
            assert_eq!(source.status(), Some(200), "{way}, {framing:?}");
            println!(
                "{proxy:?} {way}, {framing:?}: first byte {:?}, slowest {:?}",
                took[0],
                took.iter().max().unwrap()
            );
        }
    }
}

/// A proxy may take an interim response that it has not asked for as the final one.
fn a_source_that_waits_behind_full_buffers_gets_no_answer_yet(proxy: Proxy) {
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

/// Whole transfers never look cut, however fast the proxy lets go of its connections.
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

fn a_destination_that_stands_still_holds_up_nobody_else(proxy: Proxy) {
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
        for entrance in site.entrances() {
            let id = site.create();
            let destination = spawn(entrance.curl(&["-w", "%{http_code}"]).arg(entrance.url(&id)));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, 10);
            source.body(framing, b"hello");
            site.until_bytes(&id, 5);
            drop(source);
            let download = destination.output();
            assert!(!download.status.success(), "{entrance:?}, {framing:?}: {download:?}");
            assert_eq!(site.status(&id)["state"], "SRC_DISCONNECTED");
        }
    }
}

fn a_source_killed_before_its_first_byte_is_a_502(proxy: Proxy) {
    let site = Site::start(proxy);
    for framing in FRAMINGS {
        for entrance in site.entrances() {
            let id = site.create();
            let destination = spawn(entrance.curl(&["-w", "%{http_code}"]).arg(entrance.url(&id)));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, 10);
            site.until(&id, "STREAMING");
            drop(source);
            let download = destination.output();
            assert_eq!(download.status.code(), Some(22), "{entrance:?}, {framing:?}: {download:?}");
            assert!(download.stdout.ends_with(b"502"), "{entrance:?}, {framing:?}: {download:?}");
        }
    }
}

/// The same of a sender over TLS, and over HTTP/2 where the proxy speaks that: it has no chunks.
fn a_killed_source_over_tls_is_no_whole_download(proxy: Proxy) {
    let site = Site::start(proxy);
    for entrance in site.entrances() {
        let id = site.create();
        let destination = spawn(entrance.curl(&[]).arg(entrance.url(&id)));
        site.until(&id, "DST_CONNECTED");
        let secure = site.secure();
        let mut source = spawn(secure.curl(&["-T", "-"]).arg(secure.url(&id)).stdin(Stdio::piped()));
        let mut pipe = source.0.stdin.take().unwrap();
        pipe.write_all(b"hello").unwrap();
        site.until_bytes(&id, 5);
        source.0.kill().unwrap();
        let download = destination.output();
        assert!(!download.status.success(), "{entrance:?}: {download:?}");
        assert_eq!(site.status(&id)["state"], "SRC_DISCONNECTED");
    }
}

fn a_killed_destination_is_no_delivery(proxy: Proxy) {
    const MORE_THAN_ALL_BUFFERS: usize = 1 << 30;
    let site = Site::start(proxy);
    for framing in FRAMINGS {
        for entrance in site.entrances() {
            let id = site.create();
            let mut destination = spawn(entrance.curl(&["-N"]).arg(entrance.url(&id)).stdout(Stdio::piped()));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, MORE_THAN_ALL_BUFFERS);
            source.body(framing, b"x");
            destination.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
            destination.0.kill().unwrap();
            destination.0.wait().unwrap();
            let sender = source.send_in_background_until_refused(framing);
            let status = source.status();
            assert!(matches!(status, None | Some(502)), "{entrance:?}, {framing:?}: {status:?}");
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
            let entrance = if is_secure { site.secure() } else { site.open() };
            let id = site.create();
            let destination = spawn(entrance.curl(&[]).arg(entrance.url(&id)));
            site.until(&id, "DST_CONNECTED");
            let mut source = Client::connect(site.plain);
            source.put(&id, framing, 10);
            source.body(framing, b"hello");
            site.until_bytes(&id, 5);
            site.kill_server();
            let download = destination.output();
            assert!(!download.status.success(), "{entrance:?}, {framing:?}: {download:?}");
            let status = source.status();
            assert!(matches!(status, None | Some(502)), "{entrance:?}, {framing:?}: {status:?}");
        }
    }
}

/// A part of what has no length could not be told from the whole.
fn http_1_0_is_refused(proxy: Proxy) {
    let site = Site::start(proxy);
    let id = site.create();
    let open = site.open();
    let answer = open.curl(&["--http1.0", "-w", "%{http_code}", &open.url(&id)]).output().unwrap();
    assert!(answer.stdout.ends_with(b"505"), "{answer:?}");
    assert_eq!(site.status(&id)["state"], "CREATED");
}

fn a_refusal_can_be_read_while_the_body_still_comes(proxy: Proxy) {
    let site = Site::start(proxy);
    let mut source = Client::connect(site.plain);
    source.put("unknown", Framing::Chunked, 0);
    let sender = source.send_in_background_until_refused(Framing::Chunked);
    assert_eq!(source.status(), Some(404));
    drop(source);
    sender.join().unwrap();
}

/// A `PUT` that failed may have been delivered: whether to send it again is for its sender to say.
fn a_request_that_failed_is_not_sent_again(proxy: Proxy) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut site = Site::start_before(proxy, server.local_addr().unwrap());
    for framing in FRAMINGS {
        let mut source = Client::connect(site.plain);
        source.put("id", framing, 1);
        source.body(framing, b"x");
        source.end(framing);
        let mut asked = server.accept().unwrap().0;
        asked.read_exact(&mut [0; "PUT /stream/id HTTP/1.1\r\n".len()]).unwrap();
        drop(asked);
        let status = source.status();
        assert!(matches!(status, None | Some(502)), "{framing:?}: {status:?}");
    }
    site.stop_proxy();
    server.set_nonblocking(true).unwrap();
    assert_eq!(server.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it has asked again");
}

/// What clients say of themselves does not count: each has the limits of its own address.
fn clients_are_told_apart(proxy: Proxy) {
    let site = Site::start_with(proxy, &["--max-creations-per-minute", "1"]);
    let creates = |from: &str| {
        let claims = ["-H", "X-Forwarded-For: 192.0.2.7", "-H", "Forwarded: for=192.0.2.8"];
        let url = format!("http://{}/stream", site.plain);
        let told = ["--interface", from, "-X", "POST", "-o", "/dev/null", "-w", "%{http_code}", &url];
        String::from_utf8(curl(&claims).args(told).output().unwrap().stdout).unwrap()
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
        a_source_that_waits_behind_full_buffers_gets_no_answer_yet,
        a_side_that_leaves_while_it_waits_frees_its_seat,
        many_small_transfers_all_arrive,
        a_destination_that_stands_still_holds_up_nobody_else,
        a_killed_source_is_no_whole_download,
        a_source_killed_before_its_first_byte_is_a_502,
        a_killed_source_over_tls_is_no_whole_download,
        a_killed_destination_is_no_delivery,
        a_killed_server_is_neither_a_whole_download_nor_a_delivery,
        http_1_0_is_refused,
        a_refusal_can_be_read_while_the_body_still_comes,
        a_request_that_failed_is_not_sent_again,
        clients_are_told_apart,
        large_bodies_arrive_as_they_were_sent,
    ]
}

through! {
    silent_nginx: SilentNginx => [a_source_that_waits_behind_full_buffers_gets_no_answer_yet]
}
