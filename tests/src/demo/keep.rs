//! How to look around in a lab that stays.

use std::env;
use std::fmt::Write as _;

use anyhow::Result;

use super::frontends::pin;
use super::scene::Scene;
use super::show::Show;
use super::source::Source;
use crate::lab::Place as _;

/// Lets the lab outlive the demo; says how to look around in it.
pub(super) fn keep(show: &Show, scene: &Scene) -> Result<String> {
    show.heading("The lab stays");
    let mut text = scene.cluster().keep()?;
    let _ = match scene.source() {
        Source::Manifests(path) => {
            let path = path.display();
            writeln!(text, "Manifests, which the agents follow: {path}")
        }
        Source::Kubernetes(api) => writeln!(
            text,
            "An API server, which the agents follow: {}
       and kubectl scale deployment alpaca --replicas=2 starts two pods more",
            api.line()
        ),
    };
    for (node, agent) in scene.cluster().nodes().iter().zip(scene.agents()) {
        let (name, log) = (node.name(), agent.log().display());
        let maps = pin(agent);
        let maps = maps.parent().unwrap_or(&maps).display();
        let _ = writeln!(text, "{name}: log {log}\n       maps {maps}");
    }
    let client = scene.cluster().client().netns().path();
    let [target, _] = scene.node_ports(0);
    let _ = writeln!(
        text,
        "Try, for example:
  nsenter --net={} {} request --to {target}",
        client.display(),
        beside("lab-tool"),
    );
    if let Some(agent) = scene.agents().first() {
        let pins = agent.pin_dir().display();
        let _ = writeln!(text, "  bpftool map dump pinned {}", pin(agent).display());
        let _ = writeln!(text, "  {} counters --pin-dir {pins}", beside("lb-agent"));
    }
    let _ = writeln!(text, "Remove it: cargo xtask demo --remove");
    Ok(text)
}

/// How to call a program that was built with this one.
fn beside(program: &str) -> String {
    env::current_exe().map_or_else(
        |_| program.to_owned(),
        |own| own.with_file_name(program).display().to_string(),
    )
}
