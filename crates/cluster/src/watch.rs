//! [`Watch`], the task that keeps a node in the directory, and [`Members`], through which everybody else sees the others.
//!
//! *Invariants.* Only a read that began after a lookup answers it with [`Lookup::Unknown`]. A node that exits by `stop` removes its record.
//!
//! *Concurrency.* One task runs [`Watch::run`]. [`Members`] is cloned freely: views are read without waiting, and lookups of unknown nodes
//! share the next read. One lock guards the [`Membership`], held for map operations and the publishing of a view, never across an await.
//!
//! *Bounds.* A read each [`Timing::interval`], and at most one each [`Timing::spacing`] while lookups wait. A lookup takes at most
//! [`Members::LOOKUP_CALLS`] times [`Timing::call`].

use std::sync::Arc;

use parking_lot::Mutex;
use rendezvous_protocol::Tag;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::directory::Directory;
use crate::members::Membership;
use crate::name::ClusterName;
use crate::record::Record;
use crate::secret::Secrets;
use crate::timing::Timing;
use crate::url::EngineUrl;
use crate::view::{Departed, Found, Member, View};

/// What a node needs to take part in a cluster.
#[derive(Debug)]
pub struct Settings {
    /// Where the engine is.
    pub url: EngineUrl,
    /// Which cluster.
    pub cluster: ClusterName,
    /// Its secret.
    pub secrets: Arc<Secrets>,
    /// What this node publishes.
    pub own: Record,
    /// The periods of the rules.
    pub timing: Timing,
}

/// The task that keeps this node in the directory.
#[derive(Debug)]
#[must_use = "a node is in the directory only while this runs"]
pub struct Watch {
    directory: Directory,
    shared: Arc<Shared>,
}

/// The members of the cluster as this node knows them. Cloning copies a reference.
#[derive(Debug, Clone)]
pub struct Members(Arc<Shared>);

/// The live link to a node. While it exists, the node is a member.
#[derive(Debug)]
#[must_use = "the link ends when this is dropped"]
pub struct Link {
    shared: Arc<Shared>,
    tag: Tag,
}

/// What is known about the node with a tag.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// It is a member.
    Member(Member),
    /// It has vanished a short time ago, and may still run, cut off from the engine: it is worth one attempt to connect. If that fails, the
    /// request gets 503 and not 404.
    Departed(Departed),
    /// There is no such node, by a believed read that began after the lookup: 404.
    Unknown,
    /// There is no such node in the last view, and no believed read that began after the lookup: 503.
    NotBelieved,
}

#[derive(Debug)]
struct Shared {
    membership: Mutex<Membership>,
    views: watch::Sender<Arc<View>>,
    /// A lookup waits for a read, or the own record has changed.
    wanted: Notify,
    timing: Timing,
}

impl Watch {
    /// Creates the task and the view of the members. Connects to nothing yet.
    pub fn new(settings: Settings) -> (Self, Members) {
        let Settings { url, cluster, secrets, own, timing } = settings;
        let membership = Membership::new(own, timing);
        let (views, _) = watch::channel(Arc::new(membership.view(Instant::now())));
        let shared =
            Arc::new(Shared { membership: Mutex::new(membership), views, wanted: Notify::new(), timing });
        let directory = Directory::new(url, cluster, secrets, timing);
        (Self { directory, shared: Arc::clone(&shared) }, Members(shared))
    }

    /// Keeps the record of this node in the directory and publishes a view after each attempt to read it, until `stop`; then removes the
    /// record. An engine that is down is tried again at each interval.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::select! {
            () = self.keep() => {}
            () = stop => {}
        }
        let (own, known) = self.shared.membership.lock().known();
        // Without this the record expires, so a failure needs no answer.
        let _ = timeout(2 * self.shared.timing.call, self.directory.remove(&own, known)).await;
    }

    /// Never returns.
    async fn keep(&mut self) {
        let Timing { interval: period, spacing, .. } = self.shared.timing;
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.shared.wanted.notified() => {}
            }
            let started = Instant::now();
            self.attempt(started).await;
            sleep_until(started + spacing).await;
        }
    }

    async fn attempt(&mut self, started: Instant) {
        let ((own, known), heard) = {
            let membership = self.shared.membership.lock();
            (membership.known(), membership.heard(started))
        };
        let result = self.directory.renew(&own, known, &heard).await;
        let now = Instant::now();
        self.shared.change(now, |membership| match result {
            // What was read under a tag that has changed meanwhile says nothing about the new one.
            Ok(read) if membership.known().0.tag != own.tag => drop(read),
            Ok(read) => membership.apply(read, now),
            Err(error) => membership.fail(started, one_line(&error.to_string()).into(), now),
        });
    }
}

