//! Computes the access rights and warnings that the server logs at its start. Pure.

use std::net::SocketAddr;

use crate::api::access::{Access, Right};
use crate::api::connection::{Audience, ListenerInfo};
use crate::api::route::Route;

/// The properties of a listener that decide on access to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BoundListener {
    pub(super) address: SocketAddr,
    pub(super) info: ListenerInfo,
    pub(super) has_tls: bool,
}

/// The access rights over all listeners, and warnings about likely misconfiguration.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exposure {
    /// The URLs of the listeners for clients, separated by commas.
    pub(super) clients: String,
    /// The URLs of the admin listener; empty if there is none, and operators use the listeners for clients.
    pub(super) operators: String,
    /// Which clients may create streams.
    pub(super) creation: &'static str,
    /// Which clients may list the streams.
    pub(super) list: &'static str,
    /// Which clients may read the metrics.
    pub(super) metrics: &'static str,
    /// Warnings, each with the flag that fixes its cause.
    pub(super) warnings: Vec<String>,
}

impl Exposure {
    /// Computes the rights over all `listeners`.
    pub(super) fn of(access: &Access, listeners: &[BoundListener]) -> Self {
        let serving = |route: Route| {
            listeners.iter().map(|listener| listener.info).filter(move |info| access.serves(*info, &route))
        };
        Self {
            clients: urls(listeners, Audience::Clients),
            operators: urls(listeners, Audience::Operators),
            creation: widest(serving(Route::Create).map(|_| access.creation())),
            list: widest(serving(Route::List).map(|info| access.list(info))),
            metrics: widest(serving(Route::Metrics).map(|info| access.metrics(info))),
            warnings: warnings(access, listeners),
        }
    }
}

fn urls(listeners: &[BoundListener], audience: Audience) -> String {
    let of_audience = listeners.iter().filter(|listener| listener.info.audience == audience);
    let url = |listener: &BoundListener| {
        format!("{}://{}", if listener.has_tls { "https" } else { "http" }, listener.address)
    };
    of_audience.map(url).collect::<Vec<_>>().join(",")
}

/// Returns the name of the widest right.
fn widest<'a>(rights: impl Iterator<Item = Right<'a>>) -> &'static str {
    let ranked = rights.map(|right| match right {
        Right::Nobody(_) => (0, "nobody"),
        Right::Token(_) => (1, "token"),
        Right::Machine => (2, "this machine"),
        Right::Everybody => (3, "everybody"),
    });
    ranked.max().map_or("nobody", |(_, name)| name)
}

