//! HTTP/1.1 by hand: a probe decides itself when each byte is sent, and sees each byte that comes, also those of interim responses.
//!
//! *Bounds.* A connection keeps at most [`MAX_INPUT`] bytes of what it receives. Every wait has a deadline.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::Url;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ProtocolVersion};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// The most that a connection keeps of its input: more than `/openapi.json` has.
const MAX_INPUT: usize = 1 << 20;
/// The room for one read.
const READ: usize = 16 * 1024;
/// The fields of a response that are read.
const MAX_FIELDS: usize = 100;
/// How long connecting and a TLS handshake may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The relay, as the probes address it.
pub(super) struct Target {
    /// The URL, whose path ends in a slash.
    pub(super) url: Url,
    token: Option<String>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// What the TLS handshake agreed on.
pub(super) struct Handshake {
    pub(super) version: &'static str,
    pub(super) offers_http2: bool,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Target {
    pub(super) fn new(mut url: Url, token: Option<String>) -> anyhow::Result<Self> {
        url.set_query(None);
        url.set_fragment(None);
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let tls = if url.scheme() == "https" { Some(tls_of(&url)?) } else { None };
        Ok(Self { url, token, tls })
    }

    async fn dial(&self) -> anyhow::Result<TcpStream> {
        let host = self.url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or(80);
        let dialed = timeout(CONNECT, TcpStream::connect((host, port))).await;
        let socket = dialed
            .map_err(|_| anyhow!("no answer within {} s", CONNECT.as_secs()))
            .and_then(|socket| Ok(socket?));
        let socket = socket.with_context(|| format!("cannot connect to {host} port {port}"))?;
        // A probe sends single bytes and waits for them.
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// Opens a connection for HTTP/1.1.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let socket = self.dial().await?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(socket),
            Some((config, name)) => Box::new(handshake(config, name, socket).await?),
        };
        Ok(Connection { stream, input: Vec::new(), is_at_end: false })
    }

    /// Makes a TLS handshake that offers HTTP/2 and HTTP/1.1. `None` without TLS.
    pub(super) async fn handshake(&self) -> anyhow::Result<Option<Handshake>> {
        let Some((config, name)) = &self.tls else { return Ok(None) };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = handshake(&Arc::new(config), name, self.dial().await?).await?;
        let session = stream.get_ref().1;
        let version = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => "1.3",
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "of another version",
        };
        Ok(Some(Handshake { version, offers_http2: session.alpn_protocol() == Some(b"h2") }))
    }

    /// The head of a request for a path below the URL. The server closes the connection behind its response.
    pub(super) fn head(&self, method: &str, path: &str, fields: &[&str]) -> String {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let mut head = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: {host}{port}\r\nUser-Agent: rendezvous-doctor\r\nConnection: close\r\n",
            self.url.path()
        );
        if let Some(token) = &self.token {
            head.extend(["Authorization: Bearer ", token, "\r\n"]);
        }
        for field in fields {
            head.extend([field, "\r\n"]);
        }
        head + "\r\n"
    }

    /// Sends a request without a body and returns the whole response.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        fields: &[&str],
        patience: Duration,
    ) -> anyhow::Result<(Answer, String)> {
        let mut connection = self.connect().await?;
        connection.write(self.head(method, path, fields).as_bytes()).await?;
        let answer = connection.answer(patience).await?;
        let body = connection.body(&answer, patience).await;
        Ok((answer, body))
    }
}

fn tls_of(url: &Url) -> anyhow::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()
        .context("cannot read the certificates that this machine trusts")?;
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(host.to_owned()).context("the host is no name for TLS")?;
    Ok((Arc::new(config.with_no_client_auth()), name))
}

async fn handshake(
    config: &Arc<ClientConfig>,
    name: &ServerName<'static>,
    socket: TcpStream,
) -> anyhow::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let shaken = TlsConnector::from(Arc::clone(config)).connect(name.clone(), socket);
    timeout(CONNECT, shaken)
        .await
        .context("the TLS handshake takes too long")?
        .context("the TLS handshake failed")
}

/// The head of a response.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Names in lower case.
    fields: Vec<(String, String)>,
}

impl Answer {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A connection of HTTP/1.1. Dropping it closes the connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// What was received and not yet taken.
    input: Vec<u8>,
    is_at_end: bool,
}

impl Connection {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads more. Returns `false` at the end of the connection, or once the input is full.
    async fn read(&mut self) -> io::Result<bool> {
        if self.is_at_end || self.input.len() >= MAX_INPUT {
            return Ok(false);
        }
        self.input.reserve(READ);
        let read = self.stream.read_buf(&mut self.input).await?;
        self.is_at_end = read == 0;
        Ok(read > 0)
    }

