//! The routes (docs/api.md, section 2) and their parser.

use http::Method;
use rendezvous_protocol::StreamId;

/// A route, with the stream id of its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `POST /stream`.
    Create,
    /// `GET /stream`.
    List,
    /// `PUT /stream/:id`.
    Source(StreamId),
    /// `GET /stream/:id`.
    Destination(StreamId),
    /// `HEAD /stream/:id`.
    Probe(StreamId),
    /// `POST /stream/:id/error`.
    Report(StreamId),
    /// `GET /stream/:id/status`.
    Status(StreamId),
    /// `GET /`.
    Front,
    /// `GET /ping`.
    Ping,
    /// `GET /healthz`.
    Health,
    /// `GET /readyz`.
    Ready,
    /// `GET /openapi.json`.
    OpenApi,
    /// `GET /metrics`.
    Metrics,
}

impl Route {
    /// Parses a method and a path. Returns `None` if no route matches. `HEAD` matches every `GET` route.
    #[must_use]
    pub(crate) fn parse(method: &Method, path: &str) -> Option<Self> {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        if path == "/" {
            return is_read.then_some(Self::Front);
        }
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let id = StreamId::parse;
        match *path.split('/').collect::<Vec<_>>() {
            ["ping"] if is_read => Some(Self::Ping),
            ["healthz"] if is_read => Some(Self::Health),
            ["readyz"] if is_read => Some(Self::Ready),
            ["openapi.json"] if is_read => Some(Self::OpenApi),
            ["metrics"] if is_read => Some(Self::Metrics),
            ["stream"] if is_read => Some(Self::List),
            ["stream"] if method == Method::POST => Some(Self::Create),
            ["stream", name] if method == Method::PUT => id(name).map(Self::Source),
            ["stream", name] if method == Method::GET => id(name).map(Self::Destination),
            ["stream", name] if method == Method::HEAD => id(name).map(Self::Probe),
            ["stream", name, "status"] if is_read => id(name).map(Self::Status),
            ["stream", name, "error"] if method == Method::POST => id(name).map(Self::Report),
            _ => None,
        }
    }

    /// Returns the name in logs, which contains no id and no path chosen by a client.
    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create => "POST /stream",
            Self::List => "GET /stream",
            Self::Source(_) => "PUT /stream/:id",
            Self::Destination(_) => "GET /stream/:id",
            Self::Probe(_) => "HEAD /stream/:id",
            Self::Report(_) => "POST /stream/:id/error",
            Self::Status(_) => "GET /stream/:id/status",
            Self::Front => "GET /",
            Self::Ping => "GET /ping",
            Self::Health => "GET /healthz",
            Self::Ready => "GET /readyz",
            Self::OpenApi => "GET /openapi.json",
            Self::Metrics => "GET /metrics",
        }
    }

    /// Returns the stream id in the path.
    #[must_use]
    pub(crate) fn stream(&self) -> Option<&StreamId> {
        match self {
            Self::Source(id)
            | Self::Destination(id)
            | Self::Probe(id)
            | Self::Report(id)
            | Self::Status(id) => Some(id),
            _ => None,
        }
    }

    /// Whether any web page may use the route, because the response has no data about streams. The front page repeats `Host` in its commands.
    #[must_use]
    pub(crate) fn is_public(&self) -> bool {
        matches!(self, Self::Ping | Self::Health | Self::Ready | Self::OpenApi)
    }

    /// Whether the method is `GET` or `HEAD`.
    #[must_use]
    pub(crate) fn is_read(&self) -> bool {
        !matches!(self, Self::Create | Self::Source(_) | Self::Report(_))
    }

    /// Whether the request creates a stream, takes a seat or ends a stream.
    #[must_use]
    pub(crate) fn has_effect(&self) -> bool {
        matches!(self, Self::Create | Self::Source(_) | Self::Destination(_) | Self::Report(_))
    }

    /// Returns the routes of a path, one for each supported method except `HEAD`.
    pub(crate) fn of_path(path: &str) -> impl Iterator<Item = Self> {
        [Method::GET, Method::PUT, Method::POST]
            .into_iter()
            .filter_map(move |method| Self::parse(&method, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_with_and_without_a_trailing_slash() {
        let id = || StreamId::parse("a-B_1").unwrap();
        for (method, path, route) in [
            (Method::POST, "/stream", Route::Create),
            (Method::GET, "/stream", Route::List),
            (Method::HEAD, "/stream", Route::List),
            (Method::PUT, "/stream/a-B_1", Route::Source(id())),
            (Method::GET, "/stream/a-B_1", Route::Destination(id())),
            (Method::HEAD, "/stream/a-B_1", Route::Probe(id())),
            (Method::POST, "/stream/a-B_1/error", Route::Report(id())),
            (Method::GET, "/stream/a-B_1/status", Route::Status(id())),
            (Method::HEAD, "/stream/a-B_1/status", Route::Status(id())),
            (Method::GET, "/ping", Route::Ping),
            (Method::HEAD, "/ping", Route::Ping),
            (Method::GET, "/healthz", Route::Health),
            (Method::HEAD, "/readyz", Route::Ready),
            (Method::GET, "/openapi.json", Route::OpenApi),
            (Method::GET, "/metrics", Route::Metrics),
            (Method::HEAD, "/metrics", Route::Metrics),
        ] {
            assert_eq!(Route::parse(&method, path), Some(route.clone()), "{method} {path}");
            assert_eq!(Route::parse(&method, &format!("{path}/")), Some(route), "{method} {path}/");
        }
    }

    #[test]
    fn the_root_is_the_front_page() {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(Route::parse(&method, "/"), Some(Route::Front));
        }
    }

    #[test]
    fn a_path_has_a_route_for_each_of_its_methods() {
        let id = || StreamId::parse("a").unwrap();
        for (path, routes) in [
            ("/stream", vec![Route::List, Route::Create]),
            ("/stream/a", vec![Route::Destination(id()), Route::Source(id())]),
            ("/stream/a/error", vec![Route::Report(id())]),
            ("/ping/", vec![Route::Ping]),
            ("/", vec![Route::Front]),
            ("/nowhere", vec![]),
        ] {
            assert_eq!(Route::of_path(path).collect::<Vec<_>>(), routes, "{path}");
        }
    }

    #[test]
    fn other_methods_and_paths_are_no_routes() {
        for (method, path) in [
            (Method::PUT, "/"),
            (Method::GET, "//"),
            (Method::GET, ""),
            (Method::GET, "*"),
            (Method::GET, "//ping"),
            (Method::GET, "/ping//"),
            (Method::GET, "/PING"),
            (Method::GET, "/%70ing"),
            (Method::POST, "/ping"),
            (Method::PUT, "/stream"),
            (Method::DELETE, "/stream/a"),
            (Method::POST, "/stream/a"),
            (Method::GET, "/stream//"),
            (Method::GET, "/stream/a.b"),
            (Method::GET, "/stream/%00"),
            (Method::GET, "/stream/a/error"),
            (Method::POST, "/stream/a/status"),
            (Method::GET, "/stream/a/foo"),
            (Method::GET, "/x/stream"),
            (Method::OPTIONS, "/stream"),
        ] {
            assert_eq!(Route::parse(&method, path), None, "{method} {path}");
        }
    }
}
