//! Settings that are numbers within a range.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Period, Size};

/// How long a client's kernel may acknowledge nothing, from 3 seconds to 12 hours. The default is 2 minutes, so that a transfer
/// survives the restart of a router, which takes about one.
///
/// ```
/// use std::time::Duration;
///
/// use rendezvous_server::config::PeerTimeout;
///
/// assert_eq!("90s".parse::<PeerTimeout>()?.get(), Duration::from_secs(90));
/// assert!("1d".parse::<PeerTimeout>().is_err());
/// # Ok::<_, rendezvous_server::config::BadPeerTimeout>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerTimeout(Period);

/// A text that is not a [`PeerTimeout`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a timeout for clients: give a period from 3s to 12h, such as 30s or 2m")]
pub struct BadPeerTimeout(String);

impl PeerTimeout {
    /// Long enough for several keepalive probes, because any of them may be lost.
    const MIN: Duration = Duration::from_secs(3);
    /// Keepalive starts after half of the timeout, for which the kernel takes at most 32 767 seconds.
    const MAX: Duration = Duration::from_hours(12);

    /// Returns the timeout as a duration.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0.get()
    }
}

impl Default for PeerTimeout {
    fn default() -> Self {
        Self(Period::from_secs(2 * 60))
    }
}

impl FromStr for PeerTimeout {
    type Err = BadPeerTimeout;

    fn from_str(text: &str) -> Result<Self, BadPeerTimeout> {
        let period =
            text.parse().ok().filter(|period: &Period| (Self::MIN..=Self::MAX).contains(&period.get()));
        period.map(Self).ok_or_else(|| BadPeerTimeout(text.to_owned()))
    }
}

impl fmt::Display for PeerTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many requests an HTTP/2 connection may have at a time, from 2 to 4000. The default is 100: RFC 9113 (section 6.5.2) recommends no
/// fewer.
///
/// ```
/// use rendezvous_server::config::StreamsPerConnection;
///
/// assert_eq!("250".parse::<StreamsPerConnection>()?.get(), 250);
/// assert!("1".parse::<StreamsPerConnection>().is_err());
/// # Ok::<_, rendezvous_server::config::BadStreamsPerConnection>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamsPerConnection(u32);

/// A text that is not a [`StreamsPerConnection`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a number of requests of a connection: give a whole number from 2 to 4000")]
pub struct BadStreamsPerConnection(String);

impl StreamsPerConnection {
    /// One may wait for another side, and the other one may be that side.
    const MIN: u32 = 2;
    /// The smallest windows of twice as many, which are served at a time, are a quarter of the window of a connection.
    const MAX: u32 = 4000;

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

impl Default for StreamsPerConnection {
    fn default() -> Self {
        Self(100)
    }
}

impl FromStr for StreamsPerConnection {
    type Err = BadStreamsPerConnection;

    fn from_str(text: &str) -> Result<Self, BadStreamsPerConnection> {
        let number = text.parse().ok().filter(|number| (Self::MIN..=Self::MAX).contains(number));
        number.map(Self).ok_or_else(|| BadStreamsPerConnection(text.to_owned()))
    }
}

/// A limit on the bytes of a request head, from 4 KiB to 1 MiB. The default is 16 KiB, which is that of most proxies and of Node.js.
///
/// ```
/// use rendezvous_server::config::HeadLimit;
///
/// assert_eq!("64k".parse::<HeadLimit>()?.get(), 65_536);
/// assert!("2m".parse::<HeadLimit>().is_err());
/// # Ok::<_, rendezvous_server::config::BadHeadLimit>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HeadLimit(usize);

/// A text that is not a [`HeadLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a limit on request heads: give a number of bytes from 4k to 1m, such as 16k or 64k")]
pub struct BadHeadLimit(String);

impl HeadLimit {
    /// Heads of honest clients reach 4 KiB: a token and the cookies of a site. No smaller limit saves memory: a connection reads 4 KiB at a time.
    const MIN: usize = 4 << 10;
    /// The default of Go. Heads are read within the head timeout and held in memory, so many at once must remain bearable.
    const MAX: usize = 1 << 20;

    /// Returns the limit in bytes.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }
}

impl Default for HeadLimit {
    fn default() -> Self {
        Self(16 << 10)
    }
}

impl FromStr for HeadLimit {
    type Err = BadHeadLimit;

    fn from_str(text: &str) -> Result<Self, BadHeadLimit> {
        let size: Option<Size> = text.parse().ok();
        let bytes = size.and_then(|size| usize::try_from(size.get()).ok());
        let bytes = bytes.filter(|bytes| (Self::MIN..=Self::MAX).contains(bytes));
        bytes.map(Self).ok_or_else(|| BadHeadLimit(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_timeout_is_from_3_seconds_to_12_hours() {
        for (text, seconds) in [("3s", 3), ("90", 90), ("2m", 120), ("12h", 43_200)] {
            assert_eq!(text.parse::<PeerTimeout>().unwrap().get(), Duration::from_secs(seconds));
        }
        for text in ["2.999s", "0", "43201s", "1d", "", "soon"] {
            let error = text.parse::<PeerTimeout>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a timeout for clients: give")), "{error}");
        }
    }

    #[test]
    fn a_limit_on_heads_is_from_4_kib_to_1_mib() {
        for (text, bytes) in [("4k", 4096), ("4096", 4096), ("16K", 16_384), ("1m", 1 << 20)] {
            assert_eq!(text.parse::<HeadLimit>().unwrap().get(), bytes);
        }
        for text in ["4095", "1048577", "2m", "0", "", "-1", "1t"] {
            let error = text.parse::<HeadLimit>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a limit on request heads: give")), "{error}");
        }
    }

    #[test]
    fn a_number_of_requests_of_a_connection_is_from_2_to_4000() {
        for (text, number) in [("2", 2), ("100", 100), ("4000", 4000)] {
            assert_eq!(text.parse::<StreamsPerConnection>().unwrap().get(), number);
        }
        for text in ["1", "4001", "", "-1", "many"] {
            let error = text.parse::<StreamsPerConnection>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a number of requests")), "{error}");
        }
    }
}
