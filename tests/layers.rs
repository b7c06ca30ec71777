//! The order of the modules, held: a module knows only what stands below it, and each heavy crate has one
//! home.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down. Modules of one line do not know each other.
const LAYERS: [&[&str]; 12] = [
    &["main"],
    &["cli"],
    &["server"],
    &["http"],
    &["rendezvous"],
    &["relay"],
    &["wire", "splice"],
    &["socket", "slot", "header_set", "clients"],
    &["config"],
    &["token", "metrics"],
    &["outcome"],
    &["id", "proxies", "rate", "budget"],
];

/// Where a crate may be named. `http`, `bytes` and `tokio` are everywhere.
const HOMES: [(&str, &[&str]); 25] = [
    ("anyhow", &["cli/serve.rs", "cli/systemd.rs"]),
    ("clap", &["cli.rs", "cli/log.rs", "cli/serve.rs"]),
    ("tracing_appender", &["cli/log.rs"]),
    ("tracing_subscriber", &["cli/log.rs"]),
    ("listenfd", &["cli/systemd.rs"]),
    ("strsim", &["cli/variables.rs"]),
    ("sd_notify", &["cli/systemd.rs"]),
    ("httparse", &["wire/head.rs"]),
    ("httpdate", &["http/message.rs"]),
    (
        "futures_util",
        &[
            "relay/source.rs",
            "rendezvous/interleavings.rs",
            "server/http1/download.rs",
            "server/http2.rs",
            "server/http2/stream.rs",
            "server/http2/upload.rs",
        ],
    ),
    ("h2", &["server/http2.rs", "server/http2/stream.rs", "server/http2/upload.rs"]),
    ("rustls", &["server/tls.rs"]),
    // A file system may hang: what reads files is away from the threads of the runtime.
    ("fs", &["server/tls.rs"]),
    (
        "tokio_rustls",
        &["socket.rs", "socket/session.rs", "server/connection.rs", "server/listener.rs", "server/tls.rs"],
    ),
    ("tcp_outq", &["socket.rs"]),
    ("rustix", &["socket.rs", "socket/tcp.rs", "splice.rs", "cli/serve.rs"]),
    ("uuid", &["id.rs", "token.rs"]),
    ("subtle", &["token.rs"]),
    ("prometheus_client", &["metrics.rs", "metrics/durations.rs", "metrics/families.rs"]),
    ("ipnet", &["proxies.rs"]),
    ("serde_json", &["header_set.rs", "http/json_body.rs", "http/response.rs", "http/status.rs"]),
    ("serde", &["http/handlers.rs", "http/response.rs", "http/status.rs"]),
    ("humantime", &["config.rs", "outcome.rs", "http/json_body.rs", "http/status.rs", "wire/head.rs"]),
    (
        "parking_lot",
        &[
            "clients.rs",
            "relay.rs",
            "rendezvous.rs",
            "splice.rs",
            "wire.rs",
            "server/tls.rs",
            "server/http2/traffic.rs",
            "server/http2/upload.rs",
            "socket/session.rs",
        ],
    ),
    ("tokio_util", &["cli/serve.rs", "server.rs", "server/connection.rs", "socket/session.rs"]),
];

/// These are pure: no I/O, no runtime.
const PURE: [&str; 21] = [
    "budget.rs",
    "id.rs",
    "proxies.rs",
    "rate.rs",
    "outcome.rs",
    "token.rs",
    "slot.rs",
    "header_set.rs",
    "config.rs",
    "clients/tables.rs",
    "cli/variables.rs",
    "server/exposure.rs",
    "server/shares.rs",
    "wire/head.rs",
    "wire/body.rs",
    "wire/chunked.rs",
    "http/access.rs",
    "http/cors.rs",
    "http/hosts.rs",
    "http/openapi.rs",
    "metrics/format.rs",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { sources(&path, found) } else { found.push(path) }
    }
}

/// Each source by its path below `src`, with its code up to the tests.
fn modules() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let text = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    };
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), text(path))).collect()
}

fn layer(module: &str) -> usize {
    LAYERS.iter().position(|layer| layer.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

#[test]
fn a_module_knows_only_what_stands_below_it() {
    for (file, code) in modules() {
        let module = file.split(['/', '.']).next().unwrap();
        if module == "lib" {
            continue;
        }
        for used in code.split("crate::").skip(1).chain(code.split("http_rendezvous::").skip(1)) {
            let used = used.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next().unwrap();
            assert!(used == module || layer(module) < layer(used), "{file} uses {used}");
        }
    }
}

#[test]
fn each_heavy_crate_has_one_home() {
    for (file, code) in modules() {
        for (name, homes) in HOMES {
            let names_it = code.split(&format!("{name}::")).collect::<Vec<_>>();
            let names_it = names_it[..names_it.len() - 1].iter().any(|before| {
                before
                    .chars()
                    .next_back()
                    .is_none_or(|letter| !letter.is_alphanumeric() && letter != '_' && letter != ':')
            });
            assert!(!names_it || homes.contains(&file.as_str()), "{file} uses {name}, at home in {homes:?}");
        }
        if PURE.contains(&file.as_str()) {
            for impure in ["tokio", "hyper::", "TcpStream", "TcpListener", "std::fs", "SystemTime", "Instant"]
            {
                assert!(!code.contains(impure), "{file} is pure, and yet uses {impure}");
            }
        }
    }
}
