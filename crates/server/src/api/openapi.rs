//! `GET /openapi.json`: the description of the API for programs.
//!
//! It is written by hand. The tests compare its routes, errors and version with the code, and so the routes and errors of docs/api.md.

/// The body of `GET /openapi.json`.
pub const DOCUMENT: &str = include_str!("openapi.json").trim_ascii_end();

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Method;
    use rendezvous_core::outcome::FAULTS;
    use rendezvous_protocol::{ErrorKind, StreamName};
    use serde_json::{Map, Value};

    use super::super::route::Route;
    use super::*;

    const PAGE: &str = include_str!("../../../../docs/api.md");

    /// Maps each route to its operation in the documents, and lists all operations. A route without an operation does not compile.
    macro_rules! operations {
        ($($route:pat => $operation:literal,)*) => {
            fn operation(route: &Route) -> &'static str {
                match route {
                    $($route => $operation,)*
                }
            }

            const OPERATIONS: &[&str] = &[$($operation,)*];
        };
    }

    operations! {
        Route::Create => "POST /stream",
        Route::List => "GET /stream",
        Route::ListEvents => "GET /events",
        Route::Source(StreamName::Id(_)) => "PUT /stream/{id}",
        Route::Destination(StreamName::Id(_)) => "GET /stream/{id}",
        Route::Probe(StreamName::Id(_)) => "HEAD /stream/{id}",
        Route::Source(StreamName::Path(_)) => "PUT /p/{path}",
        Route::Destination(StreamName::Path(_)) => "GET /p/{path}",
        Route::Probe(StreamName::Path(_)) => "HEAD /p/{path}",
        Route::Events(_) => "GET /stream/{id}/events",
        Route::Report(_) => "POST /stream/{id}/error",
        Route::Status(_) => "GET /stream/{id}/status",
        Route::Front => "GET /",
        Route::Ping => "GET /ping",
        Route::Health => "GET /healthz",
        Route::Ready => "GET /readyz",
        Route::Metrics => "GET /metrics",
        Route::OpenApi => "GET /openapi.json",
    }

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    fn object(value: &Value) -> &Map<String, Value> {
        value.as_object().unwrap()
    }

    /// Returns the target of a `$ref`, or `value` itself if it has none.
    fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        document.pointer(reference.strip_prefix('#').unwrap()).unwrap_or_else(|| panic!("no {reference}"))
    }

    /// Returns each operation with its method and path.
    fn operations(document: &Value) -> Vec<(String, String, &Value)> {
        let mut operations = Vec::new();
        for (path, item) in object(&document["paths"]) {
            let methods = object(item).iter().filter(|(method, _)| *method != "parameters");
            operations
                .extend(methods.map(|(method, operation)| (method.to_uppercase(), path.clone(), operation)));
        }
        operations
    }

    /// Returns the error names that the schema of a response lists.
    fn names<'a>(document: &'a Value, schema: &'a Value) -> Vec<&'a str> {
        let schema = resolve(document, schema);
        let listed = schema["properties"]["name"]["enum"].as_array();
        let any_of = schema["anyOf"].as_array().into_iter().flatten();
        let own = listed.into_iter().flatten().map(|name| name.as_str().unwrap());
        own.chain(any_of.flat_map(|schema| names(document, schema))).collect()
    }

    fn errors_of_the_code() -> BTreeSet<(String, String)> {
        // A node gets it from another one, and no client does.
        let is_public = |kind: &&ErrorKind| **kind != ErrorKind::Misdirected;
        let refusals = ErrorKind::ALL.iter().filter(is_public).map(|kind| (kind.status(), kind.name()));
        let faults = FAULTS.iter().flat_map(|fault| [fault.source, fault.destination]);
        refusals.chain(faults).map(|(status, name)| (status.to_string(), name.to_owned())).collect()
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document();
        let documented = operations(&document);
        let is_there = |method: &str, path: &str| documented.iter().any(|(m, p, _)| m == method && p == path);
        for operation in OPERATIONS {
            let (method, path) = operation.split_once(' ').unwrap();
            assert!(is_there(method, path), "{operation} is not documented");
            assert!(method != "GET" || is_there("HEAD", path), "HEAD {path} is not documented");
        }
        for (method, path, _) in &documented {
            let route = Route::parse(&method.parse::<Method>().unwrap(), &path.replace(['{', '}'], ""));
            let route = route.unwrap_or_else(|_| panic!("{method} {path} is no route"));
            let (_, documented) = operation(&route).split_once(' ').unwrap();
            assert_eq!(documented, path, "{method}");
        }
    }

    #[test]
    fn the_document_has_every_error_and_no_other() {
        let document = document();
        let mut found = BTreeSet::new();
        for (method, path, operation) in operations(&document) {
            for (status, response) in object(&operation["responses"]) {
                let schema = &resolve(&document, response)["content"]["application/json"]["schema"];
                let listed = names(&document, schema);
                assert!(
                    method == "HEAD"
                        || !status.starts_with(['4', '5'])
                        || status.ends_with("XX")
                        || !listed.is_empty(),
                    "{method} {path} has a {status} without a name"
                );
                found.extend(listed.into_iter().map(|name| (status.clone(), name.to_owned())));
            }
        }
        assert_eq!(found, errors_of_the_code());
    }

    #[test]
    fn every_component_of_the_document_is_there_and_used() {
        fn references<'a>(value: &'a Value, found: &mut BTreeSet<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = document();
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        let kinds = object(&document["components"]).iter().filter(|(kind, _)| *kind != "securitySchemes");
        let there = kinds.flat_map(|(kind, components)| {
            object(components).keys().map(move |name| format!("#/components/{kind}/{name}"))
        });
        assert_eq!(used.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), there.collect());
    }

    #[test]
    fn the_document_is_of_this_version() {
        assert_eq!(document()["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn the_page_has_every_route_and_no_other() {
        let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let methods = ["GET ", "HEAD ", "PUT ", "POST "];
        let rows = rows.filter(|(first, _)| methods.iter().any(|method| first.starts_with(method)));
        let found: BTreeSet<_> =
            rows.map(|(operation, _)| operation.replace(":id", "{id}").replace(":path", "{path}")).collect();
        assert_eq!(found, OPERATIONS.iter().map(|operation| (*operation).to_owned()).collect());
    }

    #[test]
    fn the_page_has_every_error_and_no_other() {
        let mut found = BTreeSet::new();
        for row in PAGE.lines() {
            let [status, names, _] = row.split(" | ").collect::<Vec<_>>()[..] else { continue };
            if let Ok(status) = status.trim_start_matches("| ").parse::<u16>() {
                let names = names.split('`').filter(|name| name.ends_with("Error"));
                found.extend(names.map(|name| (status.to_string(), name.to_owned())));
            }
        }
        assert_eq!(found, errors_of_the_code());
    }
}
