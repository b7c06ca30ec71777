//! Which web pages of other origins may use the server (CORS, as the Fetch standard has it). Pure.
//!
//! A browser sends many cross-origin requests without a preflight and only hides the response from the page. Such a request can
//! still make a stream or use one up. So requests from pages of another site are refused unless their origin is allowed. They are
//! recognized by `Origin` and `Sec-Fetch-Site`, which a page cannot set, and which other clients do not send.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Uri};
use rendezvous_core::token::AuthError;

use super::connection::{Audience, Entrance};
use super::head::RequestHead;
use super::route::Route;
use crate::config::CorsOrigin;

/// How the page that sends the request relates to the server: `cross-site`, `same-site`, `same-origin`, or `none` for the user.
const SEC_FETCH_SITE: &str = "sec-fetch-site";
/// `navigate` where the response is shown or saved, and not given to a page.
const SEC_FETCH_MODE: &str = "sec-fetch-mode";

/// Seconds for which a browser may keep the answer to a preflight; they keep none longer than two hours.
const MAX_AGE: u64 = 2 * 60 * 60;

/// The rules of one server. Without origins it knows nothing of CORS.
#[derive(Debug, Default)]
pub(crate) struct Cors {
    origins: Vec<CorsOrigin>,
}

/// The origin of a page that may, as answers to it name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant(HeaderValue);

impl Cors {
    /// Pages of these origins may.
    #[must_use]
    pub(crate) fn new(origins: Vec<CorsOrigin>) -> Self {
        Self { origins }
    }

    /// What the page that made this request is granted, if it was one and it may. What is the operators' is for no
    /// page.
    #[must_use]
    pub(crate) fn grant(&self, entrance: Entrance, head: &impl RequestHead) -> Option<Grant> {
        let mut origins = head.values("origin");
        let origin = origins.next().filter(|_| entrance.audience == Audience::Clients)?;
        if self.allows_any() {
            return Some(Grant(HeaderValue::from_static("*")));
        }
        let is_this =
            |allowed: &CorsOrigin| matches!(allowed, CorsOrigin::This(text) if text.as_bytes() == origin);
        let is_granted = self.origins.iter().any(is_this) && origins.next().is_none();
        is_granted.then(|| HeaderValue::from_bytes(origin).ok().map(Grant)).flatten()
    }

    /// Checks whether a page of the request's origin may use a route. Of a repeated field every value must pass.
    ///
    /// A page of the same site (another port, another subdomain) is judged by its `Origin` alone. Browsers leave that out only of
    /// requests that change nothing but the use of an id, and the page must know the id.
    ///
    /// # Errors
    /// [`AuthError::Forbidden`]
    pub(crate) fn check(
        &self,
        entrance: Entrance,
        route: &Route,
        head: &impl RequestHead,
    ) -> Result<(), AuthError> {
        let is_allowed = || {
            let is_any = self.allows_any() && entrance.audience == Audience::Clients;
            is_any || self.grant(entrance, head).is_some()
        };
        if (is_of_another_site(route, head) || is_of_another_origin(head)) && !is_allowed() {
            return Err(AuthError::Forbidden(
                "This request is from a web page of another site: to allow it, start the server with --cors-origin ORIGIN. A proxy \
                 must pass on Host",
            ));
        }
        Ok(())
    }

    fn allows_any(&self) -> bool {
        self.origins.contains(&CorsOrigin::Any)
    }
}

/// Whether `Sec-Fetch-Site` says so. Following a link is up to the user, so navigations to `GET` routes pass.
fn is_of_another_site(route: &Route, head: &impl RequestHead) -> bool {
    let is_near = |site: &[u8]| [&b"same-origin"[..], b"same-site", b"none"].contains(&site);
    if head.values(SEC_FETCH_SITE).all(is_near) {
        return false;
    }
    let mut modes = head.values(SEC_FETCH_MODE).peekable();
    let navigates = modes.peek().is_some() && modes.all(|mode| mode == b"navigate");
    !(navigates && route.is_read())
}

/// Whether the request has an `Origin` that is not the server's own.
fn is_of_another_origin(head: &impl RequestHead) -> bool {
    head.values("origin").any(|origin| !is_own(origin, head))
}

