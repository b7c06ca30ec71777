//! Who may do what that concerns no stream of theirs, and where; and how a token is given. Pure.

use rendezvous_core::token::{AuthError, Credential, Token};

use super::connection::{Audience, Entrance};
use super::head::RequestHead;
use super::route::Route;

/// The rules of one server.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// Needed to make a stream.
    pub create_token: Option<Token>,
    /// Needed to see the list and the metrics.
    pub admin_token: Option<Token>,
    /// Everybody who can reach the server may see them.
    pub open_list: bool,
    /// The operators have a listener of their own.
    pub has_admin_listener: bool,
    /// Some clients come through trusted proxies.
    pub has_proxies: bool,
}

impl Access {
    /// Whether there is such a route for those who come in here.
    #[must_use]
    pub(crate) fn serves(&self, entrance: Entrance, route: &Route) -> bool {
        let is_operators = matches!(route, Route::List | Route::Metrics | Route::Health | Route::Ready);
        match entrance.audience {
            Audience::Operators => is_operators || matches!(route, Route::Ping | Route::Describe),
            Audience::Clients => !(is_operators && self.has_admin_listener),
        }
    }

    /// Who may make a stream.
    #[must_use]
    pub(crate) fn creation(&self) -> Right<'_> {
        self.create_token.as_ref().map_or(Right::Everybody, Right::Token)
    }

    /// Who may see the list on this listener. It has the ids of all streams.
    #[must_use]
    pub(crate) fn list(&self, entrance: Entrance) -> Right<'_> {
        self.watch(entrance, LIST_IS_CLOSED)
    }

    /// Who may see the metrics on this listener. They have no ids, so the operators' listener shows them to all who reach it.
    #[must_use]
    pub(crate) fn metrics(&self, entrance: Entrance) -> Right<'_> {
        match self.watch(entrance, METRICS_ARE_CLOSED) {
            Right::Nobody(_) if entrance.audience == Audience::Operators => Right::Everybody,
            right => right,
        }
    }

    fn watch(&self, entrance: Entrance, closed: &'static str) -> Right<'_> {
        // A proxy on this machine brings in anybody.
        let may_be_a_proxy = self.has_proxies && entrance.audience == Audience::Clients;
        match &self.admin_token {
            Some(token) => Right::Token(token),
            None if self.open_list => Right::Everybody,
            None if entrance.is_loopback && !may_be_a_proxy => Right::Machine,
            None => Right::Nobody(closed),
        }
    }
}

const LIST_IS_CLOSED: &str = "The list has the ids of all streams: start the server with --admin-token-file to show it to requests \
                              with that token, or with --open-list to show it to everybody";
const METRICS_ARE_CLOSED: &str = "The metrics are not for everybody: start the server with --admin-listen to show them on a listener of \
                                  their own, with --admin-token-file to show them to requests with that token, or with --open-list \
                                  to show them to everybody";

/// Who has a right, on one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right<'a> {
    /// Everybody who reaches the listener.
    Everybody,
    /// The same, where only programs of this machine reach it.
    Machine,
    /// Requests with this token.
    Token(&'a Token),
    /// Nobody. With what to tell them.
    Nobody(&'static str),
}

impl Right<'_> {
    /// Whether a request that gives this has it.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] or [`AuthError::Forbidden`].
    pub(crate) fn check(self, given: Option<Credential<'_>>) -> Result<(), AuthError> {
        match self {
            Self::Everybody | Self::Machine => Ok(()),
            Self::Token(token) => token.check(given),
            Self::Nobody(why) => Err(AuthError::Forbidden(why)),
        }
    }
}

/// Refuses a prefetch: a browser that fetches what its user may open next would use the stream up.
///
/// # Errors
/// [`AuthError::Forbidden`]
pub(crate) fn check_purpose(head: &impl RequestHead) -> Result<(), AuthError> {
    let mut purposes = ["sec-purpose", "purpose", "x-moz"].into_iter().flat_map(|name| head.values(name));
    if purposes.any(is_prefetch) {
        return Err(AuthError::Forbidden(
            "A stream is used once, so it cannot be prefetched: send the request again without prefetching",
        ));
    }
    Ok(())
}

/// Whether `prefetch` is among these purposes, each of which may have parameters: `prefetch;prerender`.
fn is_prefetch(purposes: &[u8]) -> bool {
    let mut names = purposes.split(|byte| b",;".contains(byte));
    names.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"prefetch"))
}

/// The token that a request gives: as `Authorization: Bearer …`, or else as the first `token` in its query.
pub(crate) fn credential<'a>(
    authorizations: impl IntoIterator<Item = &'a [u8]>,
    query: Option<&'a str>,
) -> Option<Credential<'a>> {
    let bearer = authorizations.into_iter().find_map(bearer);
    bearer.or_else(|| in_query(query?)).and_then(Credential::new)
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
    use rendezvous_protocol::StreamId;

    use super::*;

    fn entrances() -> impl Iterator<Item = Entrance> {
        [Audience::Clients, Audience::Operators]
            .into_iter()
            .flat_map(|audience| [true, false].map(|is_loopback| Entrance { audience, is_loopback }))
    }

    #[test]
    fn a_token_is_given_by_the_header_or_else_by_the_query() {
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
    fn what_is_the_operators_moves_to_their_listener() {
        let (moved, stayed) = (Access { has_admin_listener: true, ..Access::default() }, Access::default());
        let id = StreamId::parse("a").unwrap();
        let theirs = [Route::List, Route::Metrics, Route::Health, Route::Ready];
        let others = [
            Route::Create,
            Route::Source(id.clone()),
            Route::Destination(id.clone()),
            Route::Probe(id.clone()),
            Route::Report(id.clone()),
            Route::Status(id),
        ];
        for entrance in entrances() {
            let is_theirs = entrance.audience == Audience::Operators;
            assert!(theirs.iter().all(|route| moved.serves(entrance, route) == is_theirs));
            assert!(others.iter().all(|route| moved.serves(entrance, route) != is_theirs));
            assert!(theirs.iter().all(|route| stayed.serves(entrance, route)));
            assert!([Route::Ping, Route::Describe].iter().all(|route| moved.serves(entrance, route)));
        }
    }

    #[test]
    fn the_list_is_for_this_machine_or_whom_the_flags_name() {
        let token = Token::parse("secret-16-bytes-x").unwrap();
        for entrance in entrances() {
            let seen =
                |access: Access| (access.list(entrance).check(None), access.metrics(entrance).check(None));
            let (is_near, is_operators) = (entrance.is_loopback, entrance.audience == Audience::Operators);

            let (list, metrics) = seen(Access::default());
            assert_eq!((list.is_ok(), metrics.is_ok()), (is_near, is_near || is_operators), "{entrance:?}");
            let (list, metrics) = seen(Access { has_proxies: true, ..Access::default() });
            assert_eq!(
                (list.is_ok(), metrics.is_ok()),
                (is_near && is_operators, is_operators),
                "{entrance:?}"
            );

            let open = Access { open_list: true, has_proxies: true, ..Access::default() };
            assert_eq!(seen(open), (Ok(()), Ok(())));
            let held = Access { admin_token: Some(token.clone()), open_list: true, ..Access::default() };
            assert_eq!(held.list(entrance).check(Credential::new(b"secret-16-bytes-x")), Ok(()));
            assert_eq!(seen(held), (Err(AuthError::Unauthorized), Err(AuthError::Unauthorized)));
        }
    }
}
