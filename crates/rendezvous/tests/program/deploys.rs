//! The server under a service manager: it inherits a socket, reports its state, and is restarted.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;

use crate::{PATIENCE, Program, curl, rendezvous, until_state};

/// Starts a server that inherits `socket`, under this name, by the protocol of `sd_listen_fds(3)`.
fn activated(socket: &TcpListener, name: &str, arguments: &[&str]) -> Program {
    // LISTEN_PID must be the process id of the server, which is the shell's, because exec keeps it.
    let script = r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null"#;
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_rendezvous"), "serve", "--port", "0"])
        .args(arguments)
        .env("LISTEN_FDNAMES", name)
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    Program::start_by(&mut command)
}

struct Answer {
    status: u16,
    body: Vec<u8>,
    /// Whether the body has the length that the head declares.
    is_whole: bool,
}

/// Sends a request on a new connection. Fails if the connection is refused, or closed without a response.
fn ask(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let no_response = || io::Error::new(io::ErrorKind::UnexpectedEof, "no response");
    let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(no_response)?;
    let body = answer.split_off(head_end + 4);
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let is_whole = ended.is_ok() && length.parse() == Ok(body.len());
    Ok(Answer { status: head[9..12].parse().unwrap(), is_whole, body })
}

/// Creates a stream, retrying while the server drains, and sends a body through it.
fn transfer(address: SocketAddr, seed: usize) -> io::Result<()> {
    let id = loop {
        let made = ask(address, "POST", "/stream", b"")?;
        match made.status {
            201 => break String::from_utf8(made.body).unwrap().split('"').nth(3).unwrap().to_owned(),
            status => assert_eq!(status, 503),
        }
    };
    let path = format!("/stream/{id}");
    let sent: Vec<_> = (0..seed % 200_000).map(|index| (index * seed).to_le_bytes()[0]).collect();
    thread::scope(|scope| {
        let download = scope.spawn(|| ask(address, "GET", &path, b""));
        let upload = ask(address, "PUT", &path, &sent)?;
        let download = download.join().unwrap()?;
        assert_eq!((upload.status, download.status), (200, 200));
        assert!(download.is_whole && download.body == sent);
        Ok(())
    })
}

#[test]
fn a_restart_under_load_refuses_no_connection_and_cuts_no_stream() {
    const RESTARTS: usize = 4;
    const CLIENTS: usize = 6;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let (over, transfers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (over, transfers) = (&over, &transfers);
                scope.spawn(move || -> io::Result<()> {
                    while !over.load(Ordering::Relaxed) {
                        let number = transfers.fetch_add(1, Ordering::Relaxed);
                        transfer(address, 7919 * (number + client + 1))?;
                    }
                    Ok(())
                })
            })
            .collect();
        for restart in 1..=RESTARTS {
            let mut program = activated(&socket, "rendezvous.socket", &[]);
            while transfers.load(Ordering::Relaxed) < restart * 20 * CLIENTS
                && clients.iter().all(|client| !client.is_finished())
            {
                thread::yield_now();
            }
            // The last server serves the remaining transfers.
            over.store(restart == RESTARTS, Ordering::Relaxed);
            if restart < RESTARTS {
                program.process.signal(Signal::TERM);
                assert_eq!(program.process.wait().code(), Some(0));
            } else {
                for client in clients {
                    client.join().unwrap().unwrap();
                }
                return;
            }
        }
    });
}

#[test]
fn an_inherited_socket_replaces_the_listener_of_the_flag_of_its_name() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", socket.local_addr().unwrap());
    for (name, line, path) in [
        ("connection", "Listening on ", "/stream"),
        ("plain", "Listening without TLS on ", "/stream"),
        ("admin", "Listening for operators on ", "/metrics"),
    ] {
        let flags: &[&str] = if name == "admin" { &["--admin-listen", "127.0.0.1:1"] } else { &[] };
        let program = activated(&socket, name, flags);
        let greeting: Vec<_> =
            program.greeting.iter().filter_map(|printed| printed.strip_prefix(line)).collect();
        assert_eq!(greeting, [&base], "{name}");
        assert!(curl(&[&format!("{base}{path}")]).output().unwrap().status.success(), "{name}");
    }
}

#[test]
fn the_server_reports_to_the_service_manager_that_it_is_ready_alive_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let report = || {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let mut command = rendezvous(&["--port", "0", "--drain-timeout", "20s"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let mut program = Program::start_by(&mut command);
    assert_eq!(report(), format!("READY=1\nSTATUS=Listening on {}\n", program.base));
    for _ in 0..3 {
        assert_eq!(report(), "WATCHDOG=1\n");
    }
    let stream = program.create();
    let mut waiting =
        program.send(&format!("GET {} HTTP/1.0\r\n\r\n", stream.strip_prefix(&program.base).unwrap()));
    until_state(&stream, "DST_CONNECTED");
    program.process.signal(Signal::TERM);
    let stopping = loop {
        let message = report();
        if message != "WATCHDOG=1\n" {
            break message;
        }
    };
    assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
    assert!(
        stopping.contains("\nEXTEND_TIMEOUT_USEC=23000000\n"),
        "a drain may take longer than a stop: {stopping}"
    );
    assert_eq!(report(), "WATCHDOG=1\n", "it is alive while it drains");
    assert!(curl(&["-T", "Cargo.toml", &stream]).output().unwrap().status.success());
    let mut download = Vec::new();
    waiting.read_to_end(&mut download).unwrap();
    assert!(download.ends_with(&std::fs::read("Cargo.toml").unwrap()));
    assert_eq!(program.process.wait().code(), Some(0));
}
