//! The authorization of requests by listener and by server token, and the parsing of credentials (docs/api.md, section 2, "Rights").
//!
//! Pure. The table of streams checks the tokens of a stream.

use rendezvous_core::token::{AuthError, Credential, Token};

use super::connection::{Audience, ListenerInfo};
use super::head::RequestHead;
use super::route::Route;

/// The authorization rules of a server.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// The token that `POST /stream` needs (`--create-token-file`). Default: `None`, no token is needed.
    pub create_token: Option<Token>,
    /// The token that the list and the metrics need (`--admin-token-file`). Default: `None`.
    pub admin_token: Option<Token>,
    /// Whether the list and the metrics are public (`--open-list`). The admin token takes precedence. Default: false.
    pub open_list: bool,
    /// Whether there is an admin listener (`--admin-listen`). If so, the list, metrics and health routes are served only there.
    pub has_admin_listener: bool,
    /// Whether there are trusted proxies (`--trusted-proxy`).
    pub has_proxies: bool,
}

impl Access {
    /// Whether this listener serves the route.
    #[must_use]
    pub(crate) fn serves(&self, listener: ListenerInfo, route: &Route) -> bool {
        let is_admin_route =
            matches!(route, Route::List | Route::ListEvents | Route::Metrics | Route::Health | Route::Ready);
        match listener.audience {
            Audience::Operators => is_admin_route || matches!(route, Route::Ping | Route::OpenApi),
            Audience::Clients => !(is_admin_route && self.has_admin_listener),
            Audience::Nodes => !matches!(
                route,
                Route::Front | Route::Metrics | Route::Health | Route::Ready | Route::OpenApi
            ),
        }
    }

    /// Returns the right to create a stream.
    #[must_use]
    pub(crate) fn creation(&self) -> Right<'_> {
        self.create_token.as_ref().map_or(Right::Everybody, Right::Token)
    }

    /// Returns the right to get the list on this listener. The list has the ids of all streams.
    #[must_use]
    pub(crate) fn list(&self, listener: ListenerInfo) -> Right<'_> {
        self.monitoring(listener, LIST_IS_CLOSED)
    }

    /// Returns the right to get the metrics on this listener. They have no ids, so without an admin token they are public on the admin
    /// listener.
    #[must_use]
    pub(crate) fn metrics(&self, listener: ListenerInfo) -> Right<'_> {
        match self.monitoring(listener, METRICS_ARE_CLOSED) {
            Right::Nobody(_) if listener.audience == Audience::Operators => Right::Everybody,
            right => right,
        }
    }

    /// Returns the right to get the list or the metrics. `closed` is the message to clients without it.
    fn monitoring(&self, listener: ListenerInfo, closed: &'static str) -> Right<'_> {
        if listener.audience == Audience::Nodes {
            return Right::Everybody;
        }
        // A proxy on this machine forwards requests of remote clients over loopback.
        let may_be_a_proxy = self.has_proxies && listener.audience == Audience::Clients;
        match &self.admin_token {
            Some(token) => Right::Token(token),
            None if self.open_list => Right::Everybody,
            None if listener.is_loopback && !may_be_a_proxy => Right::Machine,
            None => Right::Nobody(closed),
        }
    }
}

const LIST_IS_CLOSED: &str = "The list is not public, because it has the ids of all streams: start the server with \
                              --admin-token-file to show it to requests with that token, or with --open-list to make it public";
const METRICS_ARE_CLOSED: &str = "The metrics are not public: start the server with --admin-listen to serve them on a separate listener, \
                                  with --admin-token-file to show them to requests with that token, or with --open-list to make \
                                  them public";

/// The requests on a listener that have a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right<'a> {
    /// All requests.
    Everybody,
    /// All requests, on a listener that only programs on this machine can reach.
    Machine,
    /// Requests with this token.
    Token(&'a Token),
    /// No request. The text is the error message.
    Nobody(&'static str),
}

impl Right<'_> {
    /// Checks whether a request with this credential has the right.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] without a needed token, [`AuthError::Forbidden`] with a wrong one or if no request has the right.
    pub(crate) fn check(self, credential: Option<Credential<'_>>) -> Result<(), AuthError> {
        match self {
            Self::Everybody | Self::Machine => Ok(()),
            Self::Token(token) => token.check(credential),
            Self::Nobody(message) => Err(AuthError::Forbidden(message)),
        }
    }
}

