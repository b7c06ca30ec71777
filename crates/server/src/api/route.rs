//! The routes (docs/api.md, section 2) and their parser.

use http::Method;
use rendezvous_protocol::{BadPath, PathName, StreamId, StreamName};

/// A route, with the stream that its path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `POST /stream`.
    Create,
    /// `GET /stream`.
    List,
    /// `GET /events`.
    ListEvents,
    /// `PUT /stream/:id`, `PUT /p/:path` or `POST /p/:path`.
    Source(StreamName),
    /// `GET /stream/:id` or `GET /p/:path`.
    Destination(StreamName),
    /// `HEAD /stream/:id` or `HEAD /p/:path`.
    Probe(StreamName),
    /// `POST /stream/:id/error`.
    Report(StreamId),
    /// `GET /stream/:id/status`.
    Status(StreamId),
    /// `GET /stream/:id/events`.
    Events(StreamId),
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

/// Why a method and a path are no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    /// No route has them.
    #[error("No endpoint exists for the specified method and/or route")]
    Unknown,
    /// They would be a named path, but its name is invalid.
    #[error(transparent)]
    BadPath(#[from] BadPath),
    /// They are a named path, but `n` in the query is not 1.
    #[error("A path has one destination: send the request without n, or with n=1")]
    SeveralDestinations,
}

impl Route {
    /// Parses a method and a path. `HEAD` matches every `GET` route.
    ///
    /// # Errors
    /// [`RouteError::Unknown`] if no route matches, [`RouteError::BadPath`] if the name of a path is invalid.
    pub(crate) fn parse(method: &Method, path: &str) -> Result<Self, RouteError> {
        if let Some(name) = path.strip_prefix("/p/") {
            return Self::of_named_path(method, name);
        }
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        if path == "/" && is_read {
            return Ok(Self::Front);
        }
        let path = path.strip_prefix('/').ok_or(RouteError::Unknown)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let id = StreamId::parse;
        let stream = |text| id(text).map(StreamName::Id);
        let route = match *path.split('/').collect::<Vec<_>>() {
            ["ping"] if is_read => Some(Self::Ping),
            ["healthz"] if is_read => Some(Self::Health),
            ["readyz"] if is_read => Some(Self::Ready),
            ["openapi.json"] if is_read => Some(Self::OpenApi),
            ["metrics"] if is_read => Some(Self::Metrics),
            ["events"] if is_read => Some(Self::ListEvents),
            ["stream"] if is_read => Some(Self::List),
            ["stream"] if method == Method::POST => Some(Self::Create),
            ["stream", name] if method == Method::PUT => stream(name).map(Self::Source),
            ["stream", name] if method == Method::GET => stream(name).map(Self::Destination),
            ["stream", name] if method == Method::HEAD => stream(name).map(Self::Probe),
            ["stream", name, "status"] if is_read => id(name).map(Self::Status),
            ["stream", name, "events"] if is_read => id(name).map(Self::Events),
            ["stream", name, "error"] if method == Method::POST => id(name).map(Self::Report),
            _ => None,
        };
        route.ok_or(RouteError::Unknown)
    }

    /// Parses the part of a path behind `/p/`.
    fn of_named_path(method: &Method, name: &str) -> Result<Self, RouteError> {
        let route = match *method {
            Method::PUT | Method::POST => Self::Source,
            Method::GET => Self::Destination,
            Method::HEAD => Self::Probe,
            _ => return Err(RouteError::Unknown),
        };
        Ok(route(StreamName::Path(PathName::parse(name)?)))
    }

    /// Returns the name in logs, which contains no id and no path chosen by a client.
    #[must_use]
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Create => "POST /stream",
            Self::List => "GET /stream",
            Self::ListEvents => "GET /events",
            Self::Source(StreamName::Id(_)) => "PUT /stream/:id",
            Self::Destination(StreamName::Id(_)) => "GET /stream/:id",
            Self::Probe(StreamName::Id(_)) => "HEAD /stream/:id",
            Self::Source(StreamName::Path(_)) => "PUT /p/:path",
            Self::Destination(StreamName::Path(_)) => "GET /p/:path",
            Self::Probe(StreamName::Path(_)) => "HEAD /p/:path",
            Self::Events(_) => "GET /stream/:id/events",
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

