//! Who changes objects: kubectl where there is one, else the stand-in's own handle.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use lb_tests::apiserver::ApiServer;
use lb_tests::apiserver::store::Kind;
use lb_tests::apiserver::store::object::text;
use serde_json::{Value, json};

/// A user of a cluster. Every command says when it has returned.
pub(super) struct User<'a> {
    server: &'a ApiServer,
    has_kubectl: bool,
}

impl<'a> User<'a> {
    pub(super) fn of(server: &'a ApiServer) -> Self {
        let version = Command::new("kubectl")
            .args(["version", "--client"])
            .output();
        let has_kubectl = version.is_ok_and(|output| output.status.success());
        if !has_kubectl {
            println!("for lack of kubectl, the stand-in's own handle does the same");
        }
        Self {
            server,
            has_kubectl,
        }
    }

    /// Runs kubectl; `None` if there is none.
    #[track_caller]
    pub(super) fn kubectl(&self, arguments: &[&str]) -> Option<String> {
        if !self.has_kubectl {
            return None;
        }
        let output = Command::new("kubectl")
            .args(arguments)
            .arg("--request-timeout=20s")
            .env("HOME", self.server.directory())
            .env("KUBECONFIG", self.server.kubeconfig_path())
            .output()
            .expect("kubectl");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "kubectl {}: {}",
            arguments.join(" "),
            said(&output.stderr)
        );
        Some(said(&output.stdout))
    }

    /// `kubectl apply -f`
    #[track_caller]
    pub(super) fn apply_file(&self, path: &str) -> Instant {
        if self.kubectl(&["apply", "-f", path]).is_none() {
            let text = fs::read_to_string(path).expect("a manifest");
            self.server.apply_yaml(&text).expect("good objects");
        }
        Instant::now()
    }

    /// `kubectl apply -f` of a file with these objects, in YAML.
    #[track_caller]
    pub(super) fn apply(&self, objects: &[Value]) -> Instant {
        let path = self.server.directory().join("objects.yaml");
        let documents = objects.iter().map(|object| format!("---\n{object}\n"));
        fs::write(&path, documents.collect::<String>()).expect("a manifest");
        self.apply_file(as_text(&path))
    }

    /// `kubectl patch --type=merge`
    #[track_caller]
    pub(super) fn patch(&self, kind: Kind, name: &str, patch: &Value) -> Instant {
        let text = patch.to_string();
        let words = ["patch", &word(kind), name, "--type=merge", "-p", &text];
        if self.kubectl(&words).is_none() {
            let namespace = namespace(kind);
            let patched = self.server.patch(kind, namespace, name, patch);
            patched.expect("a good patch");
        }
        Instant::now()
    }

    /// `kubectl label`; without a value, the label goes.
    #[track_caller]
    pub(super) fn label(&self, kind: Kind, name: &str, key: &str, value: Option<&str>) -> Instant {
        let label = match value {
            Some(value) => format!("{key}={value}"),
            None => format!("{key}-"),
        };
        let words = ["label", "--overwrite", &word(kind), name, &label];
        if self.kubectl(&words).is_none() {
            let patch = json!({"metadata": {"labels": {key: value}}});
            let patched = self.server.patch(kind, namespace(kind), name, &patch);
            patched.expect("a good label");
        }
        Instant::now()
    }

    /// `kubectl delete`
    #[track_caller]
    pub(super) fn delete(&self, kind: Kind, names: &[&str]) -> Instant {
        let kind_word = word(kind);
        let words = [&["delete", &kind_word], names].concat();
        if self.kubectl(&words).is_none() {
            for name in names {
                let deleted = self.server.delete(kind, namespace(kind), name);
                deleted.expect("an object");
            }
        }
        Instant::now()
    }

    /// Whether an object has an event of this type and reason.
    pub(super) fn has_event(&self, object: (&str, &str), kind: &str, reason: &str) -> bool {
        self.server.list(Kind::Event).iter().any(|event| {
            let of = (
                text(event, "/involvedObject/kind"),
                text(event, "/involvedObject/name"),
            );
            let says = (text(event, "/type"), text(event, "/reason"));
            of == object && says == (kind, reason)
        })
    }
}

/// What kubectl calls it.
fn word(kind: Kind) -> String {
    format!("{kind:?}").to_lowercase()
}

fn namespace(kind: Kind) -> &'static str {
    if kind == Kind::Node { "" } else { "default" }
}

fn as_text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
