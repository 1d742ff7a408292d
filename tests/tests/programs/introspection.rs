//! The maps read like tables in `bpftool`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use lb_agent::{
    dataplane::bpf::{self, BpfDataplane, Options, TcMode, XdpMode},
    desired::NodeView,
    model::Model,
    object,
    reconcile::Reconciler,
    source::{self, manifest::Manifests},
};
use lb_common::{DatapathConfig, maps};
use lb_tests::{
    lab,
    programs::{Family, specs},
};
use serde_json::{Value, json};

/// Pins that go with the test.
struct PinDir(PathBuf);

impl PinDir {
    fn map(&self, name: &str) -> PathBuf {
        self.0
            .join(format!("v{}/maps/{name}", maps::LAYOUT_VERSION))
    }
}

impl Drop for PinDir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("remove the pins");
    }
}

fn open(test: &str) -> (PinDir, BpfDataplane) {
    lab::preflight().unwrap();
    let name = format!("lb-{}-{test}", std::process::id());
    let pins = PinDir(Path::new("/sys/fs/bpf").join(name));
    let options = Options {
        pin_dir: pins.0.clone(),
        cgroup: None,
        xdp: XdpMode::Native,
        tc: TcMode::Auto,
        maps: specs(),
        config: DatapathConfig::DEFAULT,
        discards_unknown_layouts: false,
        stop_after: None,
    };
    let dataplane = bpf::open(object::LB, &options).unwrap();
    (pins, dataplane)
}

fn bpftool(arguments: &[&str]) -> Value {
    let output = Command::new("bpftool")
        .arg("-j")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
}

/// What the agent makes of the manifests of the tutorial.
fn alpaca_prod() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/alpaca-prod.yaml");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (sender, mut snapshots) = source::channel();
        let source = tokio::spawn(Manifests::new(&path, "node1").run(sender));
        let snapshot = snapshots.wait_for(Option::is_some).await.unwrap().clone();
        source.abort();
        let snapshot = snapshot.unwrap();
        assert_eq!(snapshot.rejections, []);
        Model::clone(&snapshot.model)
    })
}

#[test]
fn frontends_are_dumped_with_the_names_of_their_fields() {
    let (pins, dataplane) = open("dump");
    let node = NodeView {
        name: "node1".into(),
        node_port_addresses: Family::ALL.map(|family| family.node(1)).into(),
        ..NodeView::default()
    };
    let mut reconciler = Reconciler::new(dataplane, DatapathConfig::DEFAULT.seed).unwrap();
    let outcome = reconciler
        .reconcile(&alpaca_prod(), &node, Instant::now())
        .unwrap();
    assert_eq!(outcome.rejections, []);

    let path = pins.map(maps::FRONTENDS);
    let dump = bpftool(&["map", "dump", "pinned", path.to_str().unwrap()]);
    let elements = dump.as_array().unwrap();
    assert_eq!(
        elements.len(),
        8,
        "two families, two protocols, two addresses: {dump}"
    );
    let find = |octets: [u8; 4], port: u16, protocol: u8| {
        let mapped = [&[0; 10][..], &[0xff, 0xff], &octets].concat();
        let key = json!({
            "addr": {"octets": mapped}, "port": port, "protocol": protocol, "pad": 0,
        });
        let found = elements
            .iter()
            .find(|element| element["formatted"]["key"] == key);
        let found = found.unwrap_or_else(|| panic!("no {key} in {dump}"));
        found["formatted"]["value"].clone()
    };
    for protocol in [6, 17] {
        let cluster_ip = find([10, 96, 0, 17], 8000, protocol);
        let node_port = find([192, 168, 77, 11], 30366, protocol);
        assert_eq!(cluster_ip["service"], node_port["service"]);
        for frontend in [&cluster_ip, &node_port] {
            assert!(
                frontend["outside"]["bits"].as_u64().unwrap() >= 7,
                "{frontend}"
            );
            assert!(frontend["generation"].as_u64().unwrap() >= 1, "{frontend}");
        }
        assert_eq!([&cluster_ip["flags"], &node_port["flags"]], [8, 9]);
    }
}

#[test]
fn every_map_has_type_information() {
    let (pins, _dataplane) = open("btf");
    // A ring buffer has no elements to describe.
    for spec in maps::SPECS.iter().filter(|spec| spec.value_size > 0) {
        let path = pins.map(spec.name);
        let map = bpftool(&["map", "show", "pinned", path.to_str().unwrap()]);
        assert_eq!(map["name"], spec.name);
        assert!(map["btf_id"].as_u64().is_some_and(|id| id > 0), "{map}");
    }
}
