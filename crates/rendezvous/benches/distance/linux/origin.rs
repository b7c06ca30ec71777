//! The server behind nginx: it takes every upload, and answers `GET /BYTES` with that many bytes.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::http1::Connection;
use super::side::Amount;

/// A running server. Dropping it ends it.
pub(crate) struct Origin {
    pub(crate) address: SocketAddrV4,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Origin {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        Ok(Self { address, task: tokio::spawn(accept(listener)) })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(serve(Connection::new(stream)));
        while let Some(served) = connections.try_join_next() {
            if let Err(error) = served? {
                eprintln!("the server behind nginx: {error:#}");
            }
        }
    }
}

/// Answers one request: nginx opens a connection for each.
async fn serve(mut connection: Connection) -> anyhow::Result<()> {
    let head = connection.head().await?;
    let mut words = head.first_line.split(' ');
    match (words.next(), words.next()) {
        (Some("PUT"), Some(_)) => {
            connection.discard(&head).await?;
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await
        }
        (Some("GET"), Some(path)) => {
            let bytes = path.trim_start_matches('/').parse().context("the path is no number of bytes")?;
            connection
                .send_message("HTTP/1.1 200 OK\r\nConnection: close\r\n", Amount::Exactly(bytes))
                .await?;
            Ok(())
        }
        _ => bail!("unexpected {}", head.first_line),
    }
}
