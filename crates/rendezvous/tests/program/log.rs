//! The log: its lines, its filter, and what it must not contain.

use std::io::Write;

use serde_json::Value;

use crate::{Program, curl, rendezvous, spawn, until_state};

#[test]
fn a_long_list_is_logged_at_its_end_with_its_bytes() {
    let program = Program::start(&["--log", "off,access=info", "--drain-timeout", "1ms"]);
    let all = format!("{}/stream", program.base);
    let set = format!(r#"{{"download_headers":{{"X-Long":"{}"}}}}"#, "x".repeat(4000));
    let created = curl(&["-o", "/dev/null", "-d", &set, &format!("{all}?n=[1-20]")]).status();
    assert!(created.unwrap().success());
    let lists = ["--http1.1", "--http2-prior-knowledge"]
        .map(|version| curl(&[version, &all]).output().unwrap().stdout.len());
    assert!(lists.iter().all(|list| *list > 64 * 1024), "one part is not enough: {lists:?}");
    let log = program.log();
    for (line, list) in log.lines().filter(|line| line.contains("GET /stream ")).zip(lists) {
        assert!(line.contains(&format!("outcome=\"answered\" bytes={list} ")), "{line}");
    }
    assert_eq!(log.matches("GET /stream ").count(), lists.len());
}

#[test]
fn the_log_has_a_line_for_each_request_and_at_debug_for_each_event_and_no_whole_id() {
    let requests = [
        ("POST /stream", 201, "answered"),
        ("GET /stream/:id", 200, "finished"),
        ("PUT /stream/:id", 200, "finished"),
    ];
    let content = std::fs::read("Cargo.toml").unwrap().len();
    for format in ["text", "json"] {
        let program = Program::start(&["--log-format", format, "--log-level", "debug"]);
        let stream = program.create();
        let mut download = spawn(&mut curl(&[&stream]));
        until_state(&stream, "DST_CONNECTED");
        assert!(curl(&["-T", "Cargo.toml", &stream]).status().unwrap().success());
        assert!(download.wait().success());
        let id = stream.rsplit('/').next().unwrap().to_owned();
        let log = program.log();
        assert!(!log.contains(&id) && !log.contains(&id[13..]), "{log}");
        let is_status = |line: &str| line.contains("/status");
        let of_stream: Vec<_> =
            log.lines().filter(|line| line.contains(&id[..13]) && !is_status(line)).collect();
        let events = ["created", "destination waits", "streaming", "finished"];
        assert_eq!(of_stream.len(), events.len() + requests.len(), "{log}");
        for event in events {
            assert!(
                of_stream.iter().any(|line| line.contains("DEBUG") && line.contains(event)),
                "{event}: {log}"
            );
        }
        for (request, status, outcome) in requests {
            let mut lines = of_stream.iter().filter(|line| line.contains("INFO") && line.contains(request));
            let (line, others) = (lines.next().unwrap(), lines.count());
            assert_eq!(others, 0, "{log}");
            let mut fields = vec![
                format!("status={status}"),
                format!("outcome=\"{outcome}\""),
                "duration_us=".into(),
                "client=127.0.0.1".into(),
            ];
            if outcome == "finished" {
                fields.extend([format!("bytes={content}"), "wait_us=".into()]);
            }
            for field in fields {
                let (key, value) = field.split_once('=').unwrap();
                let as_json = format!("\"{key}\":{value}");
                let is_there = if format == "text" {
                    line.contains(&field)
                } else {
                    line.replace("\"127", "127").contains(&as_json)
                };
                assert!(is_there, "{field}: {line}");
            }
        }
        assert!(
            format == "text" || log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()),
            "{log}"
        );
    }
}

#[test]
fn the_log_has_the_client_that_a_trusted_proxy_names() {
    for data_path in ["splice", "copy"] {
        let program = Program::start(&["--trusted-proxy", "127.0.0.1/32", "--data-path", data_path]);
        let ask = |arguments: &[&str], client: &str| {
            spawn(curl(arguments).args(["-H", &format!("X-Forwarded-For: {client}")]))
        };
        assert!(ask(&["-X", "POST", &format!("{}/stream", program.base)], "192.0.2.1").wait().success());
        let stream = program.create();
        let mut download = ask(&[&stream], "192.0.2.2");
        assert!(ask(&["-T", "Cargo.toml", &stream], "192.0.2.3").wait().success());
        assert!(download.wait().success());
        let log = program.log();
        for (request, client) in [("POST /stream", 1), ("GET /stream/:id", 2), ("PUT /stream/:id", 3)] {
            let field = format!("client=192.0.2.{client} ");
            assert!(
                log.lines().any(|line| line.contains(request) && line.contains(&field)),
                "{field}: {log}"
            );
        }
    }
}

