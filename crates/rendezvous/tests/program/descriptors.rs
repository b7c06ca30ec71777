//! The server when descriptors run out.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::with_curl::file;
use crate::{PATIENCE, Program};

/// Returns content without a short period, so that a shifted byte is noticed.
fn content() -> Vec<u8> {
    let mut content = Vec::new();
    file().reopen().unwrap().read_to_end(&mut content).unwrap();
    content
}

/// Reads a response with a Content-Length from a connection that may stay open.
fn answer(stream: &mut TcpStream) -> std::io::Result<(u16, Vec<u8>)> {
    let mut reader = BufReader::new(stream);
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().unwrap();
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        } else if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok((status, body))
}

const PING: &str = "GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

fn head(method: &str, stream: &str, fields: &str) -> String {
    let path = stream.splitn(4, '/').nth(3).unwrap();
    format!("{method} /{path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n")
}

/// Returns the CPU time that the program has used.
fn cpu_time(program: &Program) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.process.0.id())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

#[test]
fn more_connections_than_descriptors_are_refused_and_harm_no_stream() {
    let serve = "ulimit -n 256; exec \"$0\" serve --port 0 --log-level warn";
    let program = Program::start_by(Command::new("sh").args(["-c", serve, env!("CARGO_BIN_EXE_rendezvous")]));
    // This process needs a descriptor for each connection, too.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let (stream, content) = (program.create(), content());
    let mut destination = program.send(&head("GET", &stream, ""));
    let mut source = program.send(&head("PUT", &stream, &format!("Content-Length: {}\r\n", content.len())));
    let (half, other_half) = content.split_at(content.len() / 2);
    let received = std::thread::spawn(move || answer(&mut destination).unwrap());
    source.write_all(half).unwrap();

    let (began, busy) = (Instant::now(), cpu_time(&program));
    let mut crowd: Vec<_> = (0..1000).map(|_| program.connect()).collect();
    let (mut served, mut refused, mut closed) = (0, 0, 0);
    for client in &mut crowd {
        match client.write_all(PING.as_bytes()).and_then(|()| answer(client)) {
            Ok((200, _)) => served += 1,
            Ok((503, _)) => refused += 1,
            Ok(other) => panic!("{other:?}"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("a connection hangs"),
            Err(_) => closed += 1,
        }
    }
    assert!(served > 100 && served < 256 && refused > 0 && closed > 0, "{served} {refused} {closed}");
    drop(crowd);
    let spent = cpu_time(&program).saturating_sub(busy);
    assert!(spent < began.elapsed() / 2 + Duration::from_secs(1), "{spent:?}");

    source.write_all(other_half).unwrap();
    assert!(received.join().unwrap() == (200, content), "the bytes differ");
    assert_eq!(answer(&mut source).unwrap().0, 200);
    let deadline = Instant::now() + PATIENCE;
    while !answer(&mut program.send(PING)).is_ok_and(|(status, _)| status == 200) {
        assert!(Instant::now() < deadline, "it does not serve again");
    }
    let log = program.log();
    assert!(
        log.contains("the limit on connections is 176 instead of 210000") && log.contains("ulimit -n"),
        "{log}"
    );
}

#[test]
fn a_server_without_descriptors_for_clients_answers_every_probe_of_its_operators() {
    let serve = "ulimit -n 256; exec \"$0\" serve --port 0 --log-level warn \"$@\"";
    let arguments = ["-c", serve, env!("CARGO_BIN_EXE_rendezvous"), "--admin-listen", "127.0.0.1:0"];
    let program = Program::start_by(Command::new("sh").args(arguments));
    let admin = program.greeting[1].strip_prefix("Listening for operators on http://").unwrap();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();

    let mut crowd: Vec<_> = (0..1000).map(|_| program.send(PING)).collect();
    let is_served = |client: &mut TcpStream| answer(client).is_ok_and(|(status, _)| status == 200);
    let served = crowd.iter_mut().filter_map(|client| is_served(client).then_some(client)).count();
    assert!((100..256).contains(&served), "{served}");
    // Probes that close their connection at once, or never, must not block the next one.
    for stay in [false, true] {
        let mut probes = Vec::new();
        for number in 0..100 {
            for path in ["/healthz", "/readyz", "/metrics"] {
                let mut probe = TcpStream::connect(admin).unwrap();
                // Shorter than the time after which an idle connection is closed.
                probe.set_read_timeout(Some(PATIENCE / 6)).unwrap();
                probe
                    .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
                    .unwrap();
                assert_eq!(answer(&mut probe).unwrap().0, 200, "{path}, {number}, stay: {stay}");
                probes.extend(stay.then_some(probe));
            }
        }
    }
    drop(crowd);
    let log = program.log();
    assert!(log.contains("the limit on connections is 160 instead of"), "{log}");
    assert!(!log.contains("cannot accept a connection"), "{log}");
}

#[test]
fn without_free_descriptors_streams_continue_and_later_connections_are_served() {
    let program = Program::start(&["--log-level", "warn", "--ttl", "3s"]);
    let (stream, content) = (program.create(), content());
    // No other side connects to this stream. Its expiry shows that there was time for a busy loop.
    let mut alone = program.send(&head("GET", &program.create(), ""));
    let mut destination = program.send(PING);
    let mut source = program.send(PING);
    assert_eq!((answer(&mut destination).unwrap().0, answer(&mut source).unwrap().0), (200, 200));
    let pid = Pid::from_child(&program.process.0);
    let none = Rlimit { current: Some(1), ..getrlimit(Resource::Nofile) };
    let limit = prlimit(Some(pid), Resource::Nofile, none).unwrap();

    // The server can neither accept nor refuse these.
    let mut waiting: Vec<_> = (0..100).map(|_| program.send(PING)).collect();
    let busy = cpu_time(&program);
    // No pipe can be opened, so the body is copied.
    destination.write_all(head("GET", &stream, "").as_bytes()).unwrap();
    source
        .write_all(head("PUT", &stream, &format!("Content-Length: {}\r\n", content.len())).as_bytes())
        .unwrap();
    let received = std::thread::spawn(move || answer(&mut destination).unwrap());
    source.write_all(&content).unwrap();
    assert!(received.join().unwrap() == (200, content), "the bytes differ");
    assert_eq!(answer(&mut source).unwrap().0, 200);
    assert_eq!(answer(&mut alone).unwrap().0, 504);
    let spent = cpu_time(&program).saturating_sub(busy);
    assert!(spent < Duration::from_millis(700), "{spent:?}");

    prlimit(Some(pid), Resource::Nofile, limit).unwrap();
    for client in &mut waiting {
        assert_eq!(answer(client).unwrap().0, 200);
    }
    assert!(program.log().contains("cannot accept a connection"));
}