/// Refuses a prefetch. A browser that fetches a link before its user opens it would use up the stream.
///
/// # Errors
/// [`AuthError::Forbidden`] if a field in which browsers send the purpose of a request contains `prefetch`.
pub(crate) fn check_purpose(head: &impl RequestHead) -> Result<(), AuthError> {
    let mut purposes = ["sec-purpose", "purpose", "x-moz"].into_iter().flat_map(|name| head.values(name));
    if purposes.any(is_prefetch) {
        return Err(AuthError::Forbidden(
            "A stream is used once, so it cannot be prefetched: send the request again without prefetching",
        ));
    }
    Ok(())
}

/// Whether a list of purposes contains `prefetch`. Each may have parameters, as in `prefetch;prerender`.
fn is_prefetch(purposes: &[u8]) -> bool {
    let mut names = purposes.split(|byte| b",;".contains(byte));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"prefetch"))
}

/// Returns the credential of a request: from `Authorization: Bearer …` (RFC 6750, section 2.1), otherwise from the first `token` in the
/// query.
pub(crate) fn credential<'a>(
    authorizations: impl IntoIterator<Item = &'a [u8]>,
    query: Option<&'a str>,
) -> Option<Credential<'a>> {
    token(authorizations, query).and_then(Credential::new)
}

/// Returns the bytes of the [`credential`].
pub(crate) fn token<'a>(
    authorizations: impl IntoIterator<Item = &'a [u8]>,
    query: Option<&'a str>,
) -> Option<&'a [u8]> {
    let bearer = authorizations.into_iter().find_map(bearer);
    bearer.or_else(|| in_query(query?))
}

fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let scheme_end = authorization.iter().position(|byte| *byte == b' ').unwrap_or(authorization.len());
    let (scheme, token) = authorization.split_at(scheme_end);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| token.trim_ascii())
}

fn in_query(query: &str) -> Option<&[u8]> {
    let mut parameters = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    parameters.find(|(name, _)| *name == "token").map(|(_, token)| token.as_bytes())
}

#[cfg(test)]
mod tests {
    use rendezvous_protocol::{PathName, StreamId, StreamName};

    use super::*;

    fn path() -> StreamName {
        StreamName::Path(PathName::parse("a").unwrap())
    }

    fn listeners() -> impl Iterator<Item = ListenerInfo> {
        [Audience::Clients, Audience::Operators]
            .into_iter()
            .flat_map(|audience| [true, false].map(|is_loopback| ListenerInfo { audience, is_loopback }))
    }

    #[test]
    fn the_token_is_taken_from_the_header_or_else_from_the_query() {
        let token = Token::parse("secret-16-bytes-x").unwrap();
        for (authorizations, query, verdict) in [
            (vec![], None, "none"),
            (vec![], Some("token=secret-16-bytes-x"), "right"),
            (vec![], Some("x=1&token=secret-16-bytes-x&token=other"), "right"),
            (vec![], Some("token=other&token=secret-16-bytes-x"), "wrong"),
            (vec![], Some("token&token=secret-16-bytes-x"), "none"),
            (vec![], Some("token="), "none"),
            (vec![], Some("Token=secret-16-bytes-x&tokens=secret-16-bytes-x"), "none"),
            (vec!["Bearer secret-16-bytes-x"], None, "right"),
            (vec!["bEARER   secret-16-bytes-x"], Some("token=other"), "right"),
            (vec!["Bearer other"], Some("token=secret-16-bytes-x"), "wrong"),
            (vec!["Bearer"], None, "none"),
            (vec!["Bearer "], Some("token=secret-16-bytes-x"), "none"),
            (vec!["Basic secret-16-bytes-x"], None, "none"),
            (vec!["Basic secret-16-bytes-x"], Some("token=secret-16-bytes-x"), "right"),
            (vec!["Basic x", "Bearer secret-16-bytes-x", "Bearer other"], None, "right"),
            (vec!["Bearersecret-16-bytes-x"], None, "none"),
            (vec!["secret-16-bytes-x"], None, "none"),
        ] {
            let given = credential(authorizations.iter().map(|value| value.as_bytes()), query);
            let seen = match token.check(given) {
                Ok(()) => "right",
                Err(AuthError::Unauthorized) => "none",
                Err(_) => "wrong",
            };
            assert_eq!(seen, verdict, "{authorizations:?} {query:?}");
        }
    }

