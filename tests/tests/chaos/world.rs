//! What happens in the cluster meanwhile.

use std::collections::BTreeSet;

use anyhow::Result;
use fastrand::Rng;
use lb_tests::apiserver::{
    ApiServer,
    store::{Kind, Name},
};
use serde_json::{Value, json};

/// Name of the node that the agent is on.
pub(crate) const NODE: &str = "node1";
/// Services that are there from the beginning to the end, with an endpoint that stays.
pub(crate) const STEADY: [&str; 2] = ["steady-0", "steady-1"];
/// Services that come and go.
const OTHERS: u32 = 6;

const HEADLESS: &str = "service.kubernetes.io/headless";
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// A cluster that somebody works on.
pub(crate) struct World {
    server: ApiServer,
    rng: Rng,
    /// Counts the changes of Services. Steady ones carry it, as the timeout of their affinity.
    changes: u32,
    /// Services that were hidden or deleted at some time.
    pub(crate) broken: BTreeSet<String>,
}

impl World {
    /// Gives the cluster its first objects.
    pub(crate) fn new(server: ApiServer, rng: Rng) -> Result<Self> {
        let mut world = Self {
            server,
            rng,
            changes: 0,
            broken: BTreeSet::new(),
        };
        world.node()?;
        for (i, name) in STEADY.iter().enumerate() {
            world.service(name)?;
            let endpoints = json!([{"addresses": [format!("10.244.9.{}", i + 1)],
                "conditions": {"ready": true}, "nodeName": NODE}]);
            world.slice(&format!("{name}-stays"), name, endpoints, json!({}))?;
        }
        for _ in 0..world.rng.u32(0..8) {
            world.step();
        }
        Ok(world)
    }

    pub(crate) fn server(&self) -> &ApiServer {
        &self.server
    }

    /// Changes something.
    pub(crate) fn step(&mut self) {
        // What the server does not allow does not happen.
        let _refused = match self.rng.u32(0..20) {
            0..=3 => self.put_service(),
            4 | 5 => self.delete_service(),
            6 => self.hand_over(),
            7..=12 => self.put_slice(),
            13 | 14 => self.delete_slice(),
            15 => self.node(),
            16 => self.service_network(),
            17 => self.hostile(),
            18 => self.disturb(),
            _ => self.rewrite(),
        };
    }

    fn any_service(&mut self) -> String {
        match self.rng.u32(0..OTHERS + 2) {
            number if number < OTHERS => format!("service-{number}"),
            number => STEADY[(number - OTHERS) as usize].to_owned(),
        }
    }

    fn other_service(&mut self) -> String {
        format!("service-{}", self.rng.u32(0..OTHERS))
    }

    fn put_service(&mut self) -> Result<()> {
        let name = self.any_service();
        self.service(&name)
    }