/// Whether an origin has the host and the port that the request names. The scheme does not count: behind a proxy that ends TLS the
/// server does not know it.
fn is_own(origin: &[u8], head: &impl RequestHead) -> bool {
    let Ok(origin) = Uri::try_from(origin) else { return false };
    let (Some(scheme), Some(host)) = (origin.scheme_str(), origin.host()) else { return false };
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    let port = origin.port_u16().unwrap_or(usual);
    let mut named = head.authorities().peekable();
    named.peek().is_some()
        && named.all(|named| {
            named.is_some_and(|named| {
                named.host().eq_ignore_ascii_case(host) && named.port_u16().unwrap_or(usual) == port
            })
        })
}

impl Grant {
    /// Puts the grant on an answer; what is there already, because the stream's maker wants it so, stays.
    pub(crate) fn put_on(&self, answer: &mut HeaderMap) {
        if self.0 != "*" {
            vary_by_origin(answer);
        }
        answer.entry(ACCESS_CONTROL_ALLOW_ORIGIN).or_insert_with(|| self.0.clone());
        answer.entry(ACCESS_CONTROL_EXPOSE_HEADERS).or_insert(HeaderValue::from_static("*"));
    }
}

/// Whether a browser asks by this request what a page may.
#[must_use]
pub(crate) fn is_preflight(request: &impl RequestHead) -> bool {
    *request.method() == Method::OPTIONS && request.has(ACCESS_CONTROL_REQUEST_METHOD.as_str())
}

/// What the answer to a preflight says besides the grant.
#[must_use]
pub(crate) fn preflight(request: &impl RequestHead) -> HeaderMap {
    let mut answer = HeaderMap::new();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, PUT, POST"));
    let asked = request.values(ACCESS_CONTROL_REQUEST_HEADERS.as_str()).next();
    if let Some(asked) = asked.and_then(|asked| HeaderValue::from_bytes(asked).ok()) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
    }
    answer.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE.into());
    vary_by_origin(&mut answer);
    answer
}

