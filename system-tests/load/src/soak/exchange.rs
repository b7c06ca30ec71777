//! The course of an exchange, checked against the contract.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use fastrand::Rng;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body::{Check, Noise};
use super::client::{Certificate, Client, Connectors, RequestBody};
use super::plan::{Course, Exchange, Speech, Upload};
use crate::server::Server;

/// The longest wait: the largest body takes a second or two, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// The time after which a waiting side leaves.
const WAITS: Duration = Duration::from_millis(100);
/// The bytes that a side has sent or received at least when it is killed.
const IN_THE_MIDDLE: u64 = 1 << 20;
const REPORT: &[u8] = br#"{"http_status":410,"name":"ProofError"}"#;
/// A request without a Host.
const BROKEN: &str = "GET /ping HTTP/1.1\r\n\r\n";

/// A server and its connectors.
pub(super) struct Soaked {
    pub(super) name: &'static str,
    pub(super) server: Server,
    connectors: Connectors,
}

impl Soaked {
    pub(super) fn new(name: &'static str, server: Server, certificate: &Certificate) -> Self {
        Self { name, server, connectors: certificate.connectors() }
    }

    pub(super) async fn exchange(&self, chance: &mut Rng) -> anyhow::Result<()> {
        let exchange = Exchange::by_chance(chance);
        let done = timeout(2 * PATIENCE, self.run(&exchange, chance)).await;
        done.map_err(anyhow::Error::from).flatten().with_context(|| format!("{}: {exchange:?}", self.name))
    }

    async fn run(&self, exchange: &Exchange, chance: &mut Rng) -> anyhow::Result<()> {
        if exchange.course == Course::Broken {
            return self.server.ask(BROKEN).await?.expect(400).map(drop);
        }
        let path = format!("/stream/{}", self.create().await?);
        match exchange.course {
            Course::Delivered => self.deliver(&path, exchange).await,
            Course::SourceKilled => self.kill_source(&path, exchange).await,
            Course::DestinationKilled => self.kill_destination(&path, exchange).await,
            Course::Abandoned => {
                let waited = timeout(WAITS, self.lonely(&path, exchange, chance.bool())).await;
                ensure!(waited.is_err(), "a side that waits alone gets {waited:?}");
                Ok(())
            }
            Course::Expired => {
                let status = self.lonely(&path, exchange, chance.bool()).await?;
                ensure!(status == 504, "a side that waits too long gets {status}");
                Ok(())
            }
            Course::Reported => {
                let lonely = self.lonely(&path, exchange, chance.bool());
                let (status, reported) = tokio::join!(lonely, self.report(&path));
                reported?;
                let status = status?;
                ensure!(status == 410, "the side of a reported error gets {status}");
                Ok(())
            }
            Course::Broken => Ok(()),
        }
    }

    async fn deliver(&self, path: &str, exchange: &Exchange) -> anyhow::Result<()> {
        let upload = self.upload(path, exchange.source, exchange.upload);
        // The error names the side that hangs, not only the exchange.
        let (upload, download) =
            (timeout(PATIENCE, upload), timeout(PATIENCE, self.download(path, exchange.destination)));
        let (status, received) = tokio::join!(upload, download);
        let status = status.map_err(anyhow::Error::from).flatten().context("the upload")?;
        let received = received.map_err(anyhow::Error::from).flatten().context("the download")?;
        ensure!(status == 200, "the upload is answered {status}");
        ensure!(received == exchange.upload.bytes, "{received} bytes arrive");
        Ok(())
    }

    async fn kill_source(&self, path: &str, exchange: &Exchange) -> anyhow::Result<()> {
        let mut upload = Box::pin(self.upload(path, exchange.source, exchange.upload));
        let mut client = self.connect(exchange.destination).await?;
        let begun = async {
            let mut incoming = client.ask("GET", path, nothing()).await?.into_body();
            let mut check = Check::default();
            while check.received < IN_THE_MIDDLE {
                let frame = incoming.frame().await.context("the download ends too early")??;
                check.take(frame.into_data().unwrap_or_default())?;
            }
            anyhow::Ok((incoming, check))
        };
        let (incoming, check) = tokio::select! {
            begun = begun => begun?,
            status = &mut upload => bail!("an upload that is not taken is answered {status:?}"),
        };
        drop(upload);
        let rest = follow(incoming, check).await;
        ensure!(rest.is_err(), "a cut download looks whole, with {rest:?} bytes");
        Ok(())
    }

    async fn kill_destination(&self, path: &str, exchange: &Exchange) -> anyhow::Result<()> {
        let killed = async {
            let mut client = self.connect(exchange.destination).await?;
            let mut incoming = client.ask("GET", path, nothing()).await?.into_body();
            incoming.frame().await.context("the download has no body")??;
            anyhow::Ok(())
        };
        let upload = self.upload(path, exchange.source, exchange.upload);
        let (status, killed) = tokio::join!(upload, killed);
        killed.context("the download")?;
        // The response may be lost with a connection that breaks during a write. It must not be 200.
        ensure!(!status.as_ref().is_ok_and(|status| *status != 502), "the upload is answered {status:?}");
        Ok(())
    }

    /// Runs one side alone. Returns its response.
    async fn lonely(&self, path: &str, exchange: &Exchange, is_source: bool) -> anyhow::Result<u16> {
        if is_source {
            return self.upload(path, exchange.source, exchange.upload).await;
        }
        let mut client = self.connect(exchange.destination).await?;
        Ok(client.ask("GET", path, nothing()).await?.status().as_u16())
    }

    async fn create(&self) -> anyhow::Result<String> {
        let head = crate::server::head("POST", "/stream", "Connection: close\r\nContent-Length: 0\r\n");
        self.server.ask(&head).await?.expect(201)?.text("stream")
    }

    async fn report(&self, path: &str) -> anyhow::Result<()> {
        let mut client = self.connect(Speech { is_tls: true, is_http2: false }).await?;
        let body = Full::new(Bytes::from_static(REPORT)).boxed_unsync();
        let status = client.ask("POST", &format!("{path}/error"), body).await?.status();
        ensure!(status == 200, "the report is answered {status}");
        Ok(())
    }

    async fn upload(&self, path: &str, speech: Speech, upload: Upload) -> anyhow::Result<u16> {
        let mut client = self.connect(speech).await?;
        let answer = client.ask("PUT", path, Noise::new(upload).boxed_unsync()).await?;
        let status = answer.status().as_u16();
        answer.into_body().collect().await.context("the answer's body")?;
        Ok(status)
    }

    /// Checks a download. Returns its length.
    async fn download(&self, path: &str, speech: Speech) -> anyhow::Result<u64> {
        let mut client = self.connect(speech).await?;
        let answer = client.ask("GET", path, nothing()).await?;
        ensure!(answer.status() == 200, "answered {}", answer.status());
        follow(answer.into_body(), Check::default()).await
    }

    async fn connect(&self, speech: Speech) -> anyhow::Result<Client> {
        Client::connect(&self.server, &self.connectors, speech).await.context("cannot connect")
    }
}

/// Reads a download to its proper end. Returns its length.
async fn follow(mut incoming: Incoming, mut check: Check) -> anyhow::Result<u64> {
    while let Some(frame) = incoming.frame().await {
        check.take(frame?.into_data().unwrap_or_default())?;
    }
    Ok(check.received)
}

fn nothing() -> RequestBody {
    Empty::new().boxed_unsync()
}
