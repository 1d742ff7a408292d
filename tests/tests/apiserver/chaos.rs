//! Chaos: what the server says in the end is what a client has in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::runtime::watcher::{self, Event, watcher};
use lb_tests::apiserver::ApiServer;
use lb_tests::apiserver::faults::Chaos;
use lb_tests::apiserver::store::Kind;
use serde_json::json;
use tokio::time::timeout;

use super::{DEADLINE, client, server, service};

/// How many seeds there is time for.
const SEEDS: u64 = 12;

/// The version of each Service.
type Versions = BTreeMap<String, String>;

fn truth(server: &ApiServer) -> Versions {
    let services = server.list(Kind::Service);
    let version = |service: &serde_json::Value| {
        let text = |key: &str| service["metadata"][key].as_str().unwrap().to_owned();
        (text("name"), text("resourceVersion"))
    };
    services.iter().map(|service| version(service)).collect()
}

/// Follows the server until it is as it will stay, starting anew when there is nothing new.
async fn follow(server: &ApiServer, streaming: bool) {
    let services: Api<Service> = Api::all(client(server).await);
    let config = watcher::Config::default().page_size(3).timeout(1);
    let config = if streaming {
        config.streaming_lists()
    } else {
        config
    };
    let mut seen = Versions::new();
    let mut fresh = Versions::new();
    let entry = |service: &Service| (service.name_any(), service.resource_version().unwrap());
    let mut changes = (0..20_u32).cycle();
    let mut rounds = 0;
    let truthful = timeout(DEADLINE, async {
        let mut events = watcher(services.clone(), config.clone()).boxed();
        loop {
            if rounds < 40 {
                let number = changes.next().unwrap_or_default();
                change(server, number);
                rounds += 1;
            }
            match timeout(Duration::from_millis(300), events.next()).await {
                Ok(Some(Ok(Event::Init))) => fresh.clear(),
                Ok(Some(Ok(Event::InitApply(service)))) => fresh.extend([entry(&service)]),
                Ok(Some(Ok(Event::InitDone))) => seen.clone_from(&fresh),
                Ok(Some(Ok(Event::Apply(service)))) => seen.extend([entry(&service)]),
                Ok(Some(Ok(Event::Delete(service)))) => drop(seen.remove(&service.name_any())),
                Ok(Some(Err(_))) => {}
                Ok(None) => unreachable!("a watcher never ends"),
                // The traps of watcher that a supervisor is for.
                Err(_) => events = watcher(services.clone(), config.clone()).boxed(),
            }
            if rounds == 40 && seen == truth(server) {
                return;
            }
        }
    });
    assert!(
        truthful.await.is_ok(),
        "{seen:?} is not {:?} after {:?}",
        truth(server),
        server.faults().decisions()
    );
}

fn change(server: &ApiServer, number: u32) {
    let name = format!("s{}", number % 5);
    if number % 3 == 2 {
        // There may be none.
        let _ = server.delete(Kind::Service, "default", &name);
    } else {
        let mut service = service(&name);
        service["metadata"]["labels"] = json!({"number": number.to_string()});
        server.apply(service).unwrap();
    }
}

#[tokio::test]
async fn a_client_has_the_truth_in_the_end_whatever_the_seed() {
    for seed in 0..SEEDS {
        let server = server();
        let chaos = Chaos::new(seed)
            .percent(70)
            .limit(6)
            .pause(Duration::from_millis(5));
        server.faults().unleash(chaos);
        follow(&server, seed % 2 == 1).await;
        server.faults().calm();
    }
}

#[test]
fn a_seed_decides_the_same_for_the_same_requests() {
    let decisions = |seed| {
        let server = server();
        server.faults().unleash(Chaos::new(seed));
        for _ in 0..8 {
            super::raw::get(&server, "/api/v1/services");
            super::raw::get(&server, "/api/v1/nodes");
        }
        server.faults().decisions()
    };
    assert_eq!(decisions(5), decisions(5));
    assert_ne!(decisions(5), decisions(6));
}
