//! The head of a request, in the form of either lane: the input of [`super::App::permit`].

use http::uri::Authority;
use http::{HeaderValue, Request};

use crate::wire::head::Fields;

/// A request's head.
pub trait RequestHead {
    /// The values of the fields of this name (in lower case), in order.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]>;

    /// The authority of its target: of the absolute form, or `:authority`.
    fn target_authority(&self) -> Option<&Authority>;

    /// The query of its target.
    fn query(&self) -> Option<&str>;

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

impl<B> RequestHead for Request<B> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.headers().get_all(name).iter().map(HeaderValue::as_bytes)
    }

    fn target_authority(&self) -> Option<&Authority> {
        self.uri().authority()
    }

    fn query(&self) -> Option<&str> {
        self.uri().query()
    }
}

/// In the fast lane a target is a path without a query.
impl RequestHead for Fields<'_, '_> {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.all(name)
    }

    fn target_authority(&self) -> Option<&Authority> {
        None
    }

    fn query(&self) -> Option<&str> {
        None
    }
}
