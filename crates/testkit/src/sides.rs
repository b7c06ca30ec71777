//! How tests connect the two sides of a stream, and how a side leaves.

use crate::client::Client;
use crate::server::TestServer;

/// How a client ends its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// By FIN.
    Close,
    /// By RST.
    Reset,
}

impl Departure {
    /// Both ways.
    pub const ALL: [Self; 2] = [Self::Close, Self::Reset];
}

impl Client {
    /// Ends the connection.
    pub fn leave(self, how: Departure) {
        match how {
            Departure::Close => self.close(),
            Departure::Reset => self.reset(),
        }
    }
}

impl TestServer {
    /// Connects both sides of a stream, the second once the first has its seat. Returns source and destination; the source has
    /// sent its head, with `fields`, and nothing of its body.
    pub async fn connect_sides(&self, id: &str, fields: &str, source_first: bool) -> (Client, Client) {
        if source_first {
            let source = self.put(id, fields).await;
            self.until(id, "SRC_CONNECTED").await;
            (source, self.get(id).await)
        } else {
            let destination = self.get(id).await;
            self.until(id, "DST_CONNECTED").await;
            (self.put(id, fields).await, destination)
        }
    }
}