/// Joins the lines of a message, which the engine may have sent.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Shared {
    /// Changes the membership and publishes the view.
    fn change(&self, now: Instant, change: impl FnOnce(&mut Membership)) {
        let mut membership = self.membership.lock();
        change(&mut membership);
        let mut view = membership.view(now);
        self.views.send_modify(|current| {
            view.generation = current.generation + u64::from(!view.agrees_with(current));
            *current = Arc::new(view);
        });
    }
}

impl Members {
    /// The time limit of a lookup in units of [`Timing::call`]: the end of an attempt in progress, and one that begins after the lookup.
    pub const LOOKUP_CALLS: u32 = 2;

    /// Returns the current view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0.views.borrow().clone()
    }

    /// Returns a receiver of all later views: one after each attempt to read the directory, and at each change of links or of the own
    /// record.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.0.views.subscribe()
    }

    /// Looks a node up. Answers at once if it is a member or has vanished a short time ago, else after a read that begins after this.
    pub async fn lookup(&self, tag: Tag) -> Lookup {
        let found = |view: &View| {
            view.find(tag).map(|found| match found {
                Found::Member(member) => Lookup::Member(member.clone()),
                Found::Departed(departed) => Lookup::Departed(departed.clone()),
            })
        };
        if let Some(found) = found(&self.view()) {
            return found;
        }
        match self.reread().await {
            Some(view) => found(&view).unwrap_or(Lookup::Unknown),
            None => found(&self.view()).unwrap_or(Lookup::NotBelieved),
        }
    }

    /// Waits for a believed read of the directory that begins after this, and returns its view. `None` if the next attempt that begins
    /// after this fails or is not believed, or nothing ends in time.
    ///
    /// A hop that carries a higher number than the own list needs this before it decides about a named path.
    pub async fn reread(&self) -> Option<Arc<View>> {
        let asked = Instant::now();
        let mut views = self.0.views.subscribe();
        let read = async {
            loop {
                let view = views.borrow_and_update().clone();
                // An attempt that began at the same instant may have begun before.
                if view.attempted.is_some_and(|began| began > asked) {
                    return view.believed.is_some_and(|began| began > asked).then_some(view);
                }
                self.0.wanted.notify_one();
                views.changed().await.ok()?;
            }
        };
        timeout(self.0.timing.call * Self::LOOKUP_CALLS + self.0.timing.spacing, read).await.ok().flatten()
    }

    /// Replaces what this node publishes: because it drains, or because another node has its tag. Written to the directory at once.
    pub fn publish(&self, own: Record) {
        self.0.change(Instant::now(), |membership| membership.publish(own));
        self.0.wanted.notify_one();
    }

    /// Notes that at the address of a node nothing answers for its tag.
    pub fn refuse(&self, tag: Tag) {
        self.0.change(Instant::now(), |membership| membership.refuse(tag));
    }

    /// Notes a live link to a node, which has proved its tag and sent this record over it.
    pub fn link(&self, record: Record) -> Link {
        let tag = record.tag;
        self.0.change(Instant::now(), |membership| membership.link(record, Instant::now()));
        Link { shared: Arc::clone(&self.0), tag }
    }
}

impl Link {
    /// Notes that the node was heard, and takes the record that it has sent, which changes when it drains. A record of another node changes
    /// nothing.
    pub fn hear(&self, record: Record) {
        if record.tag != self.tag {
            return;
        }
        self.beat();
        let is_new = self.shared.membership.lock().is_new(&record);
        if is_new {
            self.shared.change(Instant::now(), |membership| membership.update(record));
        }
    }

