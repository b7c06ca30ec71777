//! Bounded waits (`Prefer: wait`) through a proxy that cuts what waits for longer than a few seconds.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::site::{HASTE, Proxy, ProxyListener, Site, spawn};

/// How long after the first side the second one begins.
const LATE: Duration = Duration::from_secs(10);
/// The sizes of bodies. The large one does not fit into the buffers of a proxy and of the kernels, so a waiting sender keeps a part of it.
const SIZES: [usize; 2] = [5, 16 << 20];
/// The status of a cut. The server's own 504 comes after its ttl of 60 s.
const CUT_BY_THE_PROXY: &[u8] = b"504";

/// A wait of hours survives a proxy that cuts after a minute.
pub fn a_loop_of_bounded_waits_meets_a_late_peer(proxy: Proxy) {
    let site = Site::start_with(proxy, &["--open-list"]);
    let listeners = site.listeners();
    let mut meetings = Vec::new();
    for listener in &listeners {
        for is_path in [true, false] {
            for is_source_first in [true, false] {
                for size in SIZES {
                    let url = listener.target(&new_target(&site, is_path, meetings.len()));
                    meetings.push(Meeting { listener, url, is_source_first, size });
                }
            }
        }
    }
    thread::scope(|scope| {
        for meeting in &meetings {
            scope.spawn(|| meeting.take_place());
        }
    });
    let ended_waits = site.metric("rendezvous_refusals_total{error=\"PeerNotConnectedError\"}");
    assert!(ended_waits >= 2 * meetings.len() as u64, "{proxy:?}: the loops have waited {ended_waits} times");
}

/// Two clients, each of which repeats waits that are shorter than the proxy's limit.
#[derive(Debug)]
struct Meeting<'a> {
    listener: &'a ProxyListener,
    url: String,
    is_source_first: bool,
    size: usize,
}

impl Meeting<'_> {
    fn take_place(&self) {
        let folder = tempfile::tempdir().unwrap();
        let [sent, received] = ["sent", "received"].map(|name| folder.path().join(name));
        let body: Vec<_> = (0..=250u8).cycle().take(self.size).collect();
        fs::write(&sent, &body).unwrap();
        let [source, destination] = [self.side("-T", &sent), self.side("-o", &received)];
        let [mut first, mut second] =
            if self.is_source_first { [source, destination] } else { [destination, source] };
        let first = spawn(&mut first);
        thread::sleep(LATE);
        let second = spawn(&mut second);
        for side in [first, second] {
            let side = side.output();
            assert!(side.status.success() && side.stdout == b"200", "{self:?}: {side:?}");
        }
        assert!(fs::read(&received).unwrap() == body, "{self:?}");
    }

    fn side(&self, option: &str, file: &Path) -> Command {
        let repeats = ["--retry", "999", "--retry-connrefused", "-H", "Prefer: wait=2"];
        let mut curl = self.listener.curl(&repeats);
        // The first limit ends a test whose sides do not meet.
        curl.args(["--retry-max-time", "40", "-w", "%{http_code}", option]).arg(file).arg(&self.url);
        curl
    }
}

/// Without this the test above would show nothing.
pub fn a_wait_without_a_bound_is_cut_by_the_proxy(proxy: Proxy) {
    let site = Site::start(proxy);
    let mut waiting = Vec::new();
    for listener in site.listeners() {
        for is_path in [true, false] {
            for role in [&[][..], &["-T", "Cargo.toml"]] {
                let url = listener.target(&new_target(&site, is_path, waiting.len()));
                let curl = spawn(listener.curl(role).args(["-w", "%{http_code}", &url]));
                waiting.push((format!("{url} {role:?}"), Instant::now(), curl));
            }
        }
    }
    for (name, begun, curl) in waiting {
        let cut = curl.output();
        assert!(cut.status.code() == Some(22) && cut.stdout == CUT_BY_THE_PROXY, "{name}: {cut:?}");
        assert!(begun.elapsed() >= HASTE, "{name}: {:?}", begun.elapsed());
    }
}

/// Returns the target of a new stream, or of a path that no other client of the test uses.
fn new_target(site: &Site, is_path: bool, number: usize) -> String {
    if is_path { format!("/p/{number}") } else { format!("/stream/{}", site.create()) }
}
