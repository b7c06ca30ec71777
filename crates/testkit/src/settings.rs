//! Settings that several tests change, as arguments of [`TestServer::start_with`](crate::server::TestServer::start_with).

use rendezvous_server::config::{Config, Token};

/// The token that [`with_admin_token`] sets.
pub const ADMIN_TOKEN: &str = "admin-of-16-bytes";

/// Adds an admin listener on a free port of loopback.
pub fn with_admin_listener(config: &mut Config) {
    config.admin_listen = Some("127.0.0.1:0".parse().unwrap());
}

/// Requires [`ADMIN_TOKEN`] on the routes of operators.
pub fn with_admin_token(config: &mut Config) {
    config.admin_token = Token::parse(ADMIN_TOKEN).ok();
}

/// Opens the list and the metrics to all clients.
pub fn with_open_list(config: &mut Config) {
    config.open_list = true;
}

/// Listens on all addresses, not only on loopback.
pub fn on_all_addresses(config: &mut Config) {
    config.host = "0.0.0.0".into();
}

/// Trusts every client on loopback as a proxy.
pub fn behind_a_proxy(config: &mut Config) {
    config.trusted_proxies = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
}