    /// Notes that the node was heard, and has nothing to tell.
    pub fn beat(&self) {
        self.shared.membership.lock().hear(self.tag, Instant::now());
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let now = Instant::now();
        self.shared.change(now, |membership| membership.unlink(self.tag, now));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::members::Read;
    use crate::record::tests::{cluster, record, secrets};
    use crate::view::Registration;

    /// A watch that does not run: the test plays the reads.
    fn members() -> Members {
        let settings = Settings {
            url: "redis://127.0.0.1".parse().unwrap(),
            cluster: cluster(),
            secrets: Arc::new(secrets()),
            own: record([0; 4], 7000),
            timing: Timing::default(),
        };
        Watch::new(settings).1
    }

    fn tag(name: u8) -> Tag {
        Tag::from([name; 4])
    }

    fn read(members: &Members, started: Instant, nodes: &[u8], age: Duration) {
        let read = Read {
            started,
            age,
            before: 1,
            number: 1,
            records: nodes.iter().map(|name| record([*name; 4], 7000)).collect(),
            ignored: 0,
            taken: false,
            eviction: None,
        };
        let now = Instant::now();
        members.0.change(now, |membership| membership.apply(read, now));
    }

    /// Lets the lookup run until it waits.
    async fn waits(lookup: &mut (impl Future<Output = Lookup> + Unpin)) {
        assert!(timeout(Duration::from_millis(1), lookup).await.is_err());
    }

    const LONG: Duration = Duration::from_hours(1);
    const MOMENT: Duration = Duration::from_millis(10);

    #[tokio::test(start_paused = true)]
    async fn absence_is_known_only_by_a_read_that_began_after_the_lookup() {
        let members = members();
        let before = Instant::now();
        tokio::time::advance(MOMENT).await;
        let mut lookup = Box::pin(members.lookup(tag(1)));
        waits(&mut lookup).await;
        // This read was under way already.
        read(&members, before, &[], LONG);
        waits(&mut lookup).await;
        read(&members, Instant::now(), &[], LONG);
        assert!(matches!(lookup.await, Lookup::Unknown));
        // A later lookup does not use it.
        tokio::time::advance(MOMENT).await;
        waits(&mut Box::pin(members.lookup(tag(1)))).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_not_believed_finds_nodes_and_knows_no_absence() {
        let members = members();
        for (name, found) in [(1, true), (2, false)] {
            let mut lookup = Box::pin(members.lookup(tag(name)));
            waits(&mut lookup).await;
            read(&members, Instant::now(), &[1], Duration::ZERO);
            match lookup.await {
                Lookup::Member(_) => assert!(found),
                Lookup::NotBelieved => assert!(!found),
                other => panic!("{other:?}"),
            }
            read(&members, Instant::now(), &[], LONG);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lookup_ends_without_any_attempt() {
        let members = members();
        let began = Instant::now();
        assert!(matches!(members.lookup(tag(1)).await, Lookup::NotBelieved));
        assert_eq!(began.elapsed(), Duration::from_millis(2100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_attempt_answers_at_once() {
        let members = members();
        let mut lookup = Box::pin(members.lookup(tag(1)));
        waits(&mut lookup).await;
        let now = Instant::now();
        members.0.change(now, |membership| membership.fail(now, "refused".into(), now));
        assert!(matches!(timeout(MOMENT, lookup).await, Ok(Lookup::NotBelieved)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_is_a_member_while_its_link_exists_and_then_departed() {
        let members = members();
        let link = members.link(record([1; 4], 7001));
        assert!(matches!(members.lookup(tag(1)).await, Lookup::Member(member) if member.linked));
        link.hear(Record { draining: true, ..record([1; 4], 7001) });
        link.hear(record([2; 4], 7002));
        assert!(matches!(members.lookup(tag(1)).await, Lookup::Member(member) if member.record.draining));
        drop(link);
        assert!(matches!(members.lookup(tag(1)).await, Lookup::Departed(_)));
        assert_eq!(members.view().members().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_generation_grows_when_paths_may_have_another_owner_and_only_then() {
        let members = members();
        let now = Instant::now();
        let mut before = members.view().generation;
        let mut grows = |change: &dyn Fn()| {
            change();
            let generation = members.view().generation;
            std::mem::replace(&mut before, generation) < generation
        };
        assert!(grows(&|| read(&members, now, &[0, 1, 2], LONG)), "two nodes more");
        assert!(!grows(&|| read(&members, now, &[0, 1, 2], LONG)));
        assert!(!grows(&|| drop(members.link(record([1; 4], 7001)))));
        assert!(!grows(&|| members.refuse(tag(1))), "its record will expire");
        let fails = || members.0.change(now, |membership| membership.fail(now, "refused".into(), now));
        assert!(grows(&fails), "the node whose process has ended owns no paths");
        assert!(!grows(&fails));
        assert!(grows(&|| members.publish(Record { draining: true, ..record([0; 4], 7000) })));
    }

    #[tokio::test(start_paused = true)]
    async fn links_and_the_own_record_are_seen_by_subscribers_at_once() {
        let members = members();
        let mut views = members.subscribe();
        let _link = members.link(record([1; 4], 7001));
        assert!(views.has_changed().unwrap());
        assert_eq!(views.borrow_and_update().members().len(), 2);
        members.publish(Record { draining: true, ..record([0; 4], 7000) });
        let view = views.borrow_and_update();
        assert!(view.own.draining && view.registration == Registration::Pending);
    }
}
