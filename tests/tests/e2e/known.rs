//! What programs can know of connections is made anew under them.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use lb_common::known::Side;
use lb_common::maps::{KNOWN, LAYOUT_VERSION};

use crate::lifecycle::{busy, finish, go_on, reach_everywhere};

/// The side of `KNOWN` that the programs of an agent ask, which has its pins there.
fn asked(pin_dir: &Path) -> Option<Side> {
    let path = pin_dir.join(format!("v{LAYOUT_VERSION}/maps/{KNOWN}"));
    let data = MapData::from_pin(path).expect("KNOWN");
    let words: Array<_, u64> = Map::Array(data).try_into().expect("an array");
    Side::named_by(words.get(&0, 0).expect("the first word"))
}

#[test]
fn connections_go_on_and_begin_while_an_agent_finds_out_which_there_are() {
    let (mut scene, pod, mut connections) = busy();
    for side in [Side::Left, Side::Right] {
        for agent in &mut scene.agents {
            let pin_dir = agent.pin_dir().to_owned();
            let is_asked = |_: &_| asked(&pin_dir) == Some(side);
            let waited = agent.wait_for("programs ask another side", is_asked);
            waited.expect("a side");
        }
        go_on(&mut connections, "with another side");
        reach_everywhere(&scene, &pod);
    }
    finish(connections);
}