    /// Waits for the head of the next response, interim or final.
    pub(super) async fn answer(&mut self, patience: Duration) -> anyhow::Result<Answer> {
        let waited = timeout(patience, async {
            loop {
                if let Some(answer) = self.take_answer()? {
                    return Ok(answer);
                }
                if !self.read().await? {
                    return Err(anyhow!("the connection was closed without a response"));
                }
            }
        });
        waited.await.unwrap_or_else(|_| Err(anyhow!("no response within {} s", patience.as_secs())))
    }

    fn take_answer(&mut self) -> anyhow::Result<Option<Answer>> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) =
            response.parse(&self.input).context("the answer is not HTTP")?
        else {
            return Ok(None);
        };
        let fields = response.headers.iter();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields = fields.map(|field| (field.name.to_ascii_lowercase(), text(field.value))).collect();
        let answer = Answer { status: response.code.unwrap_or_default(), fields };
        self.input.drain(..length);
        Ok(Some(answer))
    }

    /// Waits until the input has these bytes. Returns whether they have come in time.
    pub(super) async fn has(&mut self, bytes: &[u8], patience: Duration) -> bool {
        let waited = timeout(patience, async {
            loop {
                if self.input.windows(bytes.len()).any(|window| window == bytes) {
                    return true;
                }
                if !self.read().await.unwrap_or(false) {
                    return false;
                }
            }
        });
        waited.await.unwrap_or(false)
    }

    /// Waits until the peer sends something or closes the connection.
    pub(super) async fn is_quiet(&mut self, time: Duration) -> bool {
        self.input.is_empty() && timeout(time, self.read()).await.is_err()
    }

    /// Reads and drops everything up to the end, for this time at most. Returns the number of bytes.
    pub(super) async fn drain(&mut self, patience: Duration) -> usize {
        let mut count = std::mem::take(&mut self.input).len();
        let all = async {
            while let Ok(true) = self.read().await {
                count += std::mem::take(&mut self.input).len();
            }
        };
        // What has come counts, whether or not there would be more.
        let _ = timeout(patience, all).await;
        count
    }

    /// Returns the body of a response, whose connection closes behind it. What cannot be read is missing.
    async fn body(&mut self, answer: &Answer, patience: Duration) -> String {
        let length =
            answer.field("content-length").and_then(|length| length.parse().ok()).unwrap_or(usize::MAX);
        let all = async {
            while self.input.len() < length {
                let Ok(true) = self.read().await else { break };
            }
        };
        let _ = timeout(patience, all).await;
        let is_chunked = answer.field("transfer-encoding").is_some();
        let body = if is_chunked { without_chunks(&self.input) } else { self.input.clone() };
        String::from_utf8_lossy(&body).into_owned()
    }
}

/// Returns the content of a body in chunks, as far as it has come.
fn without_chunks(mut input: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(httparse::Status::Complete((head, size))) = httparse::parse_chunk_size(input) {
        let rest = input.get(head..).unwrap_or_default();
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(rest.len());
        let (chunk, rest) = rest.split_at(size);
        if chunk.is_empty() {
            break;
        }
        body.extend_from_slice(chunk);
        input = rest.get(2..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_taken_apart() {
        assert_eq!(without_chunks(b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"), b"abc0123456789");
        assert_eq!(without_chunks(b"5\r\nab"), b"ab");
        assert_eq!(without_chunks(b""), b"");
    }

    #[test]
    fn a_request_is_below_the_path_of_the_relay() {
        let target =
            Target::new(Url::parse("http://[::1]:80/a?b#c").unwrap(), Some("secret".into())).unwrap();
        let head = target.head("GET", "p/x", &["Prefer: wait=1"]);
        assert!(head.starts_with("GET /a/p/x HTTP/1.1\r\nHost: [::1]\r\n"), "{head}");
        assert!(head.ends_with("Authorization: Bearer secret\r\nPrefer: wait=1\r\n\r\n"), "{head}");
    }
    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_read_for_a_limited_time() {
        for is_drained in [false, true] {
            let (stream, mut relay) = tokio::io::duplex(64);
            let dripping = async {
                while relay.write_all(b".").await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let reading = async {
                let mut connection =
                    Connection { stream: Box::new(stream), input: Vec::new(), is_at_end: false };
                let fields = vec![("content-length".into(), "1000000".into())];
                if is_drained {
                    connection.drain(Duration::from_secs(5)).await
                } else {
                    connection.body(&Answer { status: 200, fields }, Duration::from_secs(5)).await.len()
                }
            };
            let ((), came) = tokio::join!(dripping, reading);
            assert!((4..=6).contains(&came), "{came}");
        }
    }
}
