use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
}

/// `verb group/resource` of all rules of the deployed ClusterRoles and Roles.
fn granted() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/lb-agent.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut granted = Vec::new();
    for document in documents {
        let kind = document["kind"].as_str().unwrap();
        if !matches!(kind, "ClusterRole" | "Role") {
            continue;
        }
        let rules: Vec<Rule> = serde_json::from_value(document["rules"].clone()).unwrap();
        for rule in rules {
            for group in &rule.api_groups {
                for resource in &rule.resources {
                    let verbs = rule.verbs.iter();
                    granted.extend(verbs.map(|verb| format!("{verb} {group}/{resource}")));
                }
            }
        }
    }
    granted.sort_unstable();
    granted
}

#[test]
fn s66_the_agent_may_watch_what_a_proxy_watches_and_tell_events_and_nothing_else() {
    assert_eq!(
        granted(),
        [
            "create events.k8s.io/events",
            "list /nodes",
            "list /services",
            "list discovery.k8s.io/endpointslices",
            "list networking.k8s.io/servicecidrs",
            "patch events.k8s.io/events",
            "watch /nodes",
            "watch /services",
            "watch discovery.k8s.io/endpointslices",
            "watch networking.k8s.io/servicecidrs",
        ]
    );
}
