//! The exact bytes of every route's answers, recorded: a byte that changes is seen.
//!
//! A page is a list of scripts, in the words of `tests/scripts/script.rs`, that are played to a server that splices, to one that
//! copies, and over TLS. All three must give what stands in `answers/`, where only what differs each time has a name instead: dates, times,
//! ids, tokens, counts. What changed is accepted by `INSTA_UPDATE=always cargo test --test transcripts`, and then read in the
//! diff.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod http2;
mod pages;
mod redact;
mod stage;

use rendezvous_server::config::{Config, DataPath};
use testkit::server::TestServer;
use testkit::transport::CERTIFICATE;

/// How a page comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Splice,
    Copy,
    Tls,
}

/// Plays the scripts in every way, each way to a server of its own, and holds that what is seen stands in the page's file.
async fn page(name: &str, adjust: impl Fn(&mut Config), scripts: &[String]) {
    for way in [Way::Splice, Way::Copy, Way::Tls] {
        let server = TestServer::start_with(|config| {
            config.data_path = if way == Way::Copy { DataPath::Copy } else { DataPath::Splice };
            config.tls = (way == Way::Tls).then(|| CERTIFICATE.files());
            adjust(config);
        })
        .await;
        let mut seen = String::new();
        for script in scripts {
            seen += &stage::play(&server, way, script).await;
        }
        eprintln!("{name}: {way:?}");
        hold(name, &seen);
    }
}

/// What is seen is what stands in the file.
fn hold(name: &str, seen: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("answers");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, seen));
}
