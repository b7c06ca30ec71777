//! Which web pages of other origins may use the server (CORS, as the Fetch standard has it). Pure.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method};

use super::peer::{Audience, Entrance};
use crate::config::CorsOrigin;

/// Seconds for which a browser may keep the answer to a preflight; they keep none longer than two hours.
const MAX_AGE: u64 = 2 * 60 * 60;

/// The rules of one server. Without origins it knows nothing of CORS.
#[derive(Debug, Default)]
pub struct Cors {
    origins: Vec<CorsOrigin>,
}

/// The origin of a page that may, as answers to it name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant(HeaderValue);

impl Cors {
    /// Pages of these origins may.
    #[must_use]
    pub fn new(origins: Vec<CorsOrigin>) -> Self {
        Self { origins }
    }

    /// Whether any page may.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.origins.is_empty()
    }

    /// What the page that made this request is granted, if it was one and it may. What is the operators' is for no
    /// page.
    #[must_use]
    pub fn grant(&self, entrance: Entrance, request: &HeaderMap) -> Option<Grant> {
        let origin = request.get(ORIGIN).filter(|_| entrance.audience == Audience::Clients)?;
        if self.origins.contains(&CorsOrigin::Any) {
            return Some(Grant(HeaderValue::from_static("*")));
        }
        let is_this = |allowed: &CorsOrigin| matches!(allowed, CorsOrigin::This(text) if text.as_bytes() == origin.as_bytes());
        self.origins.iter().any(is_this).then(|| Grant(origin.clone()))
    }
}

impl Grant {
    /// Puts the grant on an answer; what is there already, because the stream's maker wants it so, stays.
    pub fn put_on(&self, answer: &mut HeaderMap) {
        if self.0 != "*" {
            vary_by_origin(answer);
        }
        answer.entry(ACCESS_CONTROL_ALLOW_ORIGIN).or_insert_with(|| self.0.clone());
        answer.entry(ACCESS_CONTROL_EXPOSE_HEADERS).or_insert(HeaderValue::from_static("*"));
    }
}

/// Whether a browser asks by this request what a page may.
#[must_use]
pub fn is_preflight(method: &Method, request: &HeaderMap) -> bool {
    *method == Method::OPTIONS && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What the answer to a preflight says besides the grant.
#[must_use]
pub fn preflight(request: &HeaderMap) -> HeaderMap {
    let mut answer = HeaderMap::new();
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, PUT, POST"));
    if let Some(asked) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
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
    use super::*;

    const CLIENTS: Entrance = Entrance { audience: Audience::Clients, is_loopback: true };

    fn granted(allowed: &[&str], origin: &str) -> Option<Grant> {
        let cors = Cors::new(allowed.iter().map(|origin| origin.parse().unwrap()).collect());
        let request = HeaderMap::from_iter([(ORIGIN, HeaderValue::from_str(origin).unwrap())]);
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
        assert_eq!(Cors::new(vec![CorsOrigin::Any]).grant(CLIENTS, &HeaderMap::new()), None, "no page asks");
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
}
