//! `POST /stream/:id/error`.

use testkit::server::{TestServer, get, put_head};

const FULL: &str =
    r#"{"http_status":404,"name":"FileNotFoundError","message":"File 'ü\r\n' does not exist"}"#;

#[tokio::test]
async fn a_report_reaches_the_waiting_side_or_the_next_to_connect() {
    for source in [true, false] {
        for waiting in [true, false] {
            let server = TestServer::start().await;
            let id = server.create().await;
            let request =
                if source { put_head(&id, "Content-Length: 3\r\n") } else { get(&format!("/stream/{id}")) };
            let mut side = server.connect().await;
            if waiting {
                side.send(&request).await;
                server.until(&id, if source { "SRC_CONNECTED" } else { "DST_CONNECTED" }).await;
            }
            let reported = server.post(&format!("/stream/{id}/error"), FULL).await;
            assert_eq!((reported.status, reported.body.len()), (200, 0));
            if !waiting {
                assert_eq!(server.status(&id).await["state"], "CLIENT_ERROR");
                side.send(&request).await;
            }
            let response = side.response().await;
            assert_eq!(response.error(), "404 FileNotFoundError");
            assert_eq!(response.message(), "File 'ü\r\n' does not exist");

            let status = server.status(&id).await;
            assert_eq!(status["state"], "CLIENT_ERROR");
            assert_eq!(status["error"]["name"], "FileNotFoundError");
            assert_eq!(server.ask(&request).await.error(), "404 SessionNotFoundError");
            let again = server.post(&format!("/stream/{id}/error"), FULL).await;
            assert_eq!(again.error(), "409 StreamStartedError");
        }
    }
}

#[tokio::test]
async fn a_report_without_a_body_has_the_default_error() {
    let server = TestServer::start().await;
    for body in ["", "null", "{}"] {
        let id = server.create().await;
        server.post(&format!("/stream/{id}/error"), body).await;
        let response = server.get(&id).await.response().await;
        assert_eq!(response.error(), "400 Error");
        assert_eq!(response.message(), "The other side encountered an unspecified error");
    }
}

#[tokio::test]
async fn a_reported_http_status_is_either_refused_or_sent_as_given() {
    let server = TestServer::start().await;
    for status in
        ["99", "200", "204", "304", "399", "600", "1000", "-1", "404.5", "\"404\"", "true", "[404]", "1e300"]
    {
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        let refused =
            server.post(&format!("/stream/{id}/error"), format!(r#"{{"http_status":{status}}}"#)).await;
        assert_eq!(refused.error(), "400 InvalidBodyError", "{status}");
        assert!(refused.message().contains("from 400 to 599"));
        // The refused report does not affect the stream.
        let mut source = server.put(&id, "Content-Length: 1\r\n").await;
        source.send("x").await;
        assert_eq!(destination.response().await.body, b"x", "{status}");
        assert_eq!(source.response().await.status, 200, "{status}");
    }
    for status in [400, 418, 451, 499, 500, 599] {
        let id = server.create().await;
        server.post(&format!("/stream/{id}/error"), format!(r#"{{"http_status":{status}}}"#)).await;
        assert_eq!(server.get(&id).await.response().await.error(), format!("{status} Error"));
    }
}

#[tokio::test]
async fn once_the_sides_have_paired_a_report_changes_nothing() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut late = server
        .connect_and_send(format!(
            "POST /stream/{id}/error HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{{",
            FULL.len()
        ))
        .await;
    let mut destination = server.get(&id).await;
    let mut source = server.put(&id, "Content-Length: 1\r\n").await;
    server.until(&id, "STREAMING").await;
    // The body of the report was still arriving when the sides paired.
    late.send(&FULL[1..]).await;
    assert_eq!(late.response().await.error(), "409 StreamStartedError");
    let refused = server.post(&format!("/stream/{id}/error"), FULL).await;
    assert_eq!(refused.message(), "The specified session has already started streaming");
    source.send("x").await;
    assert_eq!(destination.response().await.body, b"x");
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test]
async fn a_report_on_an_unknown_stream_gets_404() {
    let server = TestServer::start().await;
    for body in ["", "{}", "{"] {
        assert_eq!(server.post("/stream/unknown/error", body).await.error(), "404 SessionNotFoundError");
    }
}
