//! kubectl: the real one, where there is one. `plain` sends the same without it.

use std::process::Command;
use std::time::Duration;

use lb_tests::apiserver::ApiServer;
use lb_tests::apiserver::store::Kind;
use lb_tests::apiserver::store::object::{number, text};
use serde_json::json;
use tempfile::TempDir;

/// The example of the documentation.
pub(crate) const EXAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/examples/alpaca-prod.yaml"
);

/// kubectl, with a server and a home of its own.
struct Kubectl {
    server: ApiServer,
    home: TempDir,
}

impl Kubectl {
    /// `None` if there is none, which the test says then.
    fn find() -> Option<Self> {
        let found = Command::new("kubectl")
            .args(["version", "--client"])
            .output();
        if !found.is_ok_and(|output| output.status.success()) {
            println!("skipped for lack of kubectl; other tests send the same over plain HTTP");
            return None;
        }
        Some(Self {
            server: ApiServer::builder().tls().start().unwrap(),
            home: tempfile::tempdir().unwrap(),
        })
    }

    /// Runs a command of words without spaces; what it says is a failure, if it fails.
    fn try_run(&self, line: &str) -> Result<String, String> {
        let output = Command::new("kubectl")
            .args(line.split(' '))
            .arg("--request-timeout=20s")
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.server.kubeconfig_path())
            .env("KUBE_EDITOR", "sed -i s/NodePort/ClusterIP/")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = text(&output.stdout) + &text(&output.stderr);
        if output.status.success() {
            Ok(all)
        } else {
            Err(all)
        }
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        let output = self.try_run(line);
        output.unwrap_or_else(|error| panic!("kubectl {line}: {error}"))
    }

    #[track_caller]
    fn fails(&self, line: &str, expected: &str) {
        let error = self.try_run(line).unwrap_err();
        assert!(error.contains(expected), "kubectl {line}: {error}");
    }

    /// Applies the example.
    fn with_example() -> Option<Self> {
        let kubectl = Self::find()?;
        let output = kubectl.run(&format!("apply -f {EXAMPLE}"));
        assert_eq!(output.matches("created").count(), 4);
        Some(kubectl)
    }

    fn service(&self) -> std::sync::Arc<serde_json::Value> {
        self.server
            .get(Kind::Service, "default", "alpaca-prod")
            .unwrap()
    }
}