    /// Returns the stream that the path names.
    #[must_use]
    pub(crate) fn stream(&self) -> Option<StreamName> {
        match self {
            Self::Source(name) | Self::Destination(name) | Self::Probe(name) => Some(name.clone()),
            Self::Report(id) | Self::Status(id) | Self::Events(id) => Some(StreamName::Id(id.clone())),
            _ => None,
        }
    }

    /// Returns whether the route is that of a named path.
    #[must_use]
    pub(crate) fn is_named_path(&self) -> bool {
        matches!(
            self,
            Self::Source(StreamName::Path(_))
                | Self::Destination(StreamName::Path(_))
                | Self::Probe(StreamName::Path(_))
        )
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
            .filter_map(move |method| Self::parse(&method, path).ok())
    }
}

/// Whether the body of a request is that of a source, also if it gets no seat.
#[must_use]
pub(crate) fn is_upload(method: &Method, path: &str) -> bool {
    *method == Method::PUT || *method == Method::POST && path.starts_with("/p/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_found_with_and_without_a_trailing_slash() {
        let id = || StreamId::parse("a-B_1").unwrap();
        let name = || StreamName::Id(id());
        let path = || StreamName::Path(PathName::parse("a/b").unwrap());
        for (method, path, route) in [
            (Method::POST, "/stream", Route::Create),
            (Method::GET, "/stream", Route::List),
            (Method::HEAD, "/stream", Route::List),
            (Method::PUT, "/stream/a-B_1", Route::Source(name())),
            (Method::GET, "/stream/a-B_1", Route::Destination(name())),
            (Method::HEAD, "/stream/a-B_1", Route::Probe(name())),
            (Method::PUT, "/p/a/b", Route::Source(path())),
            (Method::POST, "/p/a/b", Route::Source(path())),
            (Method::GET, "/p/a%2fb", Route::Destination(path())),
            (Method::HEAD, "/p/a/b", Route::Probe(path())),
            (Method::GET, "/events", Route::ListEvents),
            (Method::GET, "/stream/a-B_1/events", Route::Events(id())),
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
            assert_eq!(Route::parse(&method, path), Ok(route.clone()), "{method} {path}");
            assert_eq!(Route::parse(&method, &format!("{path}/")), Ok(route), "{method} {path}/");
        }
    }

    #[test]
    fn the_root_is_the_front_page() {
        for method in [Method::GET, Method::HEAD] {
            assert_eq!(Route::parse(&method, "/"), Ok(Route::Front));
        }
    }

    #[test]
    fn a_path_has_a_route_for_each_of_its_methods() {
        let id = || StreamId::parse("a").unwrap();
        let name = || StreamName::Id(id());
        let named = || StreamName::Path(PathName::parse("a").unwrap());
        for (path, routes) in [
            ("/stream", vec![Route::List, Route::Create]),
            ("/stream/a", vec![Route::Destination(name()), Route::Source(name())]),
            ("/p/a", vec![Route::Destination(named()), Route::Source(named()), Route::Source(named())]),
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
            (Method::GET, "/p"),
            (Method::GET, "/P/a"),
            (Method::DELETE, "/p/a"),
            (Method::OPTIONS, "/p/a"),
            (Method::POST, "/events"),
            (Method::PUT, "/stream/a/events"),
        ] {
            assert_eq!(Route::parse(&method, path), Err(RouteError::Unknown), "{method} {path}");
        }
        assert_eq!(Route::parse(&Method::GET, "/p/"), Err(BadPath::Length.into()));
        assert_eq!(Route::parse(&Method::PUT, "/p/a//b"), Err(BadPath::Segment.into()));
    }
}
