//! The head of a request, whichever version of HTTP it came by.

use http::uri::Authority;
use http::{Method, Version};
use rendezvous_codec::head::Head;

/// A request's head.
pub(crate) trait RequestHead {
    /// The method.
    fn method(&self) -> &Method;

    /// The path of its target.
    fn path(&self) -> &str;

    /// The query of its target.
    fn query(&self) -> Option<&str>;

    /// The authority of its target: of the absolute form, or `:authority`.
    fn target_authority(&self) -> Option<&Authority>;

    /// The version of HTTP.
    fn version(&self) -> Version;

    /// The length of the body in bytes, where it is declared.
    fn body_length(&self) -> Option<u64>;

    /// The values of the fields of this name (in lower case), in order.
    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]>;

    /// Whether there is a field of this name (in lower case).
    fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// The authorities that it names: its target's, and each `Host` that is not empty. `None` stands for one that cannot be parsed.
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

/// Of no body, as tests make it.
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