/// A line of a table, with single spaces.
fn line(table: &str, number: usize) -> String {
    let line = table.lines().nth(number).unwrap_or_default();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn kubectl_shows_services_with_their_selectors() {
    let Some(kubectl) = Kubectl::with_example() else {
        return;
    };
    let table = kubectl.run("get services alpaca-prod -o wide");
    assert_eq!(
        line(&table, 0),
        "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR"
    );
    let row = line(&table, 1);
    let ports = "8000:30366/TCP,8000:30366/UDP";
    let begin = format!("alpaca-prod NodePort 10.96.0.17 <none> {ports} ");
    assert!(
        row.starts_with(&begin) && row.ends_with(" app=alpaca,env=prod"),
        "{row}"
    );
}

#[test]
fn kubectl_shows_endpoints_and_pods() {
    let Some(kubectl) = Kubectl::with_example() else {
        return;
    };
    let table = kubectl.run("get endpointslices");
    assert_eq!(line(&table, 0), "NAME ADDRESSTYPE PORTS ENDPOINTS AGE");
    let endpoints = "IPv4 8000,8000 10.244.1.11,10.244.1.12,10.244.2.13 ";
    assert!(
        (1..3).any(|row| line(&table, row).contains(endpoints)),
        "{table}"
    );
    let table = kubectl.run("get pods -o wide");
    assert!(
        line(&table, 1).starts_with("alpaca-1 1/1 Running"),
        "{table}"
    );
    let description = kubectl.run("describe service alpaca-prod");
    assert!(
        description.contains("[fd00:10:244:1::11]:8000"),
        "{description}"
    );
}

#[test]
fn kubectl_applies_the_same_again_without_a_change() {
    let Some(kubectl) = Kubectl::with_example() else {
        return;
    };
    let revision = kubectl.server.read(|store| store.revision());
    let output = kubectl.run(&format!("apply -f {EXAMPLE}"));
    assert_eq!(output.matches("unchanged").count(), 4);
    kubectl.run(&format!("apply --server-side -f {EXAMPLE}"));
    kubectl.run("label --dry-run=server service alpaca-prod team=x");
    assert_eq!(kubectl.server.read(|store| store.revision()), revision);
}

#[test]
fn kubectl_changes_the_type_by_patch_and_by_editor() {
    let Some(kubectl) = Kubectl::with_example() else {
        return;
    };
    kubectl.run(r#"patch service alpaca-prod -p {"spec":{"type":"ClusterIP"}}"#);
    assert_eq!(number(&kubectl.service(), "/spec/ports/0/nodePort"), 0);
    kubectl.run(r#"patch service alpaca-prod -p {"spec":{"type":"NodePort"}}"#);
    let service = kubectl.service();
    let port = number(&service, "/spec/ports/0/nodePort");
    assert!((30_000..=32_767).contains(&port));
    assert_eq!(number(&service, "/spec/ports/1/nodePort"), port);
    kubectl.run("edit service alpaca-prod");
    let service = kubectl.service();
    assert_eq!(text(&service, "/spec/type"), "ClusterIP");
    assert_eq!(number(&service, "/spec/ports/1/nodePort"), 0);
}

#[test]
fn kubectl_deletes_pods_and_services() {
    let Some(kubectl) = Kubectl::with_example() else {
        return;
    };
    let kubectl = kubectl;
    kubectl.run("delete pod alpaca-1");
    let table = kubectl.run("get endpointslices");
    assert!(!table.contains("10.244.1.11"), "{table}");
    kubectl.run("label service alpaca-prod team=x");
    assert_eq!(
        kubectl.run("delete services -l team=x"),
        "service \"alpaca-prod\" deleted\n"
    );
    kubectl.run("delete pods --all");
    assert!(kubectl.server.list(Kind::Pod).is_empty());
    assert!(kubectl.server.list(Kind::EndpointSlice).is_empty());
}

#[test]
fn kubectl_is_told_what_is_wrong() {
    let Some(kubectl) = Kubectl::with_example() else {
        return;
    };
    kubectl.fails(
        r#"patch service alpaca-prod -p {"spec":{"type":"Nonsense"}}"#,
        "Unsupported value: \"Nonsense\"",
    );
    kubectl.fails(
        "get service nobody",
        "Error from server (NotFound): services \"nobody\" not found",
    );
    let wrong = kubectl.server.directory().join("wrong.yaml");
    let manifest = "apiVersion: v1\nkind: Service\nmetadata: {name: b}\nspec: {prots: [1]}\n";
    std::fs::write(&wrong, manifest).unwrap();
    let apply = format!("apply -f {}", wrong.display());
    kubectl.fails(&apply, "unknown field \"spec.prots\"");
    kubectl.run("expose pod alpaca-1 --port 80 --name b");
    kubectl.fails(
        r#"patch service b -p {"spec":{"type":"NodePort","ports":[{"port":80,"nodePort":30366}]}}"#,
        "provided port is already allocated",
    );
}

#[test]
fn kubectl_scales_a_deployment_and_follows_a_watch() {
    let Some(kubectl) = Kubectl::find() else {
        return;
    };
    let labels = json!({"app": "a"});
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c"}]}});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    });
    let server = &kubectl.server;
    server.apply(deployment).unwrap();
    kubectl.run("scale deployment a --replicas=4");
    assert_eq!(server.list(Kind::Pod).len(), 4);
    assert!(line(&kubectl.run("get deployments"), 1).starts_with("a 0/4 4 0 "));
    server.behave(|behaviour| behaviour.watch_timeout = Duration::from_millis(300));
    let watched = kubectl.try_run("get pods --watch");
    let watched = watched.unwrap_or_else(|error| error);
    assert_eq!(watched.matches("Pending").count(), 4, "{watched}");
}
