//! What programs can know of connections is made anew under them.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use lb_common::known::Side;
use lb_common::maps::{KNOWN, LAYOUT_VERSION};
use lb_tests::lab::Cluster;
use lb_tests::scene::{Scene, Stage, reach_all_ways};

use crate::lifecycle::{finish, go_on, hold_everywhere};

/// The side of `KNOWN` that the programs of an agent ask, which has its pins there.
fn asked(pin_dir: &Path) -> Option<Side> {
    let path = pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{KNOWN}"));
    let data = MapData::from_pin(path).expect("KNOWN");
    let words: Array<_, u64> = Map::Array(data).try_into().expect("an array");
    Side::named_by(words.get(&0, 0).expect("the first word"))
}

#[test]
fn connections_go_on_and_begin_while_an_agent_finds_out_which_there_are() {
    let mut scene = Scene::new(Stage {
        cluster: Cluster::builder().nodes(2),
        backends: &[0, 1, 1],
        flags: &[],
    });
    let pod = scene.pod("client-pod", 0);
    let mut connections = hold_everywhere(&scene, &pod);
    go_on(&mut connections, "before");
    for side in [Side::Left, Side::Right] {
        for agent in &mut scene.agents {
            let pin_dir = agent.pin_dir().to_owned();
            let is_asked = |_: &_| asked(&pin_dir) == Some(side);
            let waited = agent.wait_for("programs ask another side", is_asked);
            waited.expect("a side");
        }
        go_on(&mut connections, "with another side");
        let (outside, names) = (scene.cluster.client(), scene.names());
        reach_all_ways(&pod, Scene::cluster_ips(), &names, |_| ());
        reach_all_ways(outside, scene.node_ports(0), &names, |_| ());
    }
    finish(connections);
}