    /// Makes or changes a Service that a proxy serves.
    fn service(&mut self, name: &str) -> Result<()> {
        let rng = &mut self.rng;
        let kinds = ["ClusterIP", "NodePort", "LoadBalancer"];
        let kind = *rng.choice(&kinds).expect("there are some");
        let policy = if rng.bool() { "Local" } else { "Cluster" };
        let mut ports = vec![json!({"name": "http", "port": 80, "targetPort": 8080})];
        if rng.bool() {
            ports.push(json!({"name": "dns", "port": 53, "protocol": "UDP"}));
        }
        let mut spec = json!({"type": kind, "ports": ports});
        if kind != "ClusterIP" {
            spec["externalTrafficPolicy"] = policy.into();
        }
        self.changes += 1;
        if rng.bool() || STEADY.contains(&name) {
            spec["sessionAffinity"] = "ClientIP".into();
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": self.changes}});
        }
        if rng.u32(0..4) == 0 {
            spec["externalIPs"] = json!([format!("198.51.100.{}", rng.u8(1..200))]);
        }
        if self.server.get(Kind::Service, "default", name).is_some() {
            let patch = json!({"spec": spec});
            self.server.patch(Kind::Service, "default", name, &patch)?;
            return Ok(());
        }
        if self.rng.bool() {
            spec["ipFamilyPolicy"] = "PreferDualStack".into();
        }
        self.server.apply(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec,
        }))?;
        Ok(())
    }

    fn delete_service(&mut self) -> Result<()> {
        let name = self.other_service();
        self.server.delete(Kind::Service, "default", &name)?;
        self.broken.insert(name);
        Ok(())
    }

    /// Hands a Service over to another proxy, or takes it back.
    fn hand_over(&mut self) -> Result<()> {
        let name = self.other_service();
        let label = if self.rng.bool() {
            json!("other")
        } else {
            Value::Null
        };
        let patch = json!({"metadata": {"labels": {PROXY_NAME: label}}});
        self.server.patch(Kind::Service, "default", &name, &patch)?;
        self.broken.insert(name);
        Ok(())
    }

    fn put_slice(&mut self) -> Result<()> {
        let service = self.any_service();
        let name = format!("{service}-{}", self.rng.u32(0..2));
        let endpoints: Vec<_> = (0..self.rng.u32(0..6)).map(|_| self.endpoint()).collect();
        let labels = if self.rng.u32(0..6) == 0 {
            json!({HEADLESS: ""})
        } else {
            json!({})
        };
        self.slice(&name, &service, endpoints.into(), labels)
    }

    fn endpoint(&mut self) -> Value {
        let rng = &mut self.rng;
        let terminating = rng.u32(0..5) == 0;
        let node = if rng.bool() { NODE } else { "node2" };
        json!({
            "addresses": [format!("10.244.{}.{}", rng.u8(0..4), rng.u8(1..5))],
            "conditions": {"ready": !terminating && rng.u32(0..5) > 0, "serving": rng.bool(),
                "terminating": terminating},
            "nodeName": node,
        })
    }

    /// Makes or changes a slice.
    fn slice(&mut self, name: &str, service: &str, endpoints: Value, labels: Value) -> Result<()> {
        let mut labels = labels;
        labels["kubernetes.io/service-name"] = service.into();
        self.server.apply(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": labels},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"},
                {"name": "dns", "port": 5353, "protocol": "UDP"}],
        }))?;
        Ok(())
    }

    fn delete_slice(&mut self) -> Result<()> {
        let service = self.any_service();
        let name = format!("{service}-{}", self.rng.u32(0..2));
        self.server.delete(Kind::EndpointSlice, "default", &name)?;
        Ok(())
    }

    fn node(&mut self) -> Result<()> {
        let zone = if self.rng.bool() { "a" } else { "b" };
        self.server.apply(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": NODE, "labels": {"topology.kubernetes.io/zone": zone}},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        }))?;
        Ok(())
    }

    fn service_network(&mut self) -> Result<()> {
        if self.rng.bool() {
            self.server.apply(json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "more"}, "spec": {"cidrs": ["10.112.0.0/16"]},
            }))?;
        } else {
            self.server.delete(Kind::ServiceCidr, "", "more")?;
        }
        Ok(())
    }

    /// Stores an object that no API server would.
    fn hostile(&mut self) -> Result<()> {
        let metadata = json!({"name": "hostile", "namespace": "default"});
        let objects = [
            (
                Kind::Service,
                json!({"metadata": metadata, "spec": {"ports": 7}}),
            ),
            (Kind::Service, json!({"metadata": metadata, "spec": []})),
            (
                Kind::EndpointSlice,
                json!({"metadata": metadata, "endpoints": "x", "ports": [1]}),
            ),
            (
                Kind::ServiceCidr,
                json!({"metadata": {"name": "hostile"}, "spec": {"cidrs": [1, "x"]}}),
            ),
        ];
        let (kind, object) = self.rng.choice(objects).expect("there are some");
        self.server.inject(kind, object);
        // It counts as a Service, or does not, by what it says.
        self.broken.insert("hostile".to_owned());
        Ok(())
    }

    /// Ends all connections, or forgets all history, or lets time pass elsewhere.
    fn disturb(&mut self) -> Result<()> {
        match self.rng.u32(0..3) {
            0 => self.server.disconnect(),
            1 => self.server.compact(),
            _ => self.server.write(|store| store.skip(7)),
        }
        Ok(())
    }

    /// Writes a Service as it is.
    fn rewrite(&mut self) -> Result<()> {
        let name = self.any_service();
        let same = |store: &lb_tests::apiserver::store::Store| {
            store
                .get(Kind::Service, &Name::new("default", &name))
                .cloned()
        };
        if let Some(object) = self.server.read(same) {
            self.server.inject(Kind::Service, object.as_ref().clone());
        }
        Ok(())
    }
}
