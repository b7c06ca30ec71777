//! What each listener serves to whom: the list, health and readiness, the API description, and the admin listener.

use rendezvous_server::config::{Config, Token};
use rendezvous_server::internal::DOCUMENT;
use serde_json::Value;
use testkit::client::Response;
use testkit::messages::{bearer, request};
use testkit::server::{TestServer, get};
use testkit::settings::{
    ADMIN_TOKEN, behind_a_proxy, on_all_addresses, with_admin_listener, with_admin_token, with_open_list,
};

use crate::access::verdict;

type Adjust<'a> = &'a dyn Fn(&mut Config);

#[tokio::test]
async fn the_list_is_served_to_loopback_or_as_the_flags_allow() {
    let (unauthorized, forbidden) = ("401 UnauthorizedError", "403 ForbiddenError");
    // Behind a proxy, a connection from loopback may be that of any client.
    let cases: [(&str, &[Adjust], [&str; 3]); 9] = [
        ("loopback", &[], ["200", "200", "200"]),
        ("loopback, token", &[&with_admin_token], [unauthorized, forbidden, "200"]),
        ("loopback, token, open", &[&with_admin_token, &with_open_list], [unauthorized, forbidden, "200"]),
        ("behind a proxy", &[&behind_a_proxy], [forbidden, forbidden, forbidden]),
        ("behind a proxy, token", &[&behind_a_proxy, &with_admin_token], [unauthorized, forbidden, "200"]),
        ("behind a proxy, open", &[&behind_a_proxy, &with_open_list], ["200", "200", "200"]),
        ("all addresses", &[&on_all_addresses], [forbidden, forbidden, forbidden]),
        ("all addresses, token", &[&on_all_addresses, &with_admin_token], [unauthorized, forbidden, "200"]),
        ("all addresses, open", &[&on_all_addresses, &with_open_list], ["200", "200", "200"]),
    ];
    for (case, adjusts, expected) in cases {
        let server = TestServer::start_with(|config| adjusts.iter().for_each(|adjust| adjust(config))).await;
        for (given, expected) in ["", "wrong", ADMIN_TOKEN].into_iter().zip(expected) {
            let fields = if given.is_empty() { String::new() } else { bearer(given) };
            assert_eq!(
                verdict(&server, &request("GET", "/stream", &fields)).await,
                expected,
                "{case}: {given}"
            );
            assert_eq!(verdict(&server, &request("HEAD", "/stream", &fields)).await, expected[..3], "{case}");
            let query = format!("/stream?token={given}");
            assert_eq!(verdict(&server, &get(&query)).await, expected, "{case}: {given}");
        }
        // The other routes need no token.
        let id = server.create().await;
        assert_eq!(server.status(&id).await["state"], "CREATED", "{case}");
        assert_eq!(server.ask(get("/healthz")).await.body, b"ok", "{case}");
    }
    let server = TestServer::start_with(on_all_addresses).await;
    let message = server.ask(get("/stream")).await.message();
    assert!(message.contains("--admin-token-file") && message.contains("--open-list"), "{message}");
}

#[tokio::test]
async fn health_and_readiness_are_plain_text() {
    let server = TestServer::start().await;
    for (target, text) in [("/healthz", "ok"), ("/readyz", "ready"), ("/readyz/?x", "ready")] {
        let response = server.ask(get(target)).await;
        assert_eq!((response.status, response.body.as_slice()), (200, text.as_bytes()), "{target}");
        assert_eq!(response.fields("content-type"), ["text/plain; charset=utf-8"]);
        assert_eq!(verdict(&server, &request("HEAD", target, "")).await, "200", "{target}");
        assert_eq!(verdict(&server, &request("POST", target, "")).await, "404 BadRouteError", "{target}");
    }
}

#[tokio::test]
async fn the_api_description_is_public_on_every_listener() {
    let server = TestServer::start_with(|config| {
        with_admin_listener(config);
        with_admin_token(config);
        config.create_token = Token::parse("create-16-bytes-x").ok();
    })
    .await;
    for target in ["/openapi.json", "/openapi.json/?x"] {
        for response in [server.ask(get(target)).await, server.ask_admin(get(target)).await] {
            assert_eq!(
                (response.status, response.fields("content-type")),
                (200, vec!["application/json"]),
                "{target}"
            );
            assert_eq!(response.body, DOCUMENT.as_bytes(), "{target}");
        }
        assert_eq!(verdict(&server, &request("HEAD", target, "")).await, "200", "{target}");
        assert_eq!(verdict(&server, &request("POST", target, "")).await, "404 BadRouteError", "{target}");
    }
}