fn vary_by_origin(answer: &mut HeaderMap) {
    let names_it = |value: &HeaderValue| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    };
    if !answer.get_all(VARY).iter().any(names_it) {
        answer.append(VARY, HeaderValue::from_static("Origin"));
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use rendezvous_protocol::StreamId;

    use super::*;

    const CLIENTS: Entrance = Entrance { audience: Audience::Clients, is_loopback: true };

    fn granted(allowed: &[&str], origin: &str) -> Option<Grant> {
        let cors = Cors::new(allowed.iter().map(|origin| origin.parse().unwrap()).collect());
        let request = Request::builder().header("origin", origin).body(()).unwrap();
        let operators = Entrance { audience: Audience::Operators, ..CLIENTS };
        assert_eq!(cors.grant(operators, &request), None);
        cors.grant(CLIENTS, &request)
    }

    #[test]
    fn only_the_origins_that_were_named_are_granted_anything() {
        let named = ["https://a.example", "http://localhost:3000"];
        for (allowed, origin, grant) in [
            (&named[..], "https://a.example", Some("https://a.example")),
            (&named[..], "http://localhost:3000", Some("http://localhost:3000")),
            (&named[..], "http://a.example", None),
            (&named[..], "https://a.example.evil.example", None),
            (&named[..], "https://a.example:444", None),
            (&named[..], "null", None),
            (&["*"][..], "https://a.example", Some("*")),
            (&["https://a.example", "*"][..], "null", Some("*")),
            (&[][..], "https://a.example", None),
        ] {
            let seen = granted(allowed, origin);
            assert_eq!(seen, grant.map(|grant| Grant(HeaderValue::from_str(grant).unwrap())), "{origin}");
        }
        assert_eq!(Cors::new(vec![CorsOrigin::Any]).grant(CLIENTS, &Request::new(())), None, "no page asks");
    }

    #[test]
    fn what_the_maker_of_a_stream_wants_stays() {
        let origin = "https://a.example";
        let put_on = |given: &[(&'static str, &'static str)]| {
            let lines = given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let mut answer: HeaderMap = lines.collect();
            granted(&[origin], origin).unwrap().put_on(&mut answer);
            let of = |name: &str| {
                let values = answer.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned());
                values.collect::<Vec<_>>().join(" | ")
            };
            [of("vary"), of("access-control-allow-origin"), of("access-control-expose-headers")]
        };
        assert_eq!(put_on(&[]), ["Origin", origin, "*"]);
        let given = [
            ("vary", "Accept, ORIGIN"),
            ("access-control-allow-origin", "https://b.example"),
            ("access-control-expose-headers", "X-A"),
        ];
        assert_eq!(put_on(&given), ["Accept, ORIGIN", "https://b.example", "X-A"]);
        assert_eq!(put_on(&[("vary", "Accept")])[0], "Accept | Origin");
    }

    /// Whether a request with these fields passes, by the name of `host`.
    fn passes(allowed: &[&str], route: &Route, host: &str, fields: &[(&str, &str)]) -> bool {
        let cors = Cors::new(allowed.iter().map(|origin| origin.parse().unwrap()).collect());
        let request = Request::builder().header("host", host);
        let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        cors.check(CLIENTS, route, &request.body(()).unwrap()).is_ok()
    }

    fn get() -> Route {
        Route::Destination(StreamId::parse("a").unwrap())
    }

    #[test]
    fn an_origin_is_own_where_host_and_port_are() {
        for (host, origin, own) in [
            ("relay.example", "https://relay.example", true),
            ("relay.example", "http://relay.example", true),
            ("Relay.Example", "https://relay.example", true),
            ("relay.example:443", "https://relay.example", true),
            ("relay.example:80", "http://relay.example", true),
            ("localhost:9999", "http://localhost:9999", true),
            ("[::1]:9999", "http://[::1]:9999", true),
            ("relay.example:80", "https://relay.example", false),
            ("relay.example", "https://relay.example:444", false),
            ("localhost:9999", "http://localhost:3000", false),
            ("localhost:9999", "http://127.0.0.1:9999", false),
            ("localhost:9999", "http://localhost", false),
            ("relay.example", "https://evil.example", false),
            ("relay.example", "https://relay.example.evil.example", false),
            ("relay.example", "https://evil.example@other.example", false),
            ("relay.example", "null", false),
            ("relay.example", "", false),
            ("relay.example", "relay.example", false),
            ("relay.example", "file://relay.example", false),
            ("", "https://relay.example", false),
        ] {
            assert_eq!(passes(&[], &Route::Create, host, &[("origin", origin)]), own, "{host} {origin}");
        }
    }

    #[test]
    fn of_repeated_fields_every_value_counts() {
        let (own, foreign) = (("origin", "http://a"), ("origin", "https://evil.example"));
        let (near, far) = (("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site"));
        let navigates = ("sec-fetch-mode", "navigate");
        for (fields, expected) in [
            (&[own, own][..], true),
            (&[own, foreign], false),
            (&[foreign, own], false),
            (&[near, near], true),
            (&[near, far], false),
            (&[far, near], false),
            (&[near, own, foreign], false),
            (&[far, navigates], true),
            (&[far, far, navigates, navigates], true),
            (&[far, navigates, ("sec-fetch-mode", "no-cors")], false),
            (&[("sec-fetch-site", "same-origin, cross-site")], false),
        ] {
            assert_eq!(passes(&[], &get(), "a", fields), expected, "{fields:?}");
        }
        let allowed = ("origin", "https://app.example");
        for (fields, expected) in [
            (&[allowed][..], true),
            (&[allowed, far], true),
            (&[allowed, foreign], false),
            (&[foreign, allowed], false),
        ] {
            assert_eq!(passes(&["https://app.example"], &get(), "a", fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn only_what_is_read_can_be_navigated_to_from_another_site() {
        let id = || StreamId::parse("a").unwrap();
        let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        for (route, expected) in [
            (Route::Destination(id()), true),
            (Route::Status(id()), true),
            (Route::List, true),
            (Route::Metrics, true),
            (Route::Create, false),
            (Route::Source(id()), false),
            (Route::Report(id()), false),
        ] {
            assert_eq!(passes(&[], &route, "a", &link), expected, "{route:?}");
            // A page that gets the answer is no user who follows a link.
            assert!(!passes(&[], &route, "a", &[link[0], ("sec-fetch-mode", "no-cors")]), "{route:?}");
            assert!(!passes(&[], &route, "a", &link[..1]), "{route:?}");
            assert!(passes(&["*"], &route, "a", &link[..1]), "{route:?}");
            for site in ["same-origin", "same-site", "none"] {
                assert!(passes(&[], &route, "a", &[("sec-fetch-site", site)]), "{route:?} {site}");
            }
        }
    }
}
