//! Requests about objects, other than watches.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::call::Call;
use super::encode::{Form, bytes};
use super::route::Target;
use super::{scale, view};
use crate::apiserver::faults::{Fault, Verb};
use crate::apiserver::shared::Shared;
use crate::apiserver::store::object::{metadata_mut, text};
use crate::apiserver::store::patch::{self, PatchType};
use crate::apiserver::store::{
    DeleteOptions, Deletion, ListOptions, Name, Object, Part, Status, Store,
};

/// An answer that is no failure.
pub(super) struct Answer {
    pub(super) code: StatusCode,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn ok(body: Vec<u8>) -> Self {
        Self {
            code: StatusCode::OK,
            body,
        }
    }
}

/// Does what a request asks for.
pub(super) fn answer(
    shared: &Arc<Shared>,
    call: &Call,
    target: &Target,
    verb: Verb,
    faults: &[Fault],
) -> Result<Answer, Status> {
    if faults.contains(&Fault::Gone) {
        return Err(Status::expired(
            "The provided continue parameter is too old",
        ));
    }
    if target.subresource.as_deref() == Some("scale") {
        return scale::answer(shared, call, target, verb);
    }
    match verb {
        Verb::Get => get(shared, call, target),
        Verb::List => {
            let options = call.list_options(target)?;
            let page = shared.read(|store| store.list(target.resource.storage, &options))?;
            Ok(Answer::ok(call.form.list(target.resource, &page)))
        }
        Verb::Create => create(shared, call, target),
        Verb::Replace => {
            let object = sent(call, target)?;
            let kind = target.resource.storage;
            let replace =
                |store: &mut Store| store.replace(kind, &target.object(), object, part(target));
            Ok(Answer::ok(shown(
                call,
                target,
                &write(shared, call, replace)?,
            )))
        }
        Verb::Patch => patch(shared, call, target),
        Verb::Delete if target.name.is_some() => delete(shared, call, target),
        Verb::Delete => delete_all(shared, call, target),
        Verb::Watch => Err(Status::no_such_path()),
    }
}

/// Changes objects, or a copy of them.
fn write<T>(
    shared: &Arc<Shared>,
    call: &Call,
    change: impl FnOnce(&mut Store) -> Result<T, Status>,
) -> Result<T, Status> {
    if is_dry(call) {
        let mut copy = shared.read(Store::clone);
        return change(&mut copy);
    }
    shared.write(|store, _| change(store))
}

fn is_dry(call: &Call) -> bool {
    !call.query.get("dryRun").is_empty()
}

fn part(target: &Target) -> Part {
    match target.subresource {
        Some(_) => Part::Status,
        None => Part::Main,
    }
}

fn shown(call: &Call, target: &Target, object: &Object) -> Vec<u8> {
    bytes(&call.form.object(target.resource, object, true))
}

fn get(shared: &Shared, call: &Call, target: &Target) -> Result<Answer, Status> {
    let (kind, name) = (target.resource.storage, target.object());
    let object = shared.read(|store| store.get(kind, &name).cloned());
    let object = object.ok_or_else(|| Status::not_found(kind, &name.name))?;
    Ok(Answer::ok(shown(call, target, &object)))
}

/// The object that a request carries.
fn sent(call: &Call, target: &Target) -> Result<Value, Status> {
    let resource = target.resource;
    let mut object = view::stored(resource, call.object()?);
    let (version, kind) = (text(&object, "/apiVersion"), text(&object, "/kind"));
    let is_right = (version.is_empty() || version == resource.api_version())
        && (kind.is_empty() || kind == resource.kind);
    if !is_right || !object.is_object() {
        return Err(Status::bad_request(format!(
            "the object provided ({version} {kind}) is not the expected one ({} {})",
            resource.api_version(),
            resource.kind
        )));
    }
    let Some(namespace) = &target.namespace else {
        return Ok(object);
    };
    let own = text(&object, "/metadata/namespace");
    if !own.is_empty() && own != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    metadata_mut(&mut object).insert("namespace".to_owned(), json!(namespace));
    Ok(object)
}

fn create(shared: &Arc<Shared>, call: &Call, target: &Target) -> Result<Answer, Status> {
    let object = sent(call, target)?;
    let now = jiff::Timestamp::now();
    let create = |store: &mut Store| store.create(target.resource.storage, object, now);
    let created = write(shared, call, create)?;
    Ok(Answer {
        code: StatusCode::CREATED,
        body: shown(call, target, &created),
    })
}

fn patch(shared: &Arc<Shared>, call: &Call, target: &Target) -> Result<Answer, Status> {
    let patch_type = PatchType::of(&call.content_type)?;
    let change = call.object()?;
    let (kind, name) = (target.resource.storage, target.object());
    let is_there = shared.read(|store| store.get(kind, &name).is_some());
    if patch_type == PatchType::Apply && !is_there {
        return create(shared, call, target);
    }
    let patched = write(shared, call, |store| {
        store.update(kind, &name, part(target), |object| {
            let mut seen = view::shown(target.resource, object).into_owned();
            patch::apply(kind, &mut seen, &change, patch_type)?;
            *object = view::stored(target.resource, seen);
            Ok(())
        })
    })?;
    Ok(Answer::ok(shown(call, target, &patched)))
}

fn delete_options(call: &Call) -> Result<DeleteOptions, Status> {
    let mut options = DeleteOptions::of(&call.object()?);
    if let Some(grace) = call.query.number("gracePeriodSeconds")? {
        options.grace = Some(grace);
    }
    Ok(options)
}

fn delete(shared: &Arc<Shared>, call: &Call, target: &Target) -> Result<Answer, Status> {
    let options = delete_options(call)?;
    let (kind, name) = (target.resource.storage, target.object());
    let deletion = if is_dry(call) {
        let now = jiff::Timestamp::now();
        shared
            .read(Store::clone)
            .delete(kind, &name, &options, now)?
    } else {
        shared.delete(kind, &name, &options)?
    };
    Ok(Answer::ok(match deletion {
        Deletion::Terminating(object) => shown(call, target, &object),
        Deletion::Gone(object) => bytes(&json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {
                "name": name.name, "group": target.resource.group, "kind": target.resource.plural,
                "uid": object["metadata"]["uid"],
            },
        })),
    }))
}

fn delete_all(shared: &Arc<Shared>, call: &Call, target: &Target) -> Result<Answer, Status> {
    let options = delete_options(call)?;
    let kind = target.resource.storage;
    let selected = ListOptions {
        selector: call.selector(target)?,
        ..ListOptions::default()
    };
    let page = shared.read(|store| store.list(kind, &selected))?;
    for object in page.objects.iter().filter(|_| !is_dry(call)) {
        match shared.delete(kind, &Name::of(object), &options) {
            // Somebody else was faster.
            Err(status) if status.code == 404 => {}
            result => drop(result?),
        }
    }
    Ok(Answer::ok(Form::Full.list(target.resource, &page)))
}
