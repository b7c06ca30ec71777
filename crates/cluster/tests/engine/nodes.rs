//! Nodes of a cluster, in the runtime of the test.

use std::sync::Arc;

use rendezvous_cluster::watch::{Members, Settings, Watch};
use rendezvous_cluster::{
    Found, Instance, NodeAddress, Record, Secrets, SettingsDigest, Tag, Timing, Versions, View,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::servers::PATIENCE;

pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Periods of a tenth: a record lives for a second.
pub fn timing() -> Timing {
    Timing::default().scaled_down(10)
}

pub fn tag(name: u8) -> Tag {
    Tag::from([name; 4])
}

pub fn record(name: u8) -> Record {
    let port = 7000 + u16::from(name);
    Record {
        tag: tag(name),
        instance: Instance::draw(),
        address: format!("127.0.0.1:{port}").parse::<NodeAddress>().unwrap(),
        versions: Versions::new(1, 1).unwrap(),
        settings: SettingsDigest::of(&[("ttl", "60s")]),
        draining: false,
    }
}

/// A node that runs.
pub struct Node {
    pub members: Members,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Node {
    pub fn start(url: &str, own: Record) -> Self {
        Self::start_in("test", url, own)
    }

    pub fn start_in(cluster: &str, url: &str, own: Record) -> Self {
        let settings = Settings {
            url: url.parse().unwrap(),
            cluster: cluster.parse().unwrap(),
            secrets: Arc::new(Secrets::parse(SECRET).unwrap()),
            own,
            timing: timing(),
        };
        let (watch, members) = Watch::new(settings);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(watch.run(async { drop(stopped.await) }));
        Self { members, stop: Some(stop), task }
    }

    /// Starts the nodes 1 to `count` and waits until all know all and believe it.
    pub async fn start_all(url: &str, count: u8) -> Vec<Self> {
        let nodes: Vec<Self> = (1..=count).map(|name| Self::start(url, record(name))).collect();
        for node in &nodes {
            node.until("all know all", |view| {
                view.members().len() == usize::from(count)
                    && view.believed.is_some()
                    && view.believed == view.read
            })
            .await;
        }
        nodes
    }

    /// Stops the node as a clean exit does.
    pub async fn exit(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        timeout(PATIENCE, &mut self.task).await.unwrap().unwrap();
    }

    /// Waits for a view.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&View) -> bool) -> Arc<View> {
        let mut views = self.members.subscribe();
        let found = timeout(PATIENCE, views.wait_for(|view| holds(view))).await;
        found.unwrap_or_else(|_| panic!("{what}: {:?}", self.members.view())).unwrap().clone()
    }

    /// Checks every view from now on, until one fulfils `end`.
    pub async fn always(&self, what: &str, holds: impl Fn(&View) -> bool, end: impl Fn(&View) -> bool) {
        self.until(what, |view| {
            assert!(holds(view), "{what}: {view:?}");
            end(view)
        })
        .await;
    }
}

/// Returns whether the node is a member.
pub fn knows(view: &View, name: u8) -> bool {
    matches!(view.find(tag(name)), Some(Found::Member(_)))
}

impl Drop for Node {
    fn drop(&mut self) {
        // As if the process were killed.
        self.task.abort();
    }
}
