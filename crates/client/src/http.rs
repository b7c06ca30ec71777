//! Requests to the relay.
//!
//! *Invariant.* A request that is dropped closes its connection, or resets its HTTP/2 stream, so that the relay frees its seat.
//!
//! *Bounds.* A control request ends [`GRACE`] after its wait; bodies other than data are read up to [`MAX_CONTROL`] bytes.

mod upload;

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Body, Client, Method, Response, Url};

use crate::link::base_of;
use crate::messages::MAX_CONTROL;
use crate::relay::{Relay, Token, Unusable};
use crate::reply::{GRACE, Reply, Verdict};

pub(crate) use upload::{BLOCK, UploadBody};

/// A connection that does not come about within this is given up.
const CONNECT: Duration = Duration::from_secs(10);

/// A dead HTTP/2 connection is noticed after this, twice: after the ping and after its timeout.
const PING: Duration = Duration::from_secs(5);

/// Idle connections are kept for less than the relay keeps them (75 s).
const IDLE: Duration = Duration::from_mins(1);

/// The flow control window of an HTTP/2 stream, in bytes; that of the connection is twice as large.
const WINDOW: u32 = 2 * 1024 * 1024;

/// A segment whose GET brings no byte for so long is given up.
const SILENT: Duration = Duration::from_secs(15);

/// A relay, as an HTTP client reaches it.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: Client,
    base: Url,
    authorization: Option<HeaderValue>,
}

/// What a GET brought.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// The whole body, if it is not too long.
    Body(Vec<u8>),
    /// No body.
    Not(Reply),
}

/// What a request for a new stream brought.
#[derive(Debug)]
pub(crate) enum Created {
    /// The JSON of the response.
    Stream(Vec<u8>),
    /// No stream.
    Not(Reply),
}

impl Http {
    /// Prepares requests to this relay. Proxies are taken from the environment.
    pub(crate) fn new(relay: &Relay) -> Result<Self, Unusable> {
        let base = base_of(&relay.url).map_err(|error| Unusable::BadUrl { why: error.to_string() })?;
        Ok(Self { client: client()?, base, authorization: relay.token.as_ref().and_then(bearer) })
    }

    /// GETs a control message or a confirmation.
    pub(crate) async fn fetch(&self, path: &str, wait: Duration) -> Fetched {
        let answer = async {
            let response = match self.send(Method::GET, path, Some(wait), Body::default()).await {
                Ok(response) if response.status().is_success() => response,
                Ok(response) => return Fetched::Not(reply_of(&response)),
                Err(reply) => return Fetched::Not(reply),
            };
            short_body(response).await.map_or_else(Fetched::Not, Fetched::Body)
        };
        let given_up = Fetched::Not(Reply::Lost { why: "the relay did not answer".into() });
        tokio::time::timeout(wait + GRACE, answer).await.unwrap_or(given_up)
    }

    /// PUTs a short message.
    pub(crate) async fn put(&self, path: &str, wait: Duration, body: Vec<u8>) -> Reply {
        let answer = self.send(Method::PUT, path, Some(wait), body.into());
        match tokio::time::timeout(wait + GRACE, answer).await {
            Ok(Ok(response)) => reply_of(&response),
            Ok(Err(reply)) => reply,
            Err(_) => Reply::Lost { why: "the relay did not answer".into() },
        }
    }

    /// Asks whether somebody waits at a path.
    pub(crate) async fn probe(&self, path: &str) -> Reply {
        let answer = self.send(Method::HEAD, path, None, Body::default());
        match tokio::time::timeout(GRACE, answer).await {
            Ok(Ok(response)) => reply_of(&response),
            Ok(Err(reply)) => reply,
            Err(_) => Reply::Lost { why: "the relay did not answer".into() },
        }
    }

    /// PUTs a segment. It ends by itself only with an answer or a broken connection: the sender looks at its progress.
    pub(crate) async fn upload(&self, path: &str, wait: Duration, body: UploadBody) -> Reply {
        match self.send(Method::PUT, path, Some(wait), Body::wrap(body)).await {
            Ok(response) => reply_of(&response),
            Err(reply) => reply,
        }
    }

