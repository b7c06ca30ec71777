//! HTTP/1.1, as much as the benchmark needs.

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::Instant;

use super::side::{Amount, PIECE};

/// The bytes that are read at a time.
const READ_AHEAD: usize = 256 * 1024;
/// The most bytes of a head or a line.
const MAX_LINE: u64 = 16 * 1024;

pub(crate) trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A connection for one message in each direction.
pub(crate) struct Connection(BufReader<Box<dyn Socket>>);

/// The head of a message.
pub(crate) struct Head {
    pub(crate) first_line: String,
    framing: Framing,
}

enum Framing {
    Length(u64),
    Chunks,
}

impl Connection {
    pub(crate) fn new(socket: impl Socket + 'static) -> Self {
        Self(BufReader::with_capacity(READ_AHEAD, Box::new(socket)))
    }

    pub(crate) async fn send(&mut self, text: &str) -> anyhow::Result<()> {
        self.0.write_all(text.as_bytes()).await?;
        Ok(self.0.flush().await?)
    }

    /// Sends a message whose head begins with `head`, and returns the size of its body: with a length if it is known, otherwise in chunks.
    pub(crate) async fn send_message(&mut self, head: &str, amount: Amount) -> anyhow::Result<u64> {
        let sent = match amount {
            Amount::Exactly(bytes) => {
                self.send(&format!("{head}Content-Length: {bytes}\r\n\r\n")).await?;
                let mut left = bytes;
                while left > 0 {
                    let count = PIECE.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.0.write_all(&PIECE.slice(..count)).await?;
                    left -= count as u64;
                }
                bytes
            }
            Amount::Within(duration, bytes) => {
                self.send(&format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await?;
                let (mut sent, until) = (0, Instant::now() + duration);
                let chunk = [format!("{:x}\r\n", PIECE.len()).as_bytes(), &PIECE, b"\r\n"].concat();
                while sent < bytes && Instant::now() < until {
                    self.0.write_all(&chunk).await?;
                    sent += PIECE.len() as u64;
                }
                self.0.write_all(b"0\r\n\r\n").await?;
                sent
            }
        };
        self.0.flush().await?;
        Ok(sent)
    }

    /// Reads the head of a message, without interim responses.
    pub(crate) async fn head(&mut self) -> anyhow::Result<Head> {
        loop {
            let first_line = self.line().await?;
            let mut framing = Framing::Length(0);
            loop {
                let line = self.line().await?.to_ascii_lowercase();
                match line.split_once(':') {
                    Some(("content-length", value)) => framing = Framing::Length(value.trim().parse()?),
                    Some(("transfer-encoding", _)) => framing = Framing::Chunks,
                    None if line.is_empty() => break,
                    _ => {}
                }
            }
            if !first_line.starts_with("HTTP/1.1 1") {
                return Ok(Head { first_line, framing });
            }
        }
    }

    /// Reads the head of a response, which must be a success.
    pub(crate) async fn response(&mut self) -> anyhow::Result<Head> {
        let head = self.head().await?;
        ensure!(head.first_line.starts_with("HTTP/1.1 2"), "{}", head.first_line);
        Ok(head)
    }

    /// Reads a short body of JSON.
    pub(crate) async fn json(&mut self, head: &Head) -> anyhow::Result<Value> {
        let Framing::Length(length) = head.framing else { bail!("JSON in chunks") };
        let mut body = Vec::new();
        (&mut self.0).take(length).read_to_end(&mut body).await?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Reads and discards the body to its end, and returns its size.
    pub(crate) async fn discard(&mut self, head: &Head) -> anyhow::Result<u64> {
        if let Framing::Length(length) = head.framing {
            self.discard_bytes(length).await?;
            return Ok(length);
        }
        let mut size = 0;
        loop {
            let line = self.line().await?;
            let chunk = u64::from_str_radix(&line, 16).with_context(|| format!("chunk size {line:?}"))?;
            self.discard_bytes(chunk).await?;
            size += chunk;
            ensure!(self.line().await?.is_empty(), "a chunk is too long");
            if chunk == 0 {
                return Ok(size);
            }
        }
    }

    async fn discard_bytes(&mut self, mut left: u64) -> anyhow::Result<()> {
        while left > 0 {
            let here = self.0.fill_buf().await?.len();
            ensure!(here > 0, "the body is cut");
            let count = here.min(usize::try_from(left).unwrap_or(usize::MAX));
            self.0.consume(count);
            left -= count as u64;
        }
        Ok(())
    }

    /// Reads a line, and returns it without its CRLF.
    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        (&mut self.0).take(MAX_LINE).read_line(&mut line).await?;
        Ok(line.strip_suffix("\r\n").with_context(|| format!("no line: {line:?}"))?.to_owned())
    }
}
