//! Where Services and endpoints come from.
//!
//! Both sources read the same objects through the same slim types ([`objects`]) and publish the
//! same thing: a [`Snapshot`], whole and new for each change. Neither publishes anything before
//! it has seen everything once, so that a restart never looks like an empty cluster (item 11).

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::IpNet;
use tokio::sync::watch;

pub use crate::model::Rejection;
use crate::model::{Model, ObjectName};

mod address;
pub mod kubernetes;
pub mod lenient;
pub mod manifest;
pub mod objects;

/// For whom a source reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Role {
    /// Name of this node.
    pub node_name: String,
    /// Name of this proxy: the Services that are handed over to it count (item 2). Without one
    /// it is those that are handed over to none.
    pub proxy_name: Option<String>,
    /// Networks that cluster addresses are allocated from; if empty, ServiceCIDRs say it.
    pub service_cidrs: BTreeSet<IpNet>,
}

/// The role of a node's ordinary proxy.
impl From<&str> for Role {
    fn from(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            ..Self::default()
        }
    }
}

/// What a source knows at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The objects that could be understood.
    pub model: Arc<Model>,
    /// What could not be understood, and was left out.
    pub rejections: Vec<Rejection>,
}

/// Where a source publishes; `None` until it has seen everything once.
pub type Sender = watch::Sender<Option<Arc<Snapshot>>>;

/// The other end of a [`Sender`].
pub type Receiver = watch::Receiver<Option<Arc<Snapshot>>>;

/// A new pair of ends.
pub fn channel() -> (Sender, Receiver) {
    watch::channel(None)
}

/// Publishes a model that was put together without a look at the last one.
///
/// Equal objects keep their `Arc`, and the maps what they have in common: whoever compares two models, as
/// each step from here to the kernel does, looks only at what they do not share.
fn publish_anew(sender: &Sender, mut model: Model, rejections: Vec<Rejection>) {
    if let Some(last) = sender.borrow().as_ref() {
        keep_equal(&mut model, &last.model);
    }
    publish(sender, model, rejections);
}

/// Publishes `model` and `rejections`, unless they are what was published last (item 12). `model` has grown
/// out of the last one.
fn publish(sender: &Sender, model: Model, rejections: Vec<Rejection>) {
    sender.send_if_modified(|published| {
        let last = published.clone().unwrap_or_default();
        if published.is_some() && *last.model == model && last.rejections == rejections {
            return false;
        }
        *published = Some(Arc::new(Snapshot {
            model: Arc::new(model),
            rejections,
        }));
        true
    });
}

/// Replaces what is equal in `last` by what is shared with it.
fn keep_equal(model: &mut Model, last: &Model) {
    let Model {
        services,
        slices,
        node,
        service_cidrs: _,
    } = model;
    share(services, &last.services);
    share(slices, &last.slices);
    if *node == last.node {
        node.clone_from(&last.node);
    }
}

/// Makes of `map` a copy of `last` with what is different in it.
fn share<V: Clone + PartialEq>(map: &mut OrdMap<ObjectName, V>, last: &OrdMap<ObjectName, V>) {
    let mut kept = last.clone();
    for item in last.diff(map) {
        match item {
            DiffItem::Add(name, value)
            | DiffItem::Update {
                new: (name, value), ..
            } => {
                kept.insert(name.clone(), value.clone());
            }
            DiffItem::Remove(name, _) => {
                kept.remove(name);
            }
        }
    }
    *map = kept;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Cause, Node, ObjectName, Slice, Slices};

    fn model(zone: &str) -> Model {
        let name = ObjectName::new("default", "alpaca");
        let slices = Slices::from([("one", Arc::new(Slice::default()))]);
        Model {
            slices: OrdMap::from_iter([(name, slices)]),
            node: Some(Arc::new(Node {
                zone: Some(zone.to_owned()),
                ..Node::default()
            })),
            ..Model::default()
        }
    }

    #[test]
    fn equal_models_are_published_once() {
        let (sender, mut receiver) = channel();
        publish(&sender, model("a"), Vec::new());
        assert!(receiver.has_changed().unwrap());
        receiver.mark_unchanged();
        publish(&sender, model("a"), Vec::new());
        assert!(!receiver.has_changed().unwrap());
    }

    #[test]
    fn an_empty_model_is_published_at_first() {
        let (sender, receiver) = channel();
        publish(&sender, Model::default(), Vec::new());
        assert!(receiver.borrow().is_some());
    }

    #[test]
    fn a_new_rejection_is_published() {
        let (sender, mut receiver) = channel();
        publish(&sender, model("a"), Vec::new());
        receiver.mark_unchanged();
        let name = ObjectName::new("default", "x");
        let rejection = Rejection {
            field: "spec.type".to_owned(),
            ..Rejection::of_service(&name, Cause::InvalidObject, "unknown")
        };
        assert_eq!(
            rejection.to_string(),
            "Service default/x: spec.type: unknown"
        );
        publish(&sender, model("a"), vec![rejection]);
        assert!(receiver.has_changed().unwrap());
    }

    #[test]
    fn a_model_that_has_grown_is_published_as_it_is() {
        let (sender, receiver) = channel();
        let mut grown = model("a");
        for number in 0..100 {
            let name = ObjectName::new("default", number.to_string());
            grown.slices.insert(name, Slices::default());
            publish(&sender, grown.clone(), Vec::new());
            let published = receiver.borrow().clone().unwrap();
            assert!(published.model.slices.ptr_eq(&grown.slices), "{number}");
        }
    }

    #[test]
    fn what_did_not_change_keeps_its_pointer() {
        let (sender, receiver) = channel();
        publish_anew(&sender, model("a"), Vec::new());
        let first = receiver.borrow().clone().unwrap();
        publish_anew(&sender, model("b"), Vec::new());
        let second = receiver.borrow().clone().unwrap();
        let slice = |snapshot: &Snapshot| {
            let (_, slices) = snapshot.model.slices.get_min().unwrap();
            slices["one"].clone()
        };
        assert!(Arc::ptr_eq(&slice(&first), &slice(&second)));
        assert_ne!(first.model.node, second.model.node);
    }
}
