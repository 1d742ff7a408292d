//! The demo that stays: its API server and its pods are there when the demo is over.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use lb_tests::lab;
use serde_json::Value;

/// How long it may take until a pod that was asked for answers.
const DEADLINE: Duration = Duration::from_secs(20);

/// Removes a kept lab, whatever becomes of the test.
struct Remove(String);

impl Drop for Remove {
    fn drop(&mut self) {
        lab::remove_lab(&self.0).expect("a lab to be removed");
    }
}

/// What follows `start` in a text, up to the next space or line.
fn word<'a>(text: &'a str, start: &str) -> &'a str {
    let (_, rest) = text.rsplit_once(start).expect("a word in the output");
    rest.split_whitespace().next().unwrap_or_default()
}

#[test]
fn kubectl_starts_pods_that_answer_in_the_lab_of_a_demo_that_is_over() {
    let output = Command::new(env!("CARGO_BIN_EXE_lab-demo"))
        .args(["--kubernetes", "--keep"])
        .output()
        .expect("a demo");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let name = word(&text, "The lab ").to_owned();
    let removal = Remove(name.clone());
    assert!(output.status.success(), "{text}");
    let summary: Value = serde_json::from_str(text.lines().last().expect("lines")).expect("JSON");
    assert_eq!(summary["failed"], 0, "{text}");

    let kubeconfig = word(&text, "KUBECONFIG=");
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["scale", "deployment", "alpaca", "--replicas=1"]);
    match kubectl.env("KUBECONFIG", kubeconfig).output() {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            let begun = Instant::now();
            // The demo's own are alpaca-1 and so on; a Deployment's have longer names.
            while !servers(&text)
                .iter()
                .any(|name| name.matches('-').count() > 1)
            {
                assert!(begun.elapsed() < DEADLINE, "no new pod answers");
            }
        }
        Err(error) => println!("there is no kubectl to scale with: {error}"),
    }

    drop(removal);
    let ours = format!("/run/lb-lab/{name}");
    assert!(!Path::new(&ours).exists());
    let process = name.split('-').nth(1).expect("a process id");
    let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    assert!(
        state.is_empty() || state.contains(") Z "),
        "the process lives on"
    );
}

/// Who answers requests by the way that the demo names.
fn servers(text: &str) -> Vec<String> {
    let namespace = word(text, "nsenter --net=");
    let to = word(text, "--to ");
    let mut nsenter = Command::new("nsenter");
    nsenter.arg(format!("--net={namespace}"));
    nsenter.arg(env!("CARGO_BIN_EXE_lab-tool"));
    let request = nsenter.args(["request", "--to", to, "--count", "40"]);
    let output = request.output().expect("a client");
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    let replies = output.lines().map(|line| {
        let reply: Value = serde_json::from_str(line).expect("JSON");
        reply["server"].as_str().unwrap_or_default().to_owned()
    });
    replies.collect()
}
