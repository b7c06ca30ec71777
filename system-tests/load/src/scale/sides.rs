//! The sides: how each waits, pairs and ends.

use std::num::NonZeroUsize;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

use super::AT_ONCE;
use super::plan::{Ending, Exchange, Side};
use super::way::{Acks, Asked, Asks, Finds, Over, Way};
use crate::answer::Answer;
use crate::server::{Server, head};

/// Bytes of a body. They repeat the stream's id, so that a byte from another stream shows.
const BODY: usize = 1024;
/// The status that a client reports and the other side must get.
const REPORT: &str = r#"{"http_status":410,"name":"ProofError"}"#;
/// A longer wait on loopback counts as hanging.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two polls of a stream's state.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// The clients of a server.
pub(super) struct Sides<'a> {
    server: &'a Server,
    way: Way<'a>,
}

/// A waiting side.
pub(super) struct Waiting {
    id: String,
    exchange: Exchange,
    asked: Asked,
}

impl<'a> Sides<'a> {
    /// Opens the shared connections: over HTTP/2 `connections` for the waiting sides, and one for each of the pairings at the same time.
    pub(super) async fn open(
        server: &'a Server,
        over: Over,
        acks: Acks,
        connections: usize,
        pairings: NonZeroUsize,
    ) -> anyhow::Result<Self> {
        Ok(Self { server, way: Way::open(server, over, acks, connections, pairings.get()).await? })
    }

    /// A first exchange of each kind.
    pub(super) async fn warm_up(&self) -> anyhow::Result<()> {
        for (id, first) in self.create(2).await?.into_iter().zip([Side::Source, Side::Destination]) {
            let exchange = Exchange { first, ending: Ending::Delivered };
            self.meet(self.wait(id, exchange).await?).await?;
        }
        Ok(())
    }

    /// Creates this number of streams.
    pub(super) async fn create(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let makers = AT_ONCE.min(count);
        let shares = (0..makers).map(|maker| count / makers + usize::from(maker < count % makers));
        let made: Vec<_> =
            stream::iter(shares).map(|share| self.create_some(share)).buffered(AT_ONCE).try_collect().await?;
        Ok(made.concat())
    }

    /// Creates this number of streams over one connection.
    async fn create_some(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let mut connection = BufReader::new(self.server.connect().await?);
        let request = head("POST", "/stream", "Content-Length: 0\r\n");
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            connection.write_all(request.as_bytes()).await?;
            ids.push(Answer::read(&mut connection).await?.expect(201)?.text("stream")?);
        }
        Ok(ids)
    }

    /// Connects a side that waits, without a check that the server has it.
    pub(super) async fn wait(&self, id: String, exchange: Exchange) -> anyhow::Result<Waiting> {
        self.wait_where(Finds::Nobody, id, exchange).await
    }

    async fn wait_where(&self, finds: Finds, id: String, exchange: Exchange) -> anyhow::Result<Waiting> {
        let connected = self.way.connect(finds).await?;
        let asked = connected.ask(asks(&id, exchange.first, exchange.ending)).await?;
        Ok(Waiting { id, exchange, asked })
    }

    /// Connects the other side and runs both to their end. Returns the milliseconds from its request to the first byte of the download,
    /// if no failure was planned.
    pub(super) async fn meet(&self, waiting: Waiting) -> anyhow::Result<Option<f64>> {
        let Exchange { first, ending } = waiting.exchange;
        let id = waiting.id.clone();
        let met = async {
            match ending {
                Ending::Delivered => return Ok(Some(self.deliver(waiting).await?)),
                Ending::Replaced => self.replace(waiting).await?,
                Ending::Reported => self.report(waiting).await?,
                Ending::Cut => self.cut(waiting).await?,
            }
            Ok(None)
        };
        let what = || format!("stream {id}: the {first:?} waits, {ending:?}");
        timeout(PATIENCE, met).await.map_err(anyhow::Error::from).flatten().with_context(what)
    }

    async fn deliver(&self, waiting: Waiting) -> anyhow::Result<f64> {
        let Waiting { id, exchange, asked: first } = waiting;
        let connected = self.way.connect(Finds::TheOther).await?;
        let began = Instant::now();
        let second = connected.ask(asks(&id, exchange.first.other(), exchange.ending)).await?;
        let (source, mut destination) = exchange.first.in_order(first, second);
        destination.begun().await?;
        let latency = began.elapsed();
        let download = destination.answer().await?.expect(200)?;
        ensure!(download.body == body(&id), "the download is not the upload");
        let answer = source.answer().await?.expect(200)?;
        ensure!(answer.body.is_empty(), "the PUT's answer has a body");
        Ok(latency.as_secs_f64() * 1000.0)
    }

    async fn replace(&self, waiting: Waiting) -> anyhow::Result<()> {
        let Waiting { id, exchange, asked } = waiting;
        drop(asked);
        while self.state(&id).await? != "CREATED" {
            sleep(LOOK_AGAIN).await;
        }
        self.deliver(self.wait_where(Finds::TheOther, id, exchange).await?).await.map(drop)
    }

    async fn report(&self, waiting: Waiting) -> anyhow::Result<()> {
        let Waiting { id, exchange, asked } = waiting;
        let fields = format!("Content-Length: {}\r\nConnection: close\r\n", REPORT.len());
        let reported = head("POST", &format!("/stream/{id}/error"), &fields) + REPORT;
        self.server.ask(&reported).await?.expect(200).context("the report")?;
        let answer = asked.answer().await?.expect(410).context("the waiting side")?;
        ensure!(answer.text("name")? == "ProofError", "the waiting side gets {answer:?}");
        let late = self.come(&id, exchange).await?;
        late.answer().await?.expect(404).context("a side after the end").map(drop)
    }

    async fn cut(&self, waiting: Waiting) -> anyhow::Result<()> {
        let Waiting { id, exchange, asked: first } = waiting;
        let second = self.come(&id, exchange).await?;
        let (source, mut destination) = exchange.first.in_order(first, second);
        destination.begun().await?;
        drop(source);
        let download = destination.answer().await?;
        ensure!(download.status == 200 && !download.is_whole, "a cut download looks whole: {download:?}");
        Ok(())
    }

    /// Connects the other side.
    async fn come(&self, id: &str, exchange: Exchange) -> anyhow::Result<Asked> {
        let connected = self.way.connect(Finds::TheOther).await?;
        connected.ask(asks(id, exchange.first.other(), exchange.ending)).await
    }

    async fn state(&self, id: &str) -> anyhow::Result<String> {
        let path = format!("/stream/{id}/status");
        let status = self.server.ask(&head("GET", &path, "Connection: close\r\n")).await?;
        status.expect(200)?.text("state")
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// The source and the destination, given the side that connected first.
    fn in_order<T>(self, first: T, second: T) -> (T, T) {
        match self {
            Self::Source => (first, second),
            Self::Destination => (second, first),
        }
    }
}

/// The request of a side. If its upload is planned to be cut, it has half of its body.
fn asks(id: &str, side: Side, ending: Ending) -> Asks {
    let path = format!("/stream/{id}");
    match side {
        Side::Destination => Asks { method: "GET", path, body: None },
        Side::Source => {
            let mut sent = body(id);
            if ending == Ending::Cut {
                sent.truncate(BODY / 2);
            }
            Asks { method: "PUT", path, body: Some((BODY, sent)) }
        }
    }
}

fn body(id: &str) -> Vec<u8> {
    id.bytes().cycle().take(BODY).collect()
}
