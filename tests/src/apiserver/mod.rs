//! An API server to test against: a stand-in that real clients take for a real one.
//!
//! It speaks HTTP or HTTPS to the kube client and to kubectl. It keeps Services,
//! EndpointSlices, Pods, Nodes and what else is around them in memory, gives them the addresses
//! and ports that a cluster gives, and does what controllers would do next. What goes wrong
//! between servers and clients goes wrong on request, or by chance ([`faults`]).
//!
//! ```
//! use lb_tests::apiserver::ApiServer;
//! use lb_tests::apiserver::store::Kind;
//! use serde_json::json;
//!
//! # fn main() -> anyhow::Result<()> {
//! let server = ApiServer::start()?;
//! let service = server.apply(json!({
//!     "apiVersion": "v1", "kind": "Service", "metadata": {"name": "alpaca"},
//!     "spec": {"type": "NodePort", "ports": [{"port": 8000}]},
//! }))?;
//! assert_eq!(service["spec"]["ports"][0]["nodePort"], 30086);
//! assert!(server.get(Kind::Service, "default", "alpaca").is_some());
//! println!("export KUBECONFIG={}", server.kubeconfig_path().display());
//! # Ok(())
//! # }
//! ```
//!
//! Where it differs from a real one: nobody has to log in; a manifest may say the status of a pod
//! or a node, because there is no kubelet; server-side apply merges, and does not remember whose
//! field is whose; there are no `managedFields`.

mod behaviour;
mod connections;
mod controller;
pub mod faults;
mod http;
mod kubeconfig;
mod pause;
mod seed;
mod server;
mod shared;
pub mod store;
mod tls;

pub use self::behaviour::{Behaviour, Gone};
pub use self::http::Query;
pub use self::server::{ApiServer, Builder};
pub use self::shared::Request;
