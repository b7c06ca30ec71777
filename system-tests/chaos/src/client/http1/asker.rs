//! Requests other than transfers: creations, statuses, reports and metrics.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::incoming::Incoming;
use crate::client::Interims;

/// Sends requests other than transfers, without TLS and on the same connection while it lasts.
pub(crate) struct Asker {
    address: SocketAddr,
    connection: Option<(TcpStream, Instant)>,
}

impl Asker {
    /// A client of the server at `address`.
    #[must_use]
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// The status and the body of the response.
    ///
    /// # Errors
    /// There is no response.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        // The server closes idle connections.
        let fresh = self.connection.take().filter(|(_, used)| used.elapsed().as_secs() < 2);
        let mut stream = match fresh {
            Some((stream, _)) => stream,
            None => TcpStream::connect(self.address).await?,
        };
        stream.set_nodelay(true)?;
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let mut incoming = Incoming::new(&mut stream, 64 << 10);
        let failed = |ending| io::Error::other(format!("{ending:?}"));
        let head = incoming.head(&Interims::default()).await.map_err(failed)?;
        let body = match method {
            "HEAD" => Vec::new(),
            _ => incoming.small(head).await.map_err(failed)?,
        };
        if !head.closes {
            self.connection = Some((stream, Instant::now()));
        }
        Ok((head.status, body))
    }
}
