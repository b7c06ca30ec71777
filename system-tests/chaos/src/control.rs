//! Requests to a server other than transfers: creations, statuses, reports.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::client::Asker;

/// The pause between two attempts while the server is down or has no room.
const AGAIN: Duration = Duration::from_millis(20);
/// The time within which a restarted server must respond.
const INSISTS_FOR: Duration = Duration::from_secs(30);
/// The timeout of one response.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Connections to one server for such requests.
pub(crate) struct Control {
    address: SocketAddr,
    idle: Mutex<Vec<Asker>>,
}

impl Control {
    /// Connects to the server at `address`.
    #[must_use]
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// The response.
    ///
    /// # Errors
    /// There is no response.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        let idle = self.idle.lock().pop();
        let mut asker = idle.unwrap_or_else(|| Asker::new(self.address));
        let answer = timeout(ANSWERS_WITHIN, asker.ask(method, path, body)).await??;
        self.idle.lock().push(asker);
        Ok(answer)
    }

    /// Repeats a request until the response is not that the server has no room. `None` if there is no such response.
    pub(crate) async fn persist(&self, method: &str, path: &str, body: &str) -> Option<(u16, Vec<u8>)> {
        let begun = Instant::now();
        while begun.elapsed() < INSISTS_FOR {
            match self.ask(method, path, body).await {
                Ok((503, _)) | Err(_) => sleep(AGAIN).await,
                Ok(answer) => return Some(answer),
            }
        }
        None
    }

    /// As [`Control::persist`]. Returns the body of a response of the `expected` status; `None` for another one.
    pub(crate) async fn insist(
        &self,
        method: &str,
        path: &str,
        body: &str,
        expected: u16,
    ) -> Option<Vec<u8>> {
        let (status, answer) = self.persist(method, path, body).await?;
        (status == expected).then_some(answer)
    }

    /// Closes the connections.
    pub(crate) fn close(&self) {
        self.idle.lock().clear();
    }
}
