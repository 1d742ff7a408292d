//! Files that change while they are followed.

use std::{fs, os::unix::fs::symlink, path::PathBuf, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};

use super::{SERVICE, name};
use crate::source::{
    self, Receiver, Snapshot,
    manifest::{Error, MAX_DELAY, Manifests},
};

/// A change must be noticed within this time; the periodic re-reading is slower.
const DEADLINE: Duration = Duration::from_secs(5);

/// A source that follows a path in a directory of its own.
struct Followed {
    directory: TempDir,
    receiver: Receiver,
    task: JoinHandle<Result<(), Error>>,
}

impl Followed {
    /// Writes `files` and follows `path` of their directory.
    async fn start(files: &[(&str, &str)], path: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self::follow(directory, path).await
    }

    async fn follow(directory: TempDir, path: &str) -> Self {
        let (sender, mut receiver) = source::channel();
        let manifests = Manifests::new(&directory.path().join(path), "node1");
        let task = tokio::spawn(manifests.run(sender));
        let first = timeout(DEADLINE, receiver.wait_for(Option::is_some)).await;
        assert!(
            first.is_ok_and(|first| first.is_ok()),
            "nothing was published"
        );
        Self {
            directory,
            receiver,
            task,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Writes a file and renames it over `name`, as editors do.
    fn rename_over(&self, name: &str, text: &str) {
        self.write(".new", text);
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    /// Waits until the Services are these.
    #[track_caller]
    fn expect(&mut self, services: &[&str]) -> impl Future<Output = Arc<Snapshot>> {
        let expected: Vec<_> = services.iter().map(|service| name(service)).collect();
        self.expect_that(move |snapshot| snapshot.model.services.keys().eq(&expected))
    }

    async fn expect_that(&mut self, condition: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let wanted = |snapshot: &Option<Arc<Snapshot>>| snapshot.as_deref().is_some_and(&condition);
        let found = timeout(DEADLINE, self.receiver.wait_for(wanted)).await;
        let found = found.map(|snapshot| snapshot.unwrap().clone().unwrap());
        found.unwrap_or_else(|_| panic!("still {:?}", self.receiver.borrow()))
    }

    /// Ends the source by leaving it without receivers.
    async fn stop(self) {
        drop(self.receiver);
        timeout(DEADLINE, self.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}

fn service(name: &str) -> String {
    format!("---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1}}\n")
}

#[tokio::test]
async fn a_file_that_is_written_or_renamed_over_is_read_again() {
    let mut followed = Followed::start(&[("a.yaml", &service("one"))], "a.yaml").await;
    followed.expect(&["one"]).await;
    followed.rename_over("a.yaml", &service("two"));
    followed.expect(&["two"]).await;
    followed.write("a.yaml", &(service("two") + &service("three")));
    followed.expect(&["three", "two"]).await;
    followed.rename_over("a.yaml", &service("four"));
    followed.expect(&["four"]).await;
    followed.stop().await;
}

#[tokio::test]
async fn files_of_a_directory_come_and_go() {
    let files = [
        ("d/a.yaml", service("a")),
        ("d/.hidden.yaml", service("hidden")),
        ("d/sub/b.yaml", service("sub")),
        ("d/notes.txt", service("notes")),
    ];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    let mut followed = Followed::start(&files, "d").await;
    followed.expect(&["a"]).await;
    followed.write("d/b.yml", &service("b"));
    followed.expect(&["a", "b"]).await;
    followed.write(
        "d/c.json",
        r#"{"kind": "Service", "metadata": {"name": "c"}, "spec": {"clusterIP": "10.0.0.1"}}"#,
    );
    followed.expect(&["a", "b", "c"]).await;
    fs::remove_file(followed.path("d/a.yaml")).unwrap();
    followed.expect(&["b", "c"]).await;
    followed.stop().await;
}

#[tokio::test]
async fn a_config_map_that_is_swapped_is_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, text) in [("..1", service("old")), ("..2", service("new"))] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("a.yaml"), text).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/a.yaml", at("a.yaml")).unwrap();
    for path in ["a.yaml", ""] {
        let link = directory.path().join("..data_tmp");
        let swap = |to: &str| {
            symlink(to, &link).unwrap();
            fs::rename(&link, directory.path().join("..data")).unwrap();
        };
        swap("..1");
        let (sender, receiver) = source::channel();
        let manifests = Manifests::new(&directory.path().join(path), "node1");
        let task = tokio::spawn(manifests.run(sender));
        let elsewhere = tempfile::tempdir().unwrap();
        let mut followed = Followed {
            directory: elsewhere,
            receiver,
            task,
        };
        followed.expect(&["old"]).await;
        swap("..2");
        followed.expect(&["new"]).await;
        followed.stop().await;
    }
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_read_again() {
    let (a, b) = (service("a"), service("b"));
    let mut followed = Followed::start(&[("d/a.yaml", &a), ("e/b.yaml", &b)], "d").await;
    followed.expect(&["a"]).await;
    fs::rename(followed.path("d"), followed.path("gone")).unwrap();
    let missing = |snapshot: &Snapshot| !snapshot.rejections.is_empty();
    let snapshot = followed.expect_that(missing).await;
    assert_eq!(snapshot.model.services.len(), 1, "what works stays");
    fs::rename(followed.path("e"), followed.path("d")).unwrap();
    followed.expect(&["b"]).await;
    followed.write("d/c.yaml", &service("c"));
    let snapshot = followed.expect(&["b", "c"]).await;
    assert_eq!(snapshot.rejections, []);
    followed.stop().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_parsed_keeps_what_it_said() {
    let mut followed =
        Followed::start(&[("a.yaml", &service("a")), ("b.yaml", &service("b"))], "").await;
    followed.expect(&["a", "b"]).await;
    followed.rename_over("a.yaml", &(service("a2") + "---\nkind: [\n"));
    followed.rename_over("b.yaml", &service("b2"));
    let snapshot = followed.expect(&["a", "b2"]).await;
    let rejection = snapshot.rejections[0].to_string();
    let object = format!("{}, document 2: line ", followed.path("a.yaml").display());
    assert!(rejection.starts_with(&object), "{rejection}");
    assert!(
        rejection.ends_with("what it said before stays in force"),
        "{rejection}"
    );
    followed.rename_over("a.yaml", &service("a2"));
    let snapshot = followed.expect(&["a2", "b2"]).await;
    assert_eq!(snapshot.rejections, []);
    followed.stop().await;
}

#[tokio::test]
async fn an_object_with_a_bad_field_keeps_what_it_said() {
    let mut followed = Followed::start(&[("a.yaml", SERVICE)], "a.yaml").await;
    let bad = SERVICE.replace("port: 80", "port: 80000") + &service("other");
    followed.rename_over("a.yaml", &bad);
    let snapshot = followed.expect(&["alpaca", "other"]).await;
    assert_eq!(snapshot.model.services[&name("alpaca")].ports[0].port, 80);
    assert_eq!(
        snapshot.rejections[0].to_string(),
        format!(
            "{}, document 1 (line 2): Service default/alpaca: spec.ports[0].port: \
             80000 is not a port: use 1 to 65535; what it said before stays in force",
            followed.path("a.yaml").display()
        )
    );
    // Still bad, in another way: the good state is still the first one.
    followed.rename_over("a.yaml", &SERVICE.replace("port: 80", "port: -1"));
    let snapshot = followed.expect(&["alpaca"]).await;
    assert_eq!(snapshot.model.services[&name("alpaca")].ports[0].port, 80);
    followed.rename_over("a.yaml", &SERVICE.replace("port: 80", "port: 81"));
    let is_81 = |s: &Snapshot| s.model.services[&name("alpaca")].ports[0].port == 81;
    assert_eq!(followed.expect_that(is_81).await.rejections, []);
    followed.stop().await;
}

#[tokio::test]
async fn changes_that_mean_nothing_are_not_published() {
    let mut followed = Followed::start(&[("a.yaml", &service("a"))], "a.yaml").await;
    followed.receiver.mark_unchanged();
    followed.rename_over("a.yaml", &("# a comment\n".to_owned() + &service("a")));
    followed.rename_over("a.yaml", &(service("a") + &service("b")));
    timeout(DEADLINE, followed.receiver.changed())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        followed
            .receiver
            .borrow()
            .as_ref()
            .unwrap()
            .model
            .services
            .len(),
        2
    );
    followed.rename_over(
        "a.yaml",
        &("# a comment\n".to_owned() + &service("a") + &service("b")),
    );
    let quiet = timeout(MAX_DELAY * 2, followed.receiver.changed()).await;
    assert!(quiet.is_err(), "published the same again");
    followed.stop().await;
}

#[tokio::test]
async fn an_empty_directory_is_an_empty_model() {
    let mut followed = Followed::follow(tempfile::tempdir().unwrap(), "").await;
    followed.expect(&[]).await;
    followed.write("a.yaml", &service("a"));
    followed.expect(&["a"]).await;
    followed.stop().await;
}
