//! The parties: which transport, proxy and program a side uses, and how it reads and writes.

use std::fmt;

use clap::ValueEnum;

/// One side, as it behaves without a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Party {
    /// Its transport.
    pub(crate) transport: Transport,
    /// Its program.
    pub(crate) program: Program,
    /// The proxy that it connects to instead of the server.
    pub(crate) proxy: Option<Proxy>,
    /// It uses HTTP/1.0: a download without a length ends with the connection, and an upload has a length.
    pub(crate) is_old: bool,
    /// The size of its writes or reads, in bytes.
    pub(crate) piece: usize,
    /// The bound on its kernel's receive buffer, if any.
    pub(crate) receive_buffer: Option<usize>,
    /// The window of its HTTP/2 streams, in bytes.
    pub(crate) window: u32,
    /// The value of its `Expect`. Such a source sends no body before it gets 100.
    pub(crate) expects: Option<&'static str>,
    /// How long it prefers to wait for the other side (`Prefer: wait`), in seconds.
    pub(crate) wait: Option<u64>,
}

/// One of the two sides of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `PUT`.
    Source,
    /// `GET`.
    Destination,
}

/// The protocol and transport of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// HTTP/1.1 over TCP.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TCP, with prior knowledge.
    H2,
    /// HTTP/2 over TLS.
    H2Tls,
}

/// A proxy in front of a server, with our sample configuration. Its clients use HTTP/1.1, plain or over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// nginx.
    Nginx,
    /// `HAProxy`.
    Haproxy,
}

/// The program that runs a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// A client inside this process, which observes the most.
    Own,
    /// A curl process, which can be killed.
    Curl,
}

impl Side {
    /// The other side.
    #[must_use]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

impl Transport {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Tls, Self::H2, Self::H2Tls];

    /// HTTP/2.
    #[must_use]
    pub(crate) fn is_h2(self) -> bool {
        matches!(self, Self::H2 | Self::H2Tls)
    }

    /// Over TLS.
    #[must_use]
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2Tls)
    }
}

impl Proxy {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Nginx, Self::Haproxy];
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.transport)?;
        if let Some(proxy) = self.proxy {
            write!(f, " through {proxy}")?;
        }
        if self.is_old {
            f.write_str(" (HTTP/1.0)")?;
        }
        if let Some(seconds) = self.wait {
            write!(f, ", waits for {seconds} s")?;
        }
        if self.program == Program::Curl {
            return f.write_str(", by curl");
        }
        write!(f, ", in pieces of {}", self.piece)?;
        if let Some(value) = self.expects {
            write!(f, ", expects {value}")?;
        }
        if let Some(room) = self.receive_buffer {
            write!(f, ", receive buffer {room}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Tls => "TLS",
            Self::H2 => "HTTP/2",
            Self::H2Tls => "HTTP/2 over TLS",
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        })
    }
}
