//! What is left behind: nothing, unless it was asked for.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use lb_tests::lab::{self, Cni, Fabric, Netns, Place as _, Request};
use lb_tests::tool::Protocol;

use super::{PORT, cluster, network_file};

#[test]
fn a_removed_pod_leaves_nothing_on_its_node() {
    for cni in Cni::ALL {
        let cluster = cluster(cni, Fabric::Direct);
        let pod = cluster.pod("a", 0).unwrap();
        let (veth, cgroup) = (pod.host_veth().to_owned(), pod.cgroup().to_owned());
        let devices = || network_file(cluster.node(0).netns(), "/proc/thread-self/net/dev");
        assert!(devices().contains(&veth));
        pod.remove().unwrap();
        assert!(!devices().contains(&veth));
        assert!(!cgroup.exists());
        // Its name is free again.
        cluster.pod("a", 0).unwrap();
    }
}

/// The inode of a namespace: its identity.
fn inode(netns: &Netns) -> u64 {
    netns
        .run(|| fs::metadata("/proc/thread-self/ns/net").unwrap().ino())
        .unwrap()
}

/// The network namespaces that have a process in them.
fn used_namespaces() -> BTreeSet<u64> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let namespaces =
        processes.filter_map(|process| fs::metadata(process.path().join("ns/net")).ok());
    namespaces.map(|namespace| namespace.ino()).collect()
}

/// What on this machine carries the lab's name.
fn traces(lab: &str, cgroup_root: &Path) -> Vec<String> {
    let directories = [
        Path::new("/run/netns"),
        Path::new("/sys/fs/bpf"),
        Path::new("/run/lb-lab"),
    ];
    let entries = directories
        .into_iter()
        .chain([cgroup_root])
        .flat_map(|directory| {
            fs::read_dir(directory)
                .unwrap()
                .flatten()
                .map(|entry| entry.path().display().to_string())
        });
    let is_of_lab = |path: &String| {
        path.split('/').any(|name| {
            name.strip_prefix(lab)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    };
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1).map(str::to_owned));
    entries.chain(mounts).filter(is_of_lab).collect()
}

#[test]
fn nothing_is_left_after_a_panic() {
    let (mut lab, mut root, mut inodes) = (String::new(), Path::new("/").to_owned(), Vec::new());
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let cluster = cluster(Cni::Bridge, Fabric::Vxlan);
        let pod = cluster.pod("a", 0).unwrap();
        let _server = pod.serve(PORT).unwrap();
        // A process that nobody waits for.
        let mut shell = cluster.node(0).command("sh").unwrap();
        shell.args(["-c", "sleep 1000 &"]).status().unwrap();
        fs::create_dir(cluster.node(0).pin_dir().join("maps")).unwrap();
        lab = cluster.name().to_owned();
        root = cluster
            .node(0)
            .cgroup()
            .ancestors()
            .nth(2)
            .unwrap()
            .to_owned();
        inodes = [
            pod.netns(),
            cluster.node(0).netns(),
            cluster.client().netns(),
        ]
        .map(inode)
        .to_vec();
        assert!(traces(&lab, &root).len() >= 11);
        panic!("on purpose");
    }));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert_eq!(traces(&lab, &root), Vec::<String>::new());
    let used = used_namespaces();
    assert!(
        inodes.iter().all(|inode| !used.contains(inode)),
        "a process lives on"
    );
}

/// Removes a kept lab, whatever becomes of the test.
struct Remove(String);

impl Drop for Remove {
    fn drop(&mut self) {
        lab::remove_lab(&self.0).unwrap();
    }
}

#[test]
fn a_kept_lab_goes_on_until_it_is_removed() {
    let (remove, root, pod_address, path) = {
        let cluster = cluster(Cni::Bridge, Fabric::Direct);
        let pod = cluster.pod("a", 0).unwrap();
        let _server = pod.serve(PORT).unwrap();
        let text = cluster.keep().unwrap();
        let remove = Remove(cluster.name().to_owned());
        let path = cluster.node(1).netns().path();
        assert!(
            text.contains(&format!("nsenter --net={}\n", path.display())),
            "{text}"
        );
        let root = cluster
            .node(0)
            .cgroup()
            .ancestors()
            .nth(2)
            .unwrap()
            .to_owned();
        (remove, root, pod.ipv4(), path)
    };
    let mut nsenter = Command::new("nsenter");
    nsenter
        .arg(format!("--net={}", path.display()))
        .arg(env!("CARGO_BIN_EXE_lab-tool"));
    let request = Request::new(Protocol::Tcp, (pod_address, PORT).into());
    let output = nsenter.args(request.arguments()).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    assert!(output.contains(r#""server":"a""#), "{output}");
    lab::remove_kept().unwrap();
    assert!(!traces(&remove.0, &root).is_empty(), "its process is alive");
    let name = remove.0.clone();
    drop(remove);
    assert_eq!(traces(&name, &root), Vec::<String>::new());
    lab::remove_lab("lb").unwrap_err();
}

#[test]
fn what_a_dead_process_left_is_removed() {
    // The process is dead once it has been waited for.
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let lab = format!("lb-{}-0", child.id());
    let cluster = cluster(Cni::Bridge, Fabric::Direct);
    let root = cluster
        .node(0)
        .cgroup()
        .ancestors()
        .nth(2)
        .unwrap()
        .to_owned();
    // Forgotten, as a killed process would leave it.
    std::mem::forget(Netns::create(&format!("{lab}-node1")).unwrap());
    fs::create_dir_all(root.join(&lab).join("node1/pods/a")).unwrap();
    fs::create_dir_all(format!("/run/lb-lab/{lab}/node1")).unwrap();
    fs::create_dir_all(format!("/sys/fs/bpf/{lab}-node1/maps")).unwrap();
    fs::write(format!("/run/lb-lab/{lab}/keep"), "").unwrap();
    lab::remove_dead().unwrap();
    assert_eq!(traces(&lab, &root).len(), 5, "a kept lab stays");
    fs::remove_file(format!("/run/lb-lab/{lab}/keep")).unwrap();
    lab::remove_dead().unwrap();
    assert_eq!(traces(&lab, &root), Vec::<String>::new());
    assert!(
        !traces(cluster.name(), &root).is_empty(),
        "a living lab stays"
    );
}
