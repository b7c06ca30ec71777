//! `doctor`: against a relay alone, and through proxies that each have one fault.

mod proxy;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::thread;

use serde_json::Value;

use self::proxy::{Fault, Proxy};
use crate::Program;

/// Examines this URL, with waits of three seconds. Returns the exit code and the report.
fn examine(url: &str) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rendezvous"));
    let output = command.args(["doctor", url, "--json", "--wait", "3s"]).output().unwrap();
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
}

/// The checks that found a fault.
fn faults(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().unwrap().iter();
    findings
        .filter(|finding| finding["verdict"] == "fault")
        .map(|finding| finding["check"].as_str().unwrap())
        .collect()
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    report["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == check).unwrap()
}

#[test]
fn a_relay_without_proxies_has_no_fault() {
    let program = Program::start(&[]);
    let (code, report) = examine(&program.base);
    assert_eq!((code, faults(&report)), (Some(0), vec![]), "{report}");
    for check in ["version", "paths", "uploads", "body", "idle", "interim", "seats", "clock"] {
        assert_eq!(finding(&report, check)["verdict"], "ok", "{check}: {report}");
    }
}

#[test]
fn what_a_relay_says_of_itself_cannot_steer_the_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut head = [0; 4096];
            let read = client.read(&mut head).unwrap();
            let body = if head[..read].windows(12).any(|part| part == b"openapi.json") {
                r#"{"info":{"title":"http-rendezvous","version":"\u001b[2J\u009b31m\nno fault"}}"#
            } else {
                r#"{"name":"\u001b]0;title\u0007\r\n"}"#
            };
            let answer = format!("HTTP/1.1 418 Teapot\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_rendezvous"));
    let report = command.args(["doctor", &url]).output().unwrap();
    let report = String::from_utf8(report.stdout).unwrap();
    assert!(!report.chars().any(|letter| letter.is_control() && letter != '\n'), "{report:?}");
    assert!(report.contains("_[2J_31m_no fault;") && report.contains("_]0;title___"), "{report}");
}

#[test]
fn a_proxy_that_passes_everything_on_is_not_noticed() {
    let program = Program::start(&[]);
    let proxy = Proxy::start(&program, Fault::None);
    let (code, report) = examine(&proxy.base);
    assert_eq!((code, faults(&report)), (Some(0), vec![]), "{report}");
}

#[test]
fn each_fault_of_a_proxy_is_found_with_the_lines_that_mend_it() {
    let program = Program::start(&[]);
    for (fault, check, text, line) in [
        (Fault::Buffers, "uploads", "held until its end", "proxy_request_buffering off;"),
        (
            Fault::LimitsBodies,
            "body",
            "2.0 MiB get 413, while 1.0 MiB are accepted",
            "client_max_body_size 0;",
        ),
        (Fault::CutsIdle, "idle", "is cut after 2.", "proxy_read_timeout 7h;"),
        (Fault::DropsInterim, "interim", "100 Continue is dropped", "proxy_http_version 1.1;"),
        (Fault::KeepsSeats, "seats", "keeps its seat", "proxy_ignore_client_abort off;"),
    ] {
        let proxy = Proxy::start(&program, fault);
        let (code, report) = examine(&proxy.base);
        assert_eq!((code, faults(&report)), (Some(1), vec![check]), "{fault:?}: {report}");
        let finding = finding(&report, check);
        assert!(finding["text"].as_str().unwrap().contains(text), "{fault:?}: {finding}");
        let lines = finding["mend"]["nginx"].as_array().unwrap();
        assert!(lines.contains(&line.into()), "{fault:?}: {finding}");
    }
}

#[test]
fn what_is_no_relay_or_needs_a_token_or_has_no_paths_is_said() {
    let paths_off = Program::start(&["--no-paths"]);
    let (code, report) = examine(&paths_off.base);
    assert_eq!((code, faults(&report)), (Some(1), vec!["paths"]), "{report}");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let closed = Program::start(&["--create-token-file", token.to_str().unwrap()]);
    let (_, report) = examine(&closed.base);
    assert!(finding(&report, "paths")["text"].as_str().unwrap().contains("--token-file"), "{report}");
    let (code, report) = examine(&format!("{}/elsewhere", closed.base));
    assert_eq!((code, faults(&report)), (Some(1), vec!["version"]), "{report}");
}
