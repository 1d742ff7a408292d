//! Lists and single objects, through the kube client.

use k8s_openapi::api::core::v1::{Event as CoreEvent, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Error, ResourceExt as _};
use lb_tests::apiserver::ApiServer;
use lb_tests::apiserver::store::Kind;
use serde_json::json;

use super::{client, server, service};

#[tokio::test]
async fn pages_are_of_one_version_and_complete() {
    let server = server();
    for number in 0..7 {
        server.apply(service(&format!("a{number}"))).unwrap();
    }
    let services: Api<Service> = Api::all(client(&server).await);
    let mut params = ListParams::default().limit(3);
    let mut names = Vec::new();
    let mut versions = Vec::new();
    loop {
        let page = services.list(&params).await.unwrap();
        server.apply(service("late")).unwrap();
        names.extend(page.items.iter().map(|service| service.name_any()));
        versions.push(page.metadata.resource_version.clone());
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["a0", "a1", "a2", "a3", "a4", "a5", "a6"]);
    versions.dedup();
    assert_eq!(versions.len(), 1);
}

#[tokio::test]
async fn an_expired_token_is_gone_and_a_wrong_one_a_bad_request() {
    let server = server();
    for name in ["a", "b", "c"] {
        server.apply(service(name)).unwrap();
    }
    let services: Api<Service> = Api::all(client(&server).await);
    let params = ListParams::default().limit(1);
    let page = services.list(&params).await.unwrap();
    server.apply(service("d")).unwrap();
    server.compact();
    let token = page.metadata.continue_.unwrap();
    let error = services
        .list(&params.clone().continue_token(&token))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Api(status) if status.code == 410 && status.reason == "Expired")
    );
    let error = services
        .list(&params.continue_token("x"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Api(status) if status.code == 400));
}

#[tokio::test]
async fn selectors_choose_objects() {
    let server = server();
    server.apply(service("a")).unwrap();
    let mut proxied = service("b");
    proxied["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "x"});
    server.apply(proxied).unwrap();
    let mut headless = service("c");
    headless["spec"]["clusterIP"] = json!("None");
    server.apply(headless).unwrap();
    let services: Api<Service> = Api::all(client(&server).await);
    let names = async |params: ListParams| {
        let list = services.list(&params).await.unwrap();
        list.iter()
            .map(|service| service.name_any())
            .collect::<Vec<_>>()
    };
    let all = ListParams::default();
    let label = "!service.kubernetes.io/service-proxy-name";
    assert_eq!(names(all.clone().labels(label)).await, ["a", "c"]);
    assert_eq!(
        names(all.clone().fields("spec.clusterIP!=None")).await,
        ["a", "b"]
    );
    assert_eq!(
        names(all.clone().labels(label).fields("metadata.name=c")).await,
        ["c"]
    );
    let error = services
        .list(&all.fields("spec.nonsense=1"))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Api(status) if status.code == 400));
}

async fn default_services(server: &ApiServer) -> Api<Service> {
    Api::default_namespaced(client(server).await)
}

#[tokio::test]
async fn objects_are_created_once_and_replaced_in_their_version() {
    let server = ApiServer::builder().bare().tls().start().unwrap();
    let services = default_services(&server).await;
    let params = PostParams::default();
    let new: Service = serde_json::from_value(service("a")).unwrap();
    let created = services.create(&params, &new).await.unwrap();
    let spec = created.spec.as_ref().unwrap();
    assert_eq!(spec.type_.as_deref(), Some("ClusterIP"));
    let again = services.create(&params, &new).await.unwrap_err();
    assert!(matches!(again, Error::Api(status) if status.reason == "AlreadyExists"));
    let mut changed = created.clone();
    changed.spec.as_mut().unwrap().type_ = Some("LoadBalancer".to_owned());
    services.replace("a", &params, &changed).await.unwrap();
    let stale = services.replace("a", &params, &created).await.unwrap_err();
    assert!(matches!(stale, Error::Api(status) if status.code == 409));
}

#[tokio::test]
async fn objects_are_patched_in_all_ways() {
    let server = server();
    let mut balancer = service("a");
    balancer["spec"]["type"] = json!("LoadBalancer");
    server.apply(balancer).unwrap();
    let services = default_services(&server).await;
    let params = PatchParams::default();
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.77.0.5"}]}}});
    let patched = services
        .patch_status("a", &params, &Patch::Merge(&status))
        .await
        .unwrap();
    let ingress = patched
        .status
        .unwrap()
        .load_balancer
        .unwrap()
        .ingress
        .unwrap();
    assert_eq!(ingress[0].ip.as_deref(), Some("10.77.0.5"));
    let ports = json!([{"port": 81, "name": "b"}]);
    let patch = json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": ports}});
    let wrong = services
        .patch("a", &params, &Patch::Strategic(&patch))
        .await;
    // The port that is there already has no name, and of two each must have one.
    assert!(matches!(wrong, Err(Error::Api(status)) if status.code == 422));
    let params = PatchParams::apply("test").force();
    let applied = services
        .patch("b", &params, &Patch::Apply(&patch))
        .await
        .unwrap();
    assert_eq!(applied.name_any(), "b");
}

#[tokio::test]
async fn objects_are_deleted_one_by_one_and_together() {
    let server = server();
    for name in ["a", "b", "c"] {
        server.apply(service(name)).unwrap();
    }
    let services = default_services(&server).await;
    let params = DeleteParams::default();
    services.delete("a", &params).await.unwrap();
    assert!(services.get_opt("a").await.unwrap().is_none());
    let others = ListParams::default();
    services.delete_collection(&params, &others).await.unwrap();
    assert!(server.list(Kind::Service).is_empty());
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let server = server();
    let client = client(&server).await;
    let new: Api<Event> = Api::default_namespaced(client.clone());
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Service", "name": "a"},
        "note": "it is so", "reason": "So", "type": "Normal", "action": "x",
        "reportingController": "lb-agent", "reportingInstance": "node1", "eventTime": null,
    }))
    .unwrap();
    new.create(&PostParams::default(), &event).await.unwrap();
    let core: Api<CoreEvent> = Api::default_namespaced(client);
    let params = ListParams::default().fields("involvedObject.name=a");
    let events = core.list(&params).await.unwrap();
    assert_eq!(events.items[0].message.as_deref(), Some("it is so"));
    assert_eq!(
        events.items[0].reporting_component,
        "lb-agent".to_owned().into()
    );
    assert_eq!(
        new.get("e").await.unwrap().note.as_deref(),
        Some("it is so")
    );
    assert!(
        core.list(&params.fields("involvedObject.name=b"))
            .await
            .unwrap()
            .items
            .is_empty()
    );
}

#[tokio::test]
async fn a_cluster_has_what_each_cluster_has() {
    let server = ApiServer::start().unwrap();
    let client = client(&server).await;
    let services: Api<Service> = Api::all(client.clone());
    let kubernetes = services.list(&ListParams::default()).await.unwrap();
    assert_eq!(kubernetes.items[0].name_any(), "kubernetes");
    let version = client.apiserver_version().await.unwrap();
    assert_eq!(
        (version.major.as_str(), version.minor.as_str()),
        ("1", "36")
    );
    let groups = client.list_api_groups().await.unwrap();
    assert!(
        groups
            .groups
            .iter()
            .any(|group| group.name == "discovery.k8s.io")
    );
    assert!(
        Api::<Node>::all(client.clone())
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    assert!(
        Api::<Pod>::all(client.clone())
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let slices = Api::<EndpointSlice>::all(client)
        .list(&ListParams::default())
        .await;
    assert!(slices.unwrap().items.is_empty());
}