    #[test]
    fn a_prefetch_is_found_in_every_field_that_browsers_send() {
        for (name, value, is_prefetch) in [
            ("sec-purpose", "prefetch", true),
            ("Sec-Purpose", "prefetch;prerender", true),
            ("sec-purpose", "prefetch;anonymous-client-ip", true),
            ("sec-purpose", "Prefetch ; prerender", true),
            ("sec-purpose", "other, prefetch", true),
            ("purpose", "prefetch", true),
            ("x-moz", "prefetch", true),
            ("sec-purpose", "", false),
            ("sec-purpose", "prefetched", false),
            ("purpose", "pre fetch", false),
            ("x-purpose-of-this", "prefetch", false),
        ] {
            let request = http::Request::builder().header(name, value).body(()).unwrap();
            assert_eq!(check_purpose(&request).is_err(), is_prefetch, "{name}: {value}");
        }
        let twice = http::Request::builder().header("purpose", "a").header("purpose", "prefetch");
        assert!(check_purpose(&twice.body(()).unwrap()).is_err());
    }

    #[test]
    fn admin_routes_move_to_the_admin_listener() {
        let (moved, stayed) = (Access { has_admin_listener: true, ..Access::default() }, Access::default());
        let id = StreamId::parse("a").unwrap();
        let name = || StreamName::Id(id.clone());
        let admin_routes = [Route::List, Route::ListEvents, Route::Metrics, Route::Health, Route::Ready];
        let stream_routes = [
            Route::Create,
            Route::Source(name()),
            Route::Destination(name()),
            Route::Probe(name()),
            Route::Report(id.clone()),
            Route::Status(id.clone()),
            Route::Events(id.clone()),
            Route::Destination(path()),
        ];
        for listener in listeners() {
            let is_admin = listener.audience == Audience::Operators;
            assert!(admin_routes.iter().all(|route| moved.serves(listener, route) == is_admin));
            assert!(stream_routes.iter().all(|route| moved.serves(listener, route) != is_admin));
            assert!(admin_routes.iter().all(|route| stayed.serves(listener, route)));
            assert!([Route::Ping, Route::OpenApi].iter().all(|route| moved.serves(listener, route)));
        }
    }

    #[test]
    fn the_list_is_for_this_machine_or_for_the_clients_that_the_flags_allow() {
        let token = Token::parse("secret-16-bytes-x").unwrap();
        for listener in listeners() {
            let seen =
                |access: Access| (access.list(listener).check(None), access.metrics(listener).check(None));
            let (is_local, is_admin) = (listener.is_loopback, listener.audience == Audience::Operators);

            let (list, metrics) = seen(Access::default());
            assert_eq!((list.is_ok(), metrics.is_ok()), (is_local, is_local || is_admin), "{listener:?}");
            let (list, metrics) = seen(Access { has_proxies: true, ..Access::default() });
            assert_eq!((list.is_ok(), metrics.is_ok()), (is_local && is_admin, is_admin), "{listener:?}");

            let open = Access { open_list: true, has_proxies: true, ..Access::default() };
            assert_eq!(seen(open), (Ok(()), Ok(())));
            let held = Access { admin_token: Some(token.clone()), open_list: true, ..Access::default() };
            assert_eq!(held.list(listener).check(Credential::new(b"secret-16-bytes-x")), Ok(()));
            assert_eq!(seen(held), (Err(AuthError::Unauthorized), Err(AuthError::Unauthorized)));
        }
    }
}