fn warnings(access: &Access, listeners: &[BoundListener]) -> Vec<String> {
    let of = |audience| listeners.iter().filter(move |listener| listener.info.audience == audience);
    let is_public = |listener: &&BoundListener| !listener.info.is_loopback;
    let mut warnings = Vec::new();
    if let Some(BoundListener { address, .. }) = of(Audience::Clients).find(is_public) {
        // A trusted proxy usually terminates TLS, and a plain port beside one with TLS is intended.
        if !access.has_proxies && of(Audience::Clients).all(|listener| !listener.has_tls) {
            warnings.push(format!(
                "other machines reach {address} without TLS, so that ids, tokens and bodies can be read in transit: set --tls-cert \
                 and --tls-key, or name the proxy that terminates TLS with --trusted-proxy"
            ));
        }
        if access.creation() == Right::Everybody {
            warnings.push(format!(
                "everybody who reaches {address} may create streams: set --create-token-file to require a token"
            ));
        }
    }
    for BoundListener { address, info, .. } in listeners.iter().filter(is_public) {
        if access.serves(*info, &Route::List) && access.list(*info) == Right::Everybody {
            warnings.push(format!(
                "everybody who reaches {address} sees the ids of all streams: remove --open-list, or set --admin-token-file"
            ));
        }
    }
    if let Some(BoundListener { address, .. }) = of(Audience::Operators).find(is_public)
        && access.admin_token.is_some()
    {
        warnings.push(format!(
            "the admin token crosses the network in clear text, because {address} does not speak TLS: set --admin-listen to an address \
             that only operators reach"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use rendezvous_core::token::Token;

    use super::*;

    fn listener(address: &str, audience: Audience, has_tls: bool) -> BoundListener {
        let address: SocketAddr = address.parse().unwrap();
        let info = ListenerInfo { audience, is_loopback: address.ip().is_loopback() };
        BoundListener { address, info, has_tls }
    }

    #[test]
    fn a_public_listener_without_tls_or_token_causes_a_warning_with_the_flag_that_helps() {
        let token = Token::mint();
        let (near, far) = ("127.0.0.1:9999", "0.0.0.0:9999");
        let plain = |address: &str| vec![listener(address, Audience::Clients, false)];
        let secure = |address: &str| vec![listener(address, Audience::Clients, true)];
        let both =
            || vec![listener(far, Audience::Clients, true), listener("0.0.0.0:80", Audience::Clients, false)];
        let admin = || {
            vec![
                listener(near, Audience::Clients, false),
                listener("0.0.0.0:9998", Audience::Operators, false),
            ]
        };
        let (tls, create) = ("--tls-cert", "--create-token-file");
        for (listeners, has_proxies, has_token, flags) in [
            (plain(near), false, false, vec![]),
            (plain("[::1]:9999"), false, false, vec![]),
            (plain(far), false, false, vec![tls, create]),
            (plain("[::]:9999"), false, false, vec![tls, create]),
            (plain("192.0.2.1:9999"), false, true, vec![tls]),
            (plain(far), true, false, vec![create]),
            (plain(far), true, true, vec![]),
            (secure(far), false, false, vec![create]),
            (secure(far), false, true, vec![]),
            (both(), false, true, vec![]),
            (admin(), false, false, vec![]),
        ] {
            let create_token = has_token.then(|| token.clone());
            let access = Access { create_token, has_proxies, ..Access::default() };
            let warnings = Exposure::of(&access, &listeners).warnings;
            assert_eq!(warnings.len(), flags.len(), "{listeners:?}: {warnings:?}");
            for (warning, flag) in warnings.iter().zip(flags) {
                assert!(
                    warning.contains(flag) && warning.contains(&listeners[0].address.to_string()),
                    "{warning}"
                );
            }
        }
    }

    #[test]
    fn a_list_or_an_admin_token_that_others_can_read_causes_a_warning() {
        let token = || Some(Token::mint());
        let main = listener("0.0.0.0:9999", Audience::Clients, true);
        let admin = listener("0.0.0.0:9998", Audience::Operators, false);
        let admin_near = listener("127.0.0.1:9998", Audience::Operators, false);
        let access = || Access { create_token: token(), has_admin_listener: true, ..Access::default() };
        for (listeners, access, flags) in [
            (vec![main, admin], Access { open_list: true, ..access() }, vec!["--open-list"]),
            (vec![main, admin], Access { admin_token: token(), ..access() }, vec!["--admin-listen"]),
            (vec![main, admin], access(), vec![]),
            (vec![main, admin_near], Access { open_list: true, ..access() }, vec![]),
            (vec![main, admin_near], Access { admin_token: token(), ..access() }, vec![]),
            (
                vec![main],
                Access { open_list: true, has_admin_listener: false, ..access() },
                vec!["--open-list"],
            ),
        ] {
            let warnings = Exposure::of(&access, &listeners).warnings;
            assert_eq!(warnings.len(), flags.len(), "{listeners:?}: {warnings:?}");
            assert!(warnings.iter().zip(flags).all(|(warning, flag)| warning.contains(flag)), "{warnings:?}");
        }
    }

    #[test]
    fn the_widest_right_of_all_listeners_is_reported() {
        let token = || Some(Token::mint());
        let main = listener("0.0.0.0:9999", Audience::Clients, true);
        let near = listener("127.0.0.1:80", Audience::Clients, false);
        let admin = listener("0.0.0.0:9998", Audience::Operators, false);
        let admin_near = listener("[::1]:9998", Audience::Operators, false);
        for (listeners, access, expected) in [
            (vec![main], Access::default(), ["everybody", "nobody", "nobody"]),
            (vec![near], Access::default(), ["everybody", "this machine", "this machine"]),
            (vec![main, near], Access::default(), ["everybody", "this machine", "this machine"]),
            (vec![main, admin], Access::default(), ["everybody", "nobody", "everybody"]),
            (vec![main, admin_near], Access::default(), ["everybody", "this machine", "this machine"]),
            (vec![main], Access { open_list: true, ..Access::default() }, ["everybody"; 3]),
            (
                vec![main, admin_near],
                Access { create_token: token(), admin_token: token(), ..Access::default() },
                ["token"; 3],
            ),
        ] {
            let has_admin_listener =
                listeners.iter().any(|listener| listener.info.audience == Audience::Operators);
            let exposure = Exposure::of(&Access { has_admin_listener, ..access }, &listeners);
            assert_eq!([exposure.creation, exposure.list, exposure.metrics], expected, "{listeners:?}");
        }
        let exposure = Exposure::of(&Access::default(), &[main, near, admin_near]);
        assert_eq!(
            (exposure.clients, exposure.operators),
            ("https://0.0.0.0:9999,http://127.0.0.1:80".into(), "http://[::1]:9998".into())
        );
    }
}