#[tokio::test]
async fn operator_routes_move_to_the_admin_listener_which_serves_no_others() {
    let server = TestServer::start_with(with_admin_listener).await;
    let id = server.create().await;
    let (path, status, error) =
        (format!("/stream/{id}"), format!("/stream/{id}/status"), format!("/stream/{id}/error"));
    for (method, target) in [("GET", "/stream"), ("GET", "/healthz"), ("GET", "/readyz")] {
        assert_eq!(server.ask_admin(request(method, target, "")).await.status, 200, "{target}");
        assert_eq!(verdict(&server, &request(method, target, "")).await, "404 BadRouteError", "{target}");
    }
    for (method, target) in [
        ("POST", "/stream"),
        ("PUT", &path),
        ("GET", &path),
        ("GET", &status),
        ("POST", &error),
        ("OPTIONS", "/stream"),
        ("GET", "/metricsx"),
    ] {
        let refused = server.ask_admin(request(method, target, "")).await;
        assert_eq!(refused.error(), "404 BadRouteError", "{method} {target}");
    }
    assert_eq!(server.ask(get("/ping")).await.body, b"pong");
    assert_eq!(server.ask_admin(get("/ping")).await.body, b"pong");
    let list = server.ask_admin(get("/stream")).await.json();
    assert_eq!((&list[0]["id"], &list[0]["state"]), (&Value::from(id), &"CREATED".into()));
}

#[tokio::test]
async fn a_reachable_admin_listener_without_a_token_serves_health_and_metrics_but_no_list() {
    let reachable = |config: &mut Config| config.admin_listen = Some("0.0.0.0:0".parse().unwrap());
    let (forbidden, unauthorized) = ("403 ForbiddenError", "401 UnauthorizedError");
    let cases: [(&str, &[Adjust], [&str; 2]); 7] = [
        ("loopback", &[&with_admin_listener], ["200", "200"]),
        ("loopback, with a proxy", &[&with_admin_listener, &behind_a_proxy], ["200", "200"]),
        ("loopback, token", &[&with_admin_listener, &with_admin_token], [unauthorized, unauthorized]),
        ("reachable", &[&reachable], [forbidden, "200"]),
        ("reachable, with a proxy", &[&reachable, &behind_a_proxy], [forbidden, "200"]),
        ("reachable, open", &[&reachable, &with_open_list], ["200", "200"]),
        (
            "reachable, token, open",
            &[&reachable, &with_admin_token, &with_open_list],
            [unauthorized, unauthorized],
        ),
    ];
    let verdict = |response: Response| {
        if response.status == 200 { "200".to_owned() } else { response.error() }
    };
    for (case, adjusts, expected) in cases {
        let server = TestServer::start_with(|config| adjusts.iter().for_each(|adjust| adjust(config))).await;
        for (target, expected) in ["/stream", "/metrics"].into_iter().zip(expected) {
            assert_eq!(verdict(server.ask_admin(get(target)).await), expected, "{case}: {target}");
            if expected == unauthorized {
                let wrong = server.ask_admin(get(&format!("{target}?token=x"))).await;
                assert_eq!(wrong.error(), forbidden, "{case}: {target}");
                let right = server.ask_admin(request("GET", target, &bearer(ADMIN_TOKEN))).await;
                assert_eq!(right.status, 200, "{case}: {target}");
            }
        }
        for probe in ["/healthz", "/readyz", "/ping"] {
            assert_eq!(server.ask_admin(get(probe)).await.status, 200, "{case}: {probe}");
        }
    }
}

#[tokio::test]
async fn a_draining_server_reports_not_ready_until_it_ends() {
    let mut server = TestServer::start_with(with_admin_listener).await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let mut source = server.put(&id, "Content-Length: 2\r\n").await;
    server.until(&id, "STREAMING").await;
    assert_eq!(server.ask_admin(get("/readyz")).await.body, b"ready");
    server.stop().await;
    let refused = server.ask_admin(get("/readyz")).await;
    assert_eq!(refused.error(), "503 ShuttingDownError");
    assert_eq!(refused.fields("retry-after").len(), 1);
    assert_eq!(server.ask_admin(get("/healthz")).await.body, b"ok");
    assert_eq!(server.ask_admin(get("/stream")).await.json()[0]["state"], "STREAMING");
    source.send("hi").await;
    assert_eq!(destination.response().await.body, b"hi");
    assert_eq!(source.response().await.status, 200);
    server.ended().await;
}
