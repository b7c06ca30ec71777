//! [`RequestContext`]: what a request needs until its response.

use super::app::App;
use super::cors::AllowedOrigin;
use super::json_body::{BodyError, JsonBody};
use super::record::Record;
use super::refusal::Refusal;
use super::response::{self, Body, GeneratedResponse, Later, Response, ResponseHead};
use super::{JsonRoute, errors};
use crate::hop::pass;

/// State that a request needs until its response.
pub(crate) struct RequestContext {
    /// The request's line in the access log.
    pub record: Record,
    /// The allowed origin for the CORS fields. Boxed, because most requests have none.
    pub(super) origin: Option<Box<AllowedOrigin>>,
}

impl RequestContext {
    /// Adds the CORS fields to the response and records it for the access log.
    pub(crate) fn finish(&mut self, response: &mut Response) {
        self.finish_head(&mut response.head);
        if let Body::Bytes(body) = &response.body {
            self.record.add_bytes(body.len() as u64);
            if response.head.status.is_success() {
                self.record.set_answered();
            }
        }
    }

    /// Like [`RequestContext::finish`]. The line in the access log is logged when the body is dropped.
    pub(crate) fn finish_generated(&mut self, response: &mut GeneratedResponse) {
        self.finish_head(&mut response.head);
        response.body.log_with(self.record.take());
    }

    fn finish_head(&mut self, head: &mut ResponseHead) {
        if let Some(origin) = &self.origin {
            origin.add_to(&mut head.headers);
        }
        self.record.set_status(head.status);
    }

    /// Returns the response to a refused request, and records the refusal in the metrics and the access log.
    pub(crate) fn refuse(&mut self, app: &App, refusal: impl Into<Refusal>) -> Response {
        let refusal = refusal.into();
        app.metrics.refused(errors::refusal_name(&refusal));
        self.record.set_refusal(&refusal);
        response::refusal(&refusal)
    }

    /// Returns the response that was waited for.
    pub(crate) fn response_after_wait(&mut self, app: &App, response: Result<Later, Refusal>) -> Later {
        response.unwrap_or_else(|refusal| Later::Response(self.refuse(app, refusal)))
    }

    /// Returns the response to a request whose JSON body was read.
    pub(crate) async fn json_response(
        &mut self,
        app: &App,
        route: JsonRoute,
        body: Result<JsonBody, BodyError>,
    ) -> Response {
        let response = match (body, route, &app.cluster) {
            (Err(error), ..) => Err(error.into()),
            (Ok(body), JsonRoute::Pass(name, request), Some(cluster)) => {
                pass::report(cluster, name, request.with_body(body.bytes)).await
            }
            (Ok(body), JsonRoute::CreateElsewhere(request), Some(cluster)) => {
                pass::create(cluster, &request.with_body(body.bytes)).await
            }
            (Ok(body), route, _) => route.handle(app, body, &mut self.record),
        };
        response.unwrap_or_else(|refusal| self.refuse(app, refusal))
    }
}
