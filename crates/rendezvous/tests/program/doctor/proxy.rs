//! A proxy with one fault. It knows just enough of HTTP/1.1 for the requests of `doctor`: one request a connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::{PATIENCE, Program};

/// What a proxy does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Passes a body on once it has all of it.
    Buffers,
    /// Refuses bodies of more than 1 MiB.
    LimitsBodies,
    /// Closes what has been silent for two seconds.
    CutsIdle,
    /// Keeps interim responses for itself.
    DropsInterim,
    /// Does not look whether its client has left.
    KeepsSeats,
}

/// A proxy before a relay. Its threads end with their connections.
pub(super) struct Proxy {
    pub(super) base: String,
}

impl Proxy {
    pub(super) fn start(program: &Program, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let relay: Arc<str> = program.base.strip_prefix("http://").unwrap().into();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let relay = Arc::clone(&relay);
                // A connection that fails is what the test is about.
                thread::spawn(move || serve(client, &relay, fault).ok());
            }
        });
        Self { base }
    }
}

fn serve(mut client: TcpStream, relay: &str, fault: Fault) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut request = head(&mut client)?;
    let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
    let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    if fault == Fault::LimitsBodies && length.is_some_and(|length: usize| length > 1 << 20) {
        return client.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if fault == Fault::Buffers && text.starts_with("put ") {
        if text.contains("expect: 100-continue") {
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let head = request.len();
        let is_whole = |request: &[u8]| match length {
            Some(length) => request.len() - head >= length,
            None => request.ends_with(b"\r\n0\r\n\r\n"),
        };
        let mut buffer = [0; 16 * 1024];
        while !is_whole(&request) {
            match client.read(&mut buffer)? {
                0 => return Ok(()),
                read => request.extend_from_slice(&buffer[..read]),
            }
        }
    }
    let mut server = TcpStream::connect(relay)?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    server.write_all(&request)?;
    let idle = if fault == Fault::CutsIdle { Duration::from_secs(2) } else { PATIENCE };
    client.set_read_timeout(Some(PATIENCE))?;
    server.set_read_timeout(Some(idle))?;
    let (from_client, to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || upward(from_client, to_server, fault));
    downward(server, client, fault)
}

/// Reads the head of a request.
fn head(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        head.push(byte[0]);
    }
    Ok(head)
}

/// Passes on what the client sends, and that it has left.
fn upward(mut client: TcpStream, mut server: TcpStream, fault: Fault) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        if server.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    if fault != Fault::KeepsSeats {
        let _ = server.shutdown(Shutdown::Both);
    }
}

/// Passes on what the relay sends.
fn downward(mut server: TcpStream, mut client: TcpStream, fault: Fault) -> std::io::Result<()> {
    const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut buffer = [0; 16 * 1024];
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        let mut bytes = &buffer[..read];
        if fault == Fault::DropsInterim {
            bytes = bytes.strip_prefix(INTERIM).unwrap_or(bytes);
        }
        client.write_all(bytes)?;
    }
    let _ = server.shutdown(Shutdown::Both);
    client.shutdown(Shutdown::Both)
}
