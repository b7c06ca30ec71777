//! Responses, read so that no cut message counts as whole.

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// A final response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// Whether it was not cut.
    pub(crate) is_whole: bool,
}

impl Answer {
    /// Reads the next final response of an HTTP/1 connection, which its length frames. One that is cut after its head is not whole.
    pub(crate) async fn read(incoming: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Self> {
        let (status, length) = loop {
            let head = read_head(incoming).await?;
            if head.0 >= 200 {
                break head;
            }
        };
        let mut body = Vec::with_capacity(length);
        let read = incoming.take(length as u64).read_to_end(&mut body).await;
        if let Err(error) = read {
            let is_cut = error.kind() == std::io::ErrorKind::ConnectionReset;
            ensure!(is_cut, "the answer's body: {error}");
        }
        let is_whole = body.len() == length;
        Ok(Self { status, body, is_whole })
    }

    /// The response, if it is whole and has this status.
    pub(crate) fn expect(self, status: u16) -> anyhow::Result<Self> {
        if self.status != status || !self.is_whole {
            bail!(
                "not {status} but {}{} {}",
                self.status,
                if self.is_whole { "" } else { ", cut:" },
                String::from_utf8_lossy(&self.body)
            );
        }
        Ok(self)
    }

    /// A string of its JSON object.
    pub(crate) fn text(&self, name: &str) -> anyhow::Result<String> {
        let object: serde_json::Value = serde_json::from_slice(&self.body)?;
        let text = object.get(name).and_then(serde_json::Value::as_str);
        Ok(text.with_context(|| format!("no {name} in {object}"))?.to_owned())
    }
}

/// Status and length.
async fn read_head(incoming: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<(u16, usize)> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        incoming.read_line(&mut line).await.context("the answer's head")?;
        let line = line.strip_suffix("\r\n").context("the connection ended inside the answer's head")?;
        if line.is_empty() {
            break;
        }
        lines.push(line.to_ascii_lowercase());
    }
    let status = lines.first().and_then(|line| line.strip_prefix("http/1.1 ")?.get(..3)?.parse().ok());
    let status = status.with_context(|| format!("no status line: {lines:?}"))?;
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(Ok(0), str::parse).with_context(|| format!("no length: {lines:?}"))?;
    Ok((status, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str) -> anyhow::Result<Answer> {
        Answer::read(&mut text.as_bytes()).await
    }

    #[tokio::test]
    async fn an_answer_is_whole_where_all_of_it_came() {
        let answer = read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc").await.unwrap();
        assert_eq!(answer.expect(200).unwrap().body, b"abc");
    }

    #[tokio::test]
    async fn a_cut_answer_is_not_whole() {
        let answer = read("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc").await.unwrap();
        assert!(!answer.is_whole);
        assert!(answer.expect(200).is_err());
        assert!(read("HTTP/1.1 200 OK\r\nContent-Le").await.is_err());
    }

    #[tokio::test]
    async fn interim_answers_are_skipped_and_another_status_is_an_error() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        assert!(read(text).await.unwrap().expect(200).is_err());
        assert!(read(text).await.unwrap().expect(404).is_ok());
    }
}
