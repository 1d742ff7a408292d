//! Objects of all files to one model.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::Path,
    sync::Arc,
};

use super::{
    document::{Item, Parsed},
    files::place_rejection,
    pods,
};
use crate::{
    model::{Model, ObjectName, Reference, Slice, Slices},
    source::{
        Rejection, Role,
        objects::{PodEndpoint, Selection},
    },
};

/// Builds the model for `role`.
///
/// An object that stands there twice is taken from where it stands first.
pub(super) fn assemble<'a>(
    objects: impl Iterator<Item = (&'a Path, &'a Parsed)>,
    role: &Role,
) -> (Model, Vec<Rejection>) {
    let mut seen = BTreeMap::new();
    let mut parts = Parts::default();
    parts.model.service_cidrs.clone_from(&role.service_cidrs);
    let mut rejections = Vec::new();
    for (path, object) in objects {
        let Parsed {
            place,
            identity,
            item,
            rejections: own,
            is_kept: _,
        } = object;
        let own = own.iter().cloned();
        rejections.extend(own.map(|rejection| place_rejection(path, *place, rejection)));
        let Some(item) = item else { continue };
        match seen.entry(identity) {
            Entry::Vacant(entry) => {
                entry.insert((path, place));
                parts.add(&identity.1, item, role);
            }
            Entry::Occupied(entry) => {
                let (first_path, first_place) = entry.get();
                let first = format!("{}, {first_place}", first_path.display());
                let reason = format!("stands in {first} already, and is taken from there");
                let rejection = Rejection {
                    regarding: Some(Reference::new(identity.0, identity.1.clone()).into()),
                    ..Rejection::of_file(format!("{} {}", identity.0, identity.1), reason)
                };
                rejections.push(place_rejection(path, *place, rejection));
            }
        }
    }
    (parts.into_model(), rejections)
}

/// What was found, sorted by what it is.
#[derive(Default)]
struct Parts<'a> {
    model: Model,
    selections: BTreeMap<&'a ObjectName, &'a Selection>,
    endpoints: BTreeMap<&'a ObjectName, &'a [(String, Slice)]>,
    pods: BTreeMap<&'a ObjectName, &'a PodEndpoint>,
}

impl<'a> Parts<'a> {
    fn add(&mut self, name: &'a ObjectName, item: &'a Item, role: &Role) {
        match item {
            Item::Service(service, selection) => {
                let service = Arc::new(service.clone());
                self.model.services.insert(name.clone(), service);
                self.selections
                    .extend(selection.as_ref().map(|selection| (name, selection)));
            }
            Item::Slice(owned) => {
                let slices = self.model.slices.entry(owned.service.clone());
                slices
                    .or_default()
                    .insert(name.name.clone(), owned.slice.clone());
            }
            Item::Endpoints(slices) => {
                self.endpoints.insert(name, slices);
            }
            Item::Pod(pod) => {
                self.pods.insert(name, pod);
            }
            Item::Node(node) if name.name.eq_ignore_ascii_case(&role.node_name) => {
                self.model.node = Some(Arc::new(node.clone()));
            }
            Item::ServiceCidr(nets) if role.service_cidrs.is_empty() => {
                self.model.service_cidrs.extend(nets);
            }
            Item::Node(_) | Item::ServiceCidr(_) => {}
        }
    }

    /// Services without slices get those of their Endpoints; those without either, of their Pods.
    fn into_model(self) -> Model {
        let Self {
            mut model,
            selections,
            endpoints,
            pods,
        } = self;
        let share = |slices: Vec<(String, Slice)>| -> Slices {
            let slices = slices.into_iter();
            slices
                .map(|(name, slice)| (name, Arc::new(slice)))
                .collect()
        };
        for (name, slices) in endpoints {
            if !model.slices.contains_key(name) {
                model.slices.insert(name.clone(), share(slices.to_vec()));
            }
        }
        for (name, selection) in selections {
            let service = model.services.get(name);
            let Some(service) = service.filter(|_| !model.slices.contains_key(name)) else {
                continue;
            };
            let in_namespace = pods
                .iter()
                .filter(|(pod, _)| pod.namespace == name.namespace)
                .map(|(_, pod)| *pod);
            let slices = pods::slices(&name.name, service, selection, in_namespace);
            if !slices.is_empty() {
                model.slices.insert(name.clone(), share(slices));
            }
        }
        model
    }
}
