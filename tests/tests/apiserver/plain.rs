//! What kubectl sends, over plain HTTP: on machines without it the same is tested.

use lb_tests::apiserver::ApiServer;
use lb_tests::apiserver::store::object::{items, number, text};
use serde_json::Value;

use super::kubectl::EXAMPLE;
use super::raw::{get, send};

const SERVICE: &str = "/api/v1/namespaces/default/services/alpaca-prod";
const JSON: &str = "Content-Type: application/json";
const STRATEGIC: &str = "Content-Type: application/strategic-merge-patch+json";
const TABLE: &str = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// A server with the example.
fn server() -> ApiServer {
    let server = ApiServer::start().unwrap();
    let manifest = std::fs::read_to_string(EXAMPLE).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&manifest).unwrap();
    for document in documents {
        let plural = format!("{}s", text(&document, "/kind").to_lowercase());
        let url = format!("/api/v1/namespaces/default/{plural}?fieldValidation=Strict");
        let created = send(&server, "POST", &url, &[JSON], &document.to_string());
        assert_eq!(created.code, 201, "{created:?}");
    }
    server
}

#[test]
fn what_is_served_is_described() {
    let server = server();
    for path in [
        "/version",
        "/api",
        "/apis",
        "/api/v1",
        "/apis/apps/v1",
        "/apis/discovery.k8s.io",
        "/openapi/v3",
        "/openapi/v3/api/v1",
        "/openapi/v3/apis/discovery.k8s.io/v1",
    ] {
        assert_eq!(get(&server, path).code, 200, "{path}");
    }
    assert_eq!(get(&server, "/readyz").body, b"ok");
    let nothing = get(&server, "/apis/nothing/v1").json();
    assert_eq!(
        nothing["message"],
        "the server could not find the requested resource"
    );
}

#[test]
fn a_table_has_the_columns_of_kubectl() {
    let server = server();
    let url = "/api/v1/namespaces/default/services?limit=500";
    let table = send(&server, "GET", url, &[TABLE], "").json();
    let columns = items(&table, "/columnDefinitions").iter();
    let columns: Vec<_> = columns
        .map(|column| format!("{} {}", text(column, "/name"), number(column, "/priority")))
        .collect();
    assert_eq!(
        columns.join(", "),
        "Name 0, Type 0, Cluster-IP 0, External-IP 0, Port(s) 0, Age 0, Selector 1"
    );
    let row = &table["rows"][0];
    assert_eq!(row["cells"][2], "10.96.0.17");
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["name"], "alpaca-prod");
}

#[test]
fn patches_and_deletions_take_effect() {
    let server = server();
    let patch = |kind| format!(r#"{{"spec":{{"type":"{kind}"}}}}"#);
    let patched = send(&server, "PATCH", SERVICE, &[STRATEGIC], &patch("ClusterIP"));
    assert_eq!(patched.json()["spec"]["ports"][0].get("nodePort"), None);
    let patched = send(&server, "PATCH", SERVICE, &[STRATEGIC], &patch("NodePort"));
    assert_ne!(number(&patched.json(), "/spec/ports/0/nodePort"), 0);
    let options = r#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#;
    let deleted = send(&server, "DELETE", SERVICE, &[JSON], options);
    assert_eq!(deleted.json()["status"], "Success");
    assert_eq!(get(&server, SERVICE).code, 404);
}

#[test]
fn unknown_fields_are_refused_dropped_or_of_a_wrong_type() {
    let server = server();
    let patch = r#"{"spec":{"prots":[]},"metadata":{"x":1}}"#;
    let strict = format!("{SERVICE}?fieldValidation=Strict");
    let refused = send(&server, "PATCH", &strict, &[STRATEGIC], patch).json();
    let message = text(&refused, "/message");
    assert!(
        message.ends_with("strict decoding error: unknown field \"metadata.x\""),
        "{message}"
    );
    let dropped = send(&server, "PATCH", SERVICE, &[STRATEGIC], patch).json();
    assert_eq!(dropped["metadata"].get("x"), None);
    let wrong = r#"{"spec":{"ports":[{"port":"eighty"}]}}"#;
    assert_eq!(
        send(&server, "PATCH", SERVICE, &[STRATEGIC], wrong).code,
        400
    );
}

#[test]
fn requests_are_noted_in_their_order() {
    let server = server();
    server.forget_requests();
    get(&server, "/api/v1/nodes?limit=3");
    get(&server, SERVICE);
    let requests = server.requests();
    let [nodes, service] = requests.as_slice() else {
        panic!("{requests:?}");
    };
    assert_eq!(nodes.query.get("limit"), "3");
    assert_eq!(
        (service.method.as_str(), service.path.as_str()),
        ("GET", SERVICE)
    );
}
