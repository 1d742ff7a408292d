//! Which objects a list or a watch is about.

use serde_json::Value;

use super::kind::Resource;
use super::object::{label, text};
use super::status::Status;

/// Conditions on labels, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    Missing,
    In(Vec<String>),
    /// True without the label, too.
    NotIn(Vec<String>),
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    ///
    /// # Errors
    /// A `BadRequest` that says which part is none of these.
    pub fn parse(input: &str) -> Result<Self, Status> {
        parts(input)
            .into_iter()
            .map(requirement)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The selector of a Service: equality of each.
    #[must_use]
    pub fn from_map(map: &serde_json::Map<String, Value>) -> Self {
        let requirement = |(key, value): (&String, &Value)| Requirement {
            key: key.clone(),
            operator: Operator::In(vec![value.as_str().unwrap_or_default().to_owned()]),
        };
        Self(map.iter().map(requirement).collect())
    }

    /// Whether an object has such labels.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|Requirement { key, operator }| {
            let value = label(object, key);
            let is_one_of =
                |values: &[String]| value.is_some_and(|v| values.iter().any(|w| w == v));
            match operator {
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
                Operator::In(values) => is_one_of(values),
                Operator::NotIn(values) => !is_one_of(values),
            }
        })
    }
}

/// Splits at commas outside of parentheses.
fn parts(input: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    input
        .split(move |letter| {
            match letter {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            letter == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn requirement(part: &str) -> Result<Requirement, Status> {
    let (key, operator) = if let Some(key) = part.strip_prefix('!') {
        (key, Operator::Missing)
    } else if let Some((key, set)) = part.split_once(" notin ") {
        (key, Operator::NotIn(set_of(part, set)?))
    } else if let Some((key, set)) = part.split_once(" in ") {
        (key, Operator::In(set_of(part, set)?))
    } else if let Some((key, value)) = part.split_once("!=") {
        (key, Operator::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Operator::In(vec![value.trim().to_owned()]))
    } else {
        (part, Operator::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains(|c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c)))
    {
        return Err(unparsable(part));
    }
    Ok(Requirement {
        key: key.to_owned(),
        operator,
    })
}

fn set_of(part: &str, set: &str) -> Result<Vec<String>, Status> {
    let inner = set
        .trim()
        .strip_prefix('(')
        .and_then(|s| s.strip_suffix(')'));
    let inner = inner.ok_or_else(|| unparsable(part))?;
    Ok(inner
        .split(',')
        .map(|word| word.trim().to_owned())
        .collect())
}

fn unparsable(part: &str) -> Status {
    Status::bad_request(format!("unable to parse requirement: {part}"))
}

/// Conditions on fields, all of which must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Reads `metadata.name=a,spec.type!=b`.
    ///
    /// # Errors
    /// A `BadRequest` if the resource has no such field to select by.
    pub fn parse(input: &str, resource: &Resource) -> Result<Self, Status> {
        let parse = |part: &str| {
            let (field, is_equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (field, true, value)
            } else {
                return Err(Status::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            let pointer = pointer(field.trim(), resource)?;
            Ok((pointer.to_owned(), is_equal, value.trim().to_owned()))
        };
        let parts = input
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        parts.map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an object has such fields.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        self.0
            .iter()
            .all(|(pointer, is_equal, value)| (field(object, pointer) == *value) == *is_equal)
    }
}

/// A field as selectors see it: text, "" if it is not there.
fn field<'a>(object: &'a Value, pointer: &str) -> &'a str {
    match object.pointer(pointer) {
        Some(Value::Bool(true)) => "true",
        Some(Value::Bool(false)) => "false",
        None if pointer == "/spec/unschedulable" => "false",
        _ => text(object, pointer),
    }
}

fn pointer(field: &str, resource: &Resource) -> Result<&'static str, Status> {
    match field {
        "metadata.name" => return Ok("/metadata/name"),
        "metadata.namespace" => return Ok("/metadata/namespace"),
        _ => {}
    }
    let known = resource.fields.iter().find(|(name, _)| *name == field);
    known
        .map(|(_, pointer)| *pointer)
        .ok_or_else(|| Status::bad_request(format!("field label not supported: {field}")))
}

/// Which objects a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Only this one, or all.
    pub namespace: Option<String>,
    /// Conditions on labels.
    pub labels: LabelSelector,
    /// Conditions on fields.
    pub fields: FieldSelector,
}

impl Selector {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Whether it is about `object`.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let namespace = self.namespace.as_deref();
        namespace.is_none_or(|namespace| text(object, "/metadata/namespace") == namespace)
            && self.labels.matches(object)
            && self.fields.matches(object)
    }

    /// Whether objects may be left out for other reasons than their namespace.
    #[must_use]
    pub fn is_selective(&self) -> bool {
        self.labels != LabelSelector::default() || self.fields != FieldSelector::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::apiserver::store::Kind;

    #[track_caller]
    fn check(selector: &str, matching: &[Value], others: &[Value]) {
        let parsed = LabelSelector::parse(selector).unwrap();
        let object = |labels: &Value| json!({"metadata": {"labels": labels}});
        for labels in matching {
            assert!(parsed.matches(&object(labels)), "{selector} {labels}");
        }
        for labels in others {
            assert!(!parsed.matches(&object(labels)), "{selector} {labels}");
        }
    }

    #[test]
    fn labels_are_selected_by_equality_set_and_existence() {
        let (a, b, none) = (json!({"x": "a"}), json!({"x": "b", "y": ""}), json!({}));
        let all = [a.clone(), b.clone(), none.clone()];
        check("", &all, &[]);
        check("x=a", std::slice::from_ref(&a), &[b.clone(), none.clone()]);
        check("x==a", std::slice::from_ref(&a), std::slice::from_ref(&b));
        check("x!=a", &[b.clone(), none.clone()], std::slice::from_ref(&a));
        check(
            "x in (a, c),!y",
            std::slice::from_ref(&a),
            &[b.clone(), none.clone()],
        );
        check(
            "x notin (a,c)",
            &[b.clone(), none.clone()],
            std::slice::from_ref(&a),
        );
        check("x", &[a.clone(), b.clone()], std::slice::from_ref(&none));
        check("!x", &[none], &[a, b]);
    }

    #[test]
    fn a_selector_that_is_none_is_a_bad_request() {
        for text in ["a in b", "=x", "a b", "!"] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn fields_are_compared_as_text_and_a_missing_one_is_empty() {
        let resource = Kind::Service.resource();
        let headless = json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "None"}});
        let external = json!({"metadata": {"name": "b"}, "spec": {"type": "ExternalName"}});
        let parse = |text| FieldSelector::parse(text, resource).unwrap();
        assert!(!parse("spec.clusterIP!=None").matches(&headless));
        assert!(parse("spec.clusterIP!=None").matches(&external));
        assert!(parse("spec.clusterIP=").matches(&external));
        assert!(parse("metadata.name=a,spec.clusterIP==None").matches(&headless));
        assert!(!parse("metadata.name=a,spec.type=X").matches(&headless));
        let error = FieldSelector::parse("spec.ports=1", resource).unwrap_err();
        assert_eq!(error.message, "field label not supported: spec.ports");
    }
}
