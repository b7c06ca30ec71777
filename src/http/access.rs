//! Who may do what that concerns no stream of theirs, and where; and how a token is given. Pure.

use super::head::RequestHead;
use super::peer::{Audience, Entrance};
use super::route::Route;
use crate::outcome::Refusal;
use crate::token::{Credential, Token};

/// The rules of one server.
#[derive(Debug, Default)]
pub struct Access {
    /// Needed to make a stream.
    pub create_token: Option<Token>,
    /// Needed to see the list and the metrics.
    pub admin_token: Option<Token>,
    /// Everybody who can reach the server may see them.
    pub open_list: bool,
    /// The operators have a listener of their own.
    pub has_admin_listener: bool,
}

impl Access {
    /// Whether there is such a route for those who come in here.
    #[must_use]
    pub fn serves(&self, entrance: Entrance, route: &Route) -> bool {
        let is_operators = matches!(route, Route::List | Route::Metrics | Route::Health | Route::Ready);
        match entrance.audience {
            Audience::Operators => is_operators || matches!(route, Route::Ping | Route::Describe),
            Audience::Clients => !(is_operators && self.has_admin_listener),
        }
    }

    /// Whether a client that gives this may make a stream.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] or [`Refusal::Forbidden`].
    pub fn may_create(&self, given: Option<Credential<'_>>) -> Result<(), Refusal> {
        self.create_token.as_ref().map_or(Ok(()), |token| token.check(given))
    }

    /// Whether a client that came in here and gives this may see the list and the metrics.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] or [`Refusal::Forbidden`].
    pub fn may_list(&self, entrance: Entrance, given: Option<Credential<'_>>) -> Result<(), Refusal> {
        let is_trusted = self.open_list || entrance.is_loopback || entrance.audience == Audience::Operators;
        match &self.admin_token {
            Some(token) => token.check(given),
            None if is_trusted => Ok(()),
            None => Err(Refusal::Forbidden(
                "The list and the metrics tell of all streams: start the server with --admin-token-file to show them to \
                 who has that token, or with --open-list to show them to everybody",
            )),
        }
    }
}

/// Refuses a prefetch: a browser that fetches what its user may open next would use the stream up.
///
/// # Errors
/// [`Refusal::Forbidden`]
pub fn check_purpose(head: &impl RequestHead) -> Result<(), Refusal> {
    let mut purposes = ["sec-purpose", "purpose", "x-moz"].into_iter().flat_map(|name| head.values(name));
    if purposes.any(is_prefetch) {
        return Err(Refusal::Forbidden(
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
pub fn credential<'a>(
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
    use super::*;
    use crate::id::StreamId;

    fn entrances() -> impl Iterator<Item = Entrance> {
        [Audience::Clients, Audience::Operators]
            .into_iter()
            .flat_map(|audience| [true, false].map(|is_loopback| Entrance { audience, is_loopback }))
    }

    #[test]
    fn a_token_is_given_by_the_header_or_else_by_the_query() {
        let token = Token::parse("secret").unwrap();
        for (authorizations, query, verdict) in [
            (vec![], None, "none"),
            (vec![], Some("token=secret"), "right"),
            (vec![], Some("x=1&token=secret&token=other"), "right"),
            (vec![], Some("token=other&token=secret"), "wrong"),
            (vec![], Some("token&token=secret"), "none"),
            (vec![], Some("token="), "none"),
            (vec![], Some("Token=secret&tokens=secret"), "none"),
            (vec!["Bearer secret"], None, "right"),
            (vec!["bEARER   secret"], Some("token=other"), "right"),
            (vec!["Bearer other"], Some("token=secret"), "wrong"),
            (vec!["Bearer"], None, "none"),
            (vec!["Bearer "], Some("token=secret"), "none"),
            (vec!["Basic secret"], None, "none"),
            (vec!["Basic secret"], Some("token=secret"), "right"),
            (vec!["Basic x", "Bearer secret", "Bearer other"], None, "right"),
            (vec!["Bearersecret"], None, "none"),
            (vec!["secret"], None, "none"),
        ] {
            let given = credential(authorizations.iter().map(|value| value.as_bytes()), query);
            let seen = match token.check(given) {
                Ok(()) => "right",
                Err(Refusal::Unauthorized) => "none",
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
    fn the_list_is_for_who_is_near_or_trusted_or_has_the_token() {
        let token = Token::parse("secret").unwrap();
        for entrance in entrances() {
            let is_near = entrance.is_loopback || entrance.audience == Audience::Operators;
            assert_eq!(Access::default().may_list(entrance, None).is_ok(), is_near, "{entrance:?}");
            let open = Access { open_list: true, ..Access::default() };
            assert_eq!(open.may_list(entrance, None), Ok(()));
            let held = Access { admin_token: Some(token.clone()), open_list: true, ..Access::default() };
            assert_eq!(held.may_list(entrance, None), Err(Refusal::Unauthorized));
            assert_eq!(held.may_list(entrance, Credential::new(b"secret")), Ok(()));
        }
    }
}