    /// GETs a segment, up to the head of the response.
    pub(crate) async fn open(&self, path: &str, wait: Duration) -> Result<Response, Reply> {
        let answer = self.send(Method::GET, path, Some(wait), Body::default());
        let given_up = || Reply::Lost { why: "the relay did not answer".into() };
        let response = tokio::time::timeout(wait + GRACE, answer).await.map_err(|_| given_up())??;
        if response.status().is_success() { Ok(response) } else { Err(reply_of(&response)) }
    }

    /// Creates a stream.
    pub(crate) async fn create(&self, body: String) -> Created {
        let answer = async {
            match self.send(Method::POST, "stream", None, body.into()).await {
                Ok(response) if response.status().as_u16() == 201 => match short_body(response).await {
                    Ok(body) => Created::Stream(body),
                    Err(reply) => Created::Not(reply),
                },
                Ok(response) => Created::Not(reply_of(&response)),
                Err(reply) => Created::Not(reply),
            }
        };
        let given_up = Created::Not(Reply::Lost { why: "the relay did not answer".into() });
        tokio::time::timeout(CONNECT, answer).await.unwrap_or(given_up)
    }

    /// PUTs to a stream.
    pub(crate) async fn put_stream(&self, url: Url, body: UploadBody) -> Reply {
        match self.send_to(Method::PUT, url, None, Body::wrap(body)).await {
            Ok(response) => reply_of(&response),
            Err(reply) => reply,
        }
    }

    /// GETs a stream, up to the head of the response.
    pub(crate) async fn get_stream(&self, url: Url) -> Result<Response, Reply> {
        let response = self.send_to(Method::GET, url, None, Body::default()).await?;
        if response.status().is_success() { Ok(response) } else { Err(reply_of(&response)) }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        wait: Option<Duration>,
        body: Body,
    ) -> Result<Response, Reply> {
        let url = self.base.join(path).map_err(|error| Reply::Lost { why: error.to_string() })?;
        self.send_to(method, url, wait, body).await
    }

    async fn send_to(
        &self,
        method: Method,
        url: Url,
        wait: Option<Duration>,
        body: Body,
    ) -> Result<Response, Reply> {
        let has_body = method == Method::PUT || method == Method::POST;
        let mut request = self.client.request(method, url);
        if let Some(wait) = wait {
            request = request.header("prefer", format!("wait={}", wait.as_secs()));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if has_body {
            request = request.body(body);
        }
        request.send().await.map_err(|error| lost(&error))
    }
}

/// Returns the body of a response that is no data, or nothing of one that is too long: it is no message then.
async fn short_body(mut response: Response) -> Result<Vec<u8>, Reply> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| lost(&error))? {
        if body.len() + chunk.len() > MAX_CONTROL {
            return Ok(Vec::new());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// Returns the next part of a segment's body, `None` at its end, or why it is cut.
pub(crate) async fn next_chunk(response: &mut Response) -> Result<Option<Bytes>, String> {
    match tokio::time::timeout(SILENT, response.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| reason_of(&error)),
        Err(_) => Err(format!("no byte came for {} s", SILENT.as_secs())),
    }
}

/// Makes the HTTP client.
pub(crate) fn client() -> Result<Client, Unusable> {
    let builder = Client::builder()
        .user_agent(concat!("rendezvous/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .http2_initial_stream_window_size(WINDOW)
        .http2_initial_connection_window_size(2 * WINDOW)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_keep_alive_while_idle(true);
    builder.build().map_err(|error| Unusable::Client { why: reason_of(&error) })
}

/// Returns the `Authorization` field of a token.
pub(crate) fn bearer(token: &Token) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", token.as_str())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

pub(crate) fn reply_of(response: &Response) -> Reply {
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    Reply::Status { code: response.status().as_u16(), retry_after }
}

fn lost(error: &reqwest::Error) -> Reply {
    Reply::Lost { why: reason_of(error) }
}

/// Returns the innermost reason of an error, without the URL: the path is a capability.
pub(crate) fn reason_of(error: &reqwest::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    let text = reason.to_string();
    if error.is_connect() { format!("cannot connect: {text}") } else { text }
}

/// Returns what makes a relay unusable.
pub(crate) fn unusable(verdict: &Verdict, url: &Url) -> Unusable {
    let url = url.clone();
    match verdict {
        Verdict::Unauthorized => Unusable::TokenNeeded,
        Verdict::Forbidden => Unusable::TokenRefused,
        Verdict::Foreign(status) => Unusable::NoRelay { url, status: *status },
        _ => Unusable::NoPaths { url },
    }
}
