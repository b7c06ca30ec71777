//! TLS in the program: certificates on a file system that hangs, and clients whose handshake is invalid. A FIFO in place of the file
//! simulates the former: reading it blocks until the test writes to it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::{PATIENCE, Program, Running, curl, rendezvous};

/// A self-signed certificate and its key, in files.
pub(crate) struct Pair {
    folder: tempfile::TempDir,
}

impl Pair {
    /// A certificate for the address that the tests use.
    fn new() -> Self {
        Self::of("127.0.0.1")
    }

    pub(crate) fn of(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let pair = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(pair.certificate(), made.cert.pem()).unwrap();
        fs::write(pair.key(), made.signing_key.serialize_pem()).unwrap();
        pair
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    pub(crate) fn flags(&self) -> [String; 4] {
        let [certificate, key] =
            [self.certificate(), self.key()].map(|path| path.to_str().unwrap().to_owned());
        ["--tls-cert".into(), certificate, "--tls-key".into(), key]
    }

    /// Replaces each file by that of another pair, by a rename.
    fn replace_by(&self, other: &Self) {
        for (from, to) in [(other.key(), self.key()), (other.certificate(), self.certificate())] {
            let beside = to.with_extension("new");
            fs::copy(from, &beside).unwrap();
            fs::rename(beside, to).unwrap();
        }
    }
}

/// Replaces the file at `path` by one that blocks its readers.
fn make_hang(path: &Path) {
    let beside = path.with_extension("fifo");
    assert!(Command::new("mkfifo").arg(&beside).status().unwrap().success());
    fs::rename(beside, path).unwrap();
}

/// Waits until the server reads the file. The read hangs as long as the returned file is open.
fn until_it_is_read(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

fn serve(pair: &Pair, flags: &[&str]) -> Program {
    Program::start_by(
        rendezvous(&["--port", "0", "--log-level", "warn", "--max-connections", "100"])
            .args(pair.flags())
            .args(flags),
    )
}

/// Whether the server presents this certificate, and responds.
fn answers_with(program: &Program, certificate: &Path) -> bool {
    let url = format!("{}/ping", program.base);
    let mut request = curl(&["--cacert", certificate.to_str().unwrap(), &url]);
    request.output().unwrap().status.success()
}

#[test]
fn a_certificate_that_hangs_delays_no_connection_and_is_reloaded_later() {
    for hangs in ["certificate", "key"] {
        let (pair, old, fresh) = (Pair::new(), Pair::new(), Pair::new());
        pair.replace_by(&old);
        let mut program = serve(&pair, &[]);
        let mut log = BufReader::new(program.process.0.stderr.take().unwrap());
        let path = if hangs == "key" { pair.key() } else { pair.certificate() };
        make_hang(&path);
        let _never_written = until_it_is_read(&path);
        assert!(answers_with(&program, &old.certificate()), "it serves with the old certificate");
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        assert!(
            line.contains("the old certificate stays") && line.contains("has not answered for 5s"),
            "{line}"
        );
        assert!(line.contains(path.to_str().unwrap()), "{line}");
        assert!(answers_with(&program, &old.certificate()), "{hangs}");

        // The read that hangs never ends.
        pair.replace_by(&fresh);
        program.process.signal(Signal::HUP);
        let deadline = std::time::Instant::now() + PATIENCE;
        while !answers_with(&program, &fresh.certificate()) {
            assert!(std::time::Instant::now() < deadline, "the new {hangs} is not used");
        }
        program.process.signal(Signal::TERM);
        assert_eq!(program.process.wait().code(), Some(0));
        let mut rest = String::new();
        log.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "", "a file that hangs is reported once");
    }
}

#[test]
fn a_server_whose_certificate_hangs_ends_in_time() {
    for signals in
        [&[Signal::TERM][..], &[Signal::INT], &[Signal::HUP, Signal::HUP, Signal::HUP, Signal::TERM]]
    {
        let pair = Pair::new();
        let mut program = serve(&pair, &[]);
        make_hang(&pair.certificate());
        let _never_written = until_it_is_read(&pair.certificate());
        for signal in signals {
            program.process.signal(*signal);
        }
        assert_eq!(program.process.wait().code(), Some(0), "{signals:?}");
    }
}

#[test]
fn a_certificate_that_hangs_at_the_start_is_an_error() {
    for (signal, code) in [(None, 1), (Some(Signal::TERM), 0)] {
        let pair = Pair::new();
        make_hang(&pair.certificate());
        let mut command = rendezvous(&["--port", "0"]);
        let mut process = Running(command.args(pair.flags()).stderr(Stdio::piped()).spawn().unwrap());
        let _never_written = until_it_is_read(&pair.certificate());
        if let Some(signal) = signal {
            process.signal(signal);
        }
        assert_eq!(process.wait().code(), Some(code));
        let mut error = String::new();
        process.0.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        if signal.is_none() {
            let path = pair.certificate();
            assert!(
                error.contains("has not answered for 5s") && error.contains(path.to_str().unwrap()),
                "{error}"
            );
        }
    }
}

/// Returns the number of its threads.
#[cfg(target_os = "linux")]
fn threads(program: &Program) -> usize {
    fs::read_dir(format!("/proc/{}/task", program.process.0.id())).unwrap().count()
}

#[test]
#[cfg(target_os = "linux")]
fn a_check_of_the_certificate_leaves_no_thread_behind() {
    let flags = ["--threads", "2"];
    let without = threads(&Program::start(&flags));
    let pair = Pair::new();
    let program = serve(&pair, &flags);
    let deadline = std::time::Instant::now() + PATIENCE;
    for _ in 0..100 {
        program.process.signal(Signal::HUP);
    }
    while threads(&program) > without {
        assert!(std::time::Instant::now() < deadline, "a thread that has nothing to do is kept");
        std::thread::yield_now();
    }
}

/// The library warns about a client that sends an address as its server name.
#[test]
fn no_handshake_writes_to_the_log() {
    let pair = Pair::new();
    let program = serve(&pair, &[]);
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
    let config = Arc::new(config.with_no_client_auth());
    // The library would not send an address, so the test replaces a name of the same length.
    let (name, address) = ("127-0-0-1", b"127.0.0.1");
    let mut client = ClientConnection::new(config, name.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let at = hello.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    hello[at..at + name.len()].copy_from_slice(address);
    let mut stream = TcpStream::connect(program.base.strip_prefix("https://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&hello).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 1, "the server responds");
    assert_eq!(program.log(), "");
}
