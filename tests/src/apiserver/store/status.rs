//! Errors as the API says them.

use serde_json::{Value, json};

use super::kind::{Kind, Resource};

/// A request that failed: a `Status` object.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// HTTP status.
    pub code: u16,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// What it is about.
    pub details: Value,
    /// A token to go on with, however inconsistent.
    pub continuation: Option<String>,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Path of the field.
    pub field: String,
    /// One word for programs.
    pub reason: &'static str,
    /// What is wrong.
    pub message: String,
}

impl Cause {
    /// A value that may not stand there.
    #[must_use]
    pub fn invalid(field: &str, value: &Value, detail: &str) -> Self {
        Self::new(
            field,
            "FieldValueInvalid",
            format!("Invalid value: {value}: {detail}"),
        )
    }

    /// A value that must stand there.
    #[must_use]
    pub fn required(field: &str, detail: &str) -> Self {
        let message = match detail {
            "" => "Required value".to_owned(),
            detail => format!("Required value: {detail}"),
        };
        Self::new(field, "FieldValueRequired", message)
    }

    /// A value that stands there twice.
    #[must_use]
    pub fn duplicate(field: &str, value: &Value) -> Self {
        Self::new(
            field,
            "FieldValueDuplicate",
            format!("Duplicate value: {value}"),
        )
    }

    /// A word that is none of those there are.
    #[must_use]
    pub fn unsupported(field: &str, value: &str, supported: &[&str]) -> Self {
        let supported: Vec<_> = supported.iter().map(|word| format!("\"{word}\"")).collect();
        Self::new(
            field,
            "FieldValueNotSupported",
            format!(
                "Unsupported value: \"{value}\": supported values: {}",
                supported.join(", ")
            ),
        )
    }

    /// A value that may not be there.
    #[must_use]
    pub fn forbidden(field: &str, detail: &str) -> Self {
        Self::new(field, "FieldValueForbidden", format!("Forbidden: {detail}"))
    }

    fn new(field: &str, reason: &'static str, message: String) -> Self {
        Self {
            field: field.to_owned(),
            reason,
            message,
        }
    }
}

impl Status {
    /// A failure without details.
    #[must_use]
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
            continuation: None,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({"name": name, "group": resource.group, "kind": resource.plural});
        self
    }

    /// There is no such path.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// There is no such object.
    #[must_use]
    pub fn not_found(kind: Kind, name: &str) -> Self {
        let resource = kind.resource();
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    /// There is one already.
    #[must_use]
    pub fn already_exists(kind: Kind, name: &str) -> Self {
        let resource = kind.resource();
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// The object is not as the request takes it to be.
    #[must_use]
    pub fn conflict(kind: Kind, name: &str, why: &str) -> Self {
        let resource = kind.resource();
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// Fields of the object are wrong.
    #[must_use]
    pub fn invalid(kind: Kind, name: &str, causes: &[Cause]) -> Self {
        let resource = kind.resource();
        let sentences: Vec<_> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        let sentences = match sentences.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {sentences}", resource.kind);
        let causes: Vec<_> = causes
            .iter()
            .map(|cause| {
                json!({"reason": cause.reason, "message": cause.message, "field": cause.field})
            })
            .collect();
        Self {
            details: json!({"name": name, "group": resource.group, "kind": resource.kind, "causes": causes}),
            ..Self::new(422, "Invalid", message)
        }
    }

    /// The options of a list are wrong.
    #[must_use]
    pub fn invalid_options(field: &str, detail: &str) -> Self {
        let cause = Cause::forbidden(field, detail);
        let message = format!(
            "ListOptions.meta.k8s.io \"\" is invalid: {field}: {}",
            cause.message
        );
        let causes =
            json!([{"reason": cause.reason, "message": cause.message, "field": cause.field}]);
        Self {
            details: json!({"group": "meta.k8s.io", "kind": "ListOptions", "causes": causes}),
            ..Self::new(422, "Invalid", message)
        }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// What is asked about has been forgotten.
    #[must_use]
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// What is asked about has not happened yet.
    #[must_use]
    pub fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        Self {
            details: json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            }),
            ..Self::new(504, "Timeout", format!("Timeout: {message}"))
        }
    }

    /// As an object.
    #[must_use]
    pub fn to_object(&self) -> Value {
        let mut object = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            object["details"] = self.details.clone();
        }
        if let Some(token) = &self.continuation {
            object["metadata"] = json!({"continue": token});
        }
        object
    }
}
