//! The errors that end the program, and those that it logs: each is one line, in which each cause occurs once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::Command;

use rustix::process::Signal;

use crate::certificates::Pair;
use crate::flags::refused;
use crate::{Program, rendezvous};

/// Asserts that no part of an error occurs twice.
fn assert_each_cause_occurs_once(error: &str) {
    let parts: Vec<_> = error.trim().split(": ").collect();
    let distinct: BTreeSet<_> = parts.iter().collect();
    assert_eq!(distinct.len(), parts.len(), "{error}");
    assert!(error.matches("(os error").count() <= 1, "{error}");
}

#[test]
fn a_listener_that_cannot_be_opened_is_a_clear_error() {
    let in_use = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = in_use.local_addr().unwrap();
    let (port, address) = (in_use.port().to_string(), in_use.to_string());
    for (flags, sentence) in [
        (
            &["--port", &port][..],
            format!("{in_use} is in use by another program: stop it, or choose another port with --port"),
        ),
        (
            &["--port", "0", "--admin-listen", &address],
            format!(
                "{in_use} is in use by another program: stop it, or choose another port with --admin-listen"
            ),
        ),
        (
            &["--host", "no.such.host.invalid"],
            "cannot find the address of the host \"no.such.host.invalid\": ".to_owned(),
        ),
        (&["--host", "192.0.2.1", "--port", "1"], "cannot listen on 192.0.2.1:1: ".to_owned()),
    ] {
        let (code, error) = refused(&mut rendezvous(flags));
        assert_eq!(code, Some(1));
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with(&format!("rendezvous: {sentence}")), "{error}");
        assert_each_cause_occurs_once(&error);
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_a_clear_error() {
    let (pair, other) = (Pair::of("localhost"), Pair::of("localhost"));
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let empty = folder.path().join("empty.pem");
    fs::write(&empty, "").unwrap();
    for (certificate, key, sentence) in [
        (&missing, &pair.key(), "cannot read "),
        (&pair.certificate(), &missing, "cannot read "),
        (&empty, &pair.key(), "holds no certificate in PEM: "),
        (&pair.certificate(), &empty, "holds no private key in PEM: "),
        (&pair.certificate(), &other.key(), "cannot be used with the key of "),
    ] {
        let flags = ["--port", "0", "--tls-cert"].map(str::to_owned).into_iter();
        let [certificate, key] = [certificate, key].map(|path| path.to_str().unwrap().to_owned());
        let flags: Vec<_> = flags.chain([certificate, "--tls-key".to_owned(), key]).collect();
        let (code, error) = refused(rendezvous(&[]).args(flags));
        assert_eq!(code, Some(1));
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("rendezvous: ") && error.contains(sentence), "{error}");
        assert!(error.trim().rsplit_once(": ").unwrap().1.len() > 5, "there is a cause: {error}");
        assert_each_cause_occurs_once(&error);
    }
}

#[test]
fn a_new_certificate_that_cannot_be_used_is_logged_with_its_cause() {
    let pair = Pair::of("localhost");
    let mut command = rendezvous(&["--port", "0", "--log-level", "warn", "--max-connections", "100"]);
    let mut program = Program::start_by(command.args(pair.flags()));
    let mut log = BufReader::new(program.process.0.stderr.take().unwrap());
    fs::remove_file(pair.key()).unwrap();
    program.process.signal(Signal::HUP);
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(line.contains("the old certificate stays error=cannot read "), "{line}");
    assert_eq!(line.matches("No such file or directory (os error 2)").count(), 1, "{line}");
    assert_each_cause_occurs_once(&line);
}

#[test]
fn the_version_has_the_commit_of_the_repository() {
    let program = env!("CARGO_BIN_EXE_rendezvous");
    let output = Command::new(program).arg("--version").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    let number = env!("CARGO_PKG_VERSION");
    let expected = match git(&["ls-files", "--error-unmatch", "build.rs"]) {
        Some(_) => format!("rendezvous {number} ({})\n", &git(&["rev-parse", "HEAD"]).unwrap()[..12]),
        None => format!("rendezvous {number}\n"),
    };
    assert_eq!(version, expected);
}
