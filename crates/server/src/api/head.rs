//! [`RequestHead`]: the request head as routing sees it, for both HTTP/1 and HTTP/2.

use http::uri::Authority;
use http::{Method, Version};
use rendezvous_codec::head::Head;

/// The head of a request.
pub(crate) trait RequestHead {
    /// The method.
    fn method(&self) -> &Method;

    /// The path of the request target.
    fn path(&self) -> &str;

    /// The query of the request target.
    fn query(&self) -> Option<&str>;

    /// The authority of the request target: from the absolute form (RFC 9112, section 3.2.2) or `:authority` (RFC 9113, section 8.3.1).
    fn target_authority(&self) -> Option<&Authority>;

    /// The version of HTTP.
    fn version(&self) -> Version;

    /// The declared length of the body in bytes.
    fn body_length(&self) -> Option<u64>;

    /// The values of the fields with this name, in order. `name` is in lower case.
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]>;

    /// Whether there is a field with this name. `name` is in lower case.
    fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The authorities of the request: that of the target, and each `Host` that is not empty. `None` is one that cannot be parsed.
    fn authorities(&self) -> impl Iterator<Item = Option<Authority>> {
        let hosts = self.values("host").filter(|host| !host.is_empty());
        self.target_authority()
            .cloned()
            .map(Some)
            .into_iter()
            .chain(hosts.map(|host| Authority::try_from(host).ok()))
    }
}

impl RequestHead for Head<'_> {
    fn method(&self) -> &Method {
        &self.method
    }

    fn path(&self) -> &str {
        self.target.path()
    }

    fn query(&self) -> Option<&str> {
        self.target.query()
    }

    fn target_authority(&self) -> Option<&Authority> {
        self.target.authority()
    }

    fn version(&self) -> Version {
        self.version
    }

    fn body_length(&self) -> Option<u64> {
        self.framing.length()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        Self::values(self, name)
    }
}

/// For tests: a request without a body.
#[cfg(test)]
impl RequestHead for http::Request<()> {
    fn method(&self) -> &Method {
        self.method()
    }

    fn path(&self) -> &str {
        self.uri().path()
    }

    fn query(&self) -> Option<&str> {
        self.uri().query()
    }

    fn target_authority(&self) -> Option<&Authority> {
        self.uri().authority()
    }

    fn version(&self) -> Version {
        self.version()
    }

    fn body_length(&self) -> Option<u64> {
        Some(0)
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.headers().get_all(name).iter().map(http::HeaderValue::as_bytes)
    }
}
