//! Recorded bytes of the responses of all routes, so that every change of a byte shows.
//!
//! A page is a list of scripts ([`testkit::script`]). Each is played to a server that splices, to one that copies, and over TLS. All
//! three must match the record in `records/`, which has placeholders for dates, times, ids, tokens and counts.
//! `INSTA_UPDATE=always cargo test --test transcripts` accepts changes; review them in the diff.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod http2;
mod pages;
mod redact;
mod stage;

use rendezvous_server::config::{Config, DataPath};
use testkit::server::TestServer;
use testkit::transport::CERTIFICATE;

/// How a page is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    Splice,
    Copy,
    Tls,
}

/// Plays the scripts in every variant, each on a new server, and asserts that each matches the record of the page.
async fn page(name: &str, adjust: impl Fn(&mut Config), scripts: &[String]) {
    for variant in [Variant::Splice, Variant::Copy, Variant::Tls] {
        let server = TestServer::start_with(|config| {
            config.data_path = if variant == Variant::Copy { DataPath::Copy } else { DataPath::Splice };
            config.tls = (variant == Variant::Tls).then(|| CERTIFICATE.files());
            adjust(config);
        })
        .await;
        let mut seen = String::new();
        for script in scripts {
            seen += &stage::play(&server, variant, script).await;
        }
        eprintln!("{name}: {variant:?}");
        assert_recorded(name, &seen);
    }
}

/// Asserts that `seen` matches the record `records/<name>.snap`.
fn assert_recorded(name: &str, seen: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("records");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, seen));
}