#[test]
fn the_log_begins_with_the_settings_in_force_and_warnings_about_them() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"s3cret-of-the-makers").unwrap();
    let token = file.path().to_str().unwrap();
    let (tls, create) = ("--tls-cert", "--create-token-file");
    for (flags, fields, warnings) in [
        (&[][..], &["creation=\"everybody\"", "list=\"this machine\"", "max_streams=100000"][..], &[][..]),
        (
            &["--host", "0.0.0.0"],
            &["clients=\"http://0.0.0.0:", "list=\"nobody\"", "tls=false"],
            &[tls, create],
        ),
        (
            &["--host", "0.0.0.0", "--create-token-file", token, "--admin-token-file", token],
            &["creation=\"token\"", "list=\"token\"", "metrics=\"token\""],
            &[tls],
        ),
        (
            &["--host", "0.0.0.0", "--trusted-proxy", "10.0.0.0/8", "--admin-listen", "0.0.0.0:0"],
            &[
                "operators=\"http://0.0.0.0:",
                "list=\"nobody\"",
                "metrics=\"everybody\"",
                "trusted_proxies=true",
            ],
            &[create],
        ),
        (&["--max-stream-bytes", "10m", "--ttl", "5m"], &["max_stream_bytes=10485760", "ttl=5m"], &[]),
    ] {
        let log =
            Program::start_by(rendezvous(&["--port", "0", "--max-connections", "100"]).args(flags)).log();
        let first = log.lines().next().unwrap();
        assert!(first.contains("INFO listening ") && first.contains("max_connections=100 "), "{log}");
        for field in fields {
            assert!(first.contains(field), "{flags:?}: {field}: {log}");
        }
        let warned: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warned.len(), warnings.len(), "{flags:?}: {log}");
        for (line, flag) in warned.iter().zip(warnings) {
            assert!(line.contains(flag), "{flags:?}: {log}");
        }
        assert!(!log.contains("s3cret"), "{log}");
    }
}

#[test]
fn a_filter_selects_the_events_to_log() {
    for (filter, requests, drains) in [
        ("info", true, true),
        ("warn", false, false),
        ("warn,access=info", true, false),
        ("info,access=off", false, true),
        ("off", false, false),
    ] {
        let program = Program::start_by(rendezvous(&["--port", "0"]).env("RENDEZVOUS_LOG", filter));
        assert!(curl(&[&format!("{}/ping", program.base)]).output().unwrap().status.success());
        let log = program.log();
        assert_eq!(
            (log.contains("GET /ping"), log.contains("draining")),
            (requests, drains),
            "{filter}: {log}"
        );
    }
}

#[test]
fn the_log_has_no_token_and_no_whole_id_at_any_level() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"s3cret-of-the-makers").unwrap();
    let path = file.path().to_str().unwrap();
    for format in ["text", "json"] {
        let program =
            Program::start(&["--log-format", format, "--log-level", "trace", "--create-token-file", path]);
        let streams = format!("{}/stream", program.base);
        let mut secrets = vec!["s3cret-of-the-makers".to_owned()];
        for by_header in [true, false] {
            let ask = |url: &str, token: &str| {
                if by_header {
                    curl(&[url, "--oauth2-bearer", token])
                } else {
                    curl(&[&format!("{url}?token={token}")])
                }
            };
            let mut post = ask(&streams, "s3cret-of-the-makers");
            let made = post.args(["-d", r#"{"access":"split"}"#]).output().unwrap();
            let made: Value = serde_json::from_slice(&made.stdout).unwrap();
            let text = |name: &str| made[name].as_str().unwrap().to_owned();
            let (id, up, down) = (text("stream"), text("upload_token"), text("download_token"));
            let stream = format!("{streams}/{id}");
            for wrong in [&up, "s3cret-of-nobody"] {
                assert_eq!(ask(&stream, wrong).output().unwrap().status.code(), Some(22));
            }
            let mut download = spawn(&mut ask(&stream, &down));
            assert!(ask(&stream, &up).args(["-T", "Cargo.toml"]).status().unwrap().success());
            assert!(download.wait().success());
            secrets.extend([id[8..].to_owned(), up, down, "s3cret-of-nobody".into()]);
        }
        let log = program.log();
        assert!(log.contains("finished"), "{log}");
        for secret in &secrets {
            assert!(!log.contains(secret), "{secret}: {log}");
        }
    }
}
