//! [`Record`]: what a node publishes about itself in the directory.
//!
//! A record is one line of fields, and a code over the cluster's name and the line:
//!
//! ```text
//! rv1 tag=0c1d2e3f id=8f0e… at=10.0.0.7:7780 versions=1-1 settings=5be2… draining=0 mac=…
//! ```
//!
//! *Invariant.* A [`Record`] was either made by this node or sealed by one that knows the secret. The engine is not trusted: whoever can
//! write to it can remove records, or put back old ones of nodes that knew the secret, and nothing else. A connection to the address proves
//! the tag again.
//!
//! *Bounds.* A line has at most [`Record::MAX_BYTES`] bytes.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use rendezvous_protocol::Tag;
use uuid::Uuid;

use crate::address::NodeAddress;
use crate::hex;
use crate::name::ClusterName;
use crate::secret::{CODE_BYTES, Secrets};

/// The begin of a line. A release that changes the meaning of a field has another one.
const FORMAT: &str = "rv1";
const LABEL: &str = "rendezvous cluster record";

/// What a node publishes about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The tag of its ids.
    pub tag: Tag,
    /// The process, so that two with the same tag are told apart.
    pub instance: Instance,
    /// Where the other nodes reach it.
    pub address: NodeAddress,
    /// The versions of the protocol between nodes that it speaks.
    pub versions: Versions,
    /// A digest of its settings that must be the same on all nodes.
    pub settings: SettingsDigest,
    /// Whether it takes no new streams.
    pub draining: bool,
}

/// A process, by 122 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instance([u8; 16]);

/// A range of versions of the protocol between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    low: u16,
    high: u16,
}

/// A digest of settings: 64 bits of SHA-256 (FIPS 180-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SettingsDigest([u8; 8]);

/// Why a line of the directory is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// The line is too long, or does not end with a code.
    #[error("it is not a record")]
    NotOne,
    /// The code is not that of the line: another secret, another cluster, or a forgery.
    #[error("its code is not by the secret of this cluster")]
    Forged,
    /// The code is right, and the fields are those of another release.
    #[error("it is of a release that this one does not understand")]
    OtherRelease,
}

impl Instance {
    /// Draws an instance at random.
    #[must_use]
    pub fn draw() -> Self {
        Self(Uuid::new_v4().into_bytes())
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Versions {
    /// Creates a range. Returns `None` if it is empty.
    #[must_use]
    pub fn new(low: u16, high: u16) -> Option<Self> {
        (low <= high).then_some(Self { low, high })
    }

    /// Returns the lowest version.
    #[must_use]
    pub fn low(self) -> u16 {
        self.low
    }

    /// Returns the highest version.
    #[must_use]
    pub fn high(self) -> u16 {
        self.high
    }

    /// Returns the highest version that both speak, or `None` if there is none.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let highest = self.high.min(other.high);
        (highest >= self.low.max(other.low)).then_some(highest)
    }

    fn parse(text: &str) -> Option<Self> {
        let (low, high) = text.split_once('-')?;
        Self::new(low.parse().ok()?, high.parse().ok()?)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

impl SettingsDigest {
    /// Returns the digest of settings, each with its name. Their order matters.
    #[must_use]
    pub fn of(settings: &[(&str, &str)]) -> Self {
        let mut text = Vec::new();
        for part in settings.iter().flat_map(|(name, value)| [name, value]) {
            text.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            text.extend_from_slice(part.as_bytes());
        }
        Self(digest(&SHA256, &text).as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for SettingsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Record {
    /// Maximum length of a line in bytes. The longest host name leaves room for more fields.
    pub const MAX_BYTES: usize = 1024;

    /// Returns the line for the directory.
    #[must_use]
    pub fn seal(&self, cluster: &ClusterName, secrets: &Secrets) -> String {
        let fields = self.fields();
        let code = secrets.sign(LABEL, &[cluster.as_str().as_bytes(), fields.as_bytes()]);
        format!("{fields} mac={}", hex::encode(&code))
    }

    /// Verifies and parses a line of the directory.
    ///
    /// # Errors
    /// [`BadRecord`] if no node of this cluster has sealed the line, or one of a release whose records this one does not understand.
    pub fn open(line: &str, cluster: &ClusterName, secrets: &Secrets) -> Result<Self, BadRecord> {
        let (fields, code) = line.rsplit_once(" mac=").ok_or(BadRecord::NotOne)?;
        let code: [u8; CODE_BYTES] = hex::decode(code).ok_or(BadRecord::NotOne)?;
        if line.len() > Self::MAX_BYTES {
            return Err(BadRecord::NotOne);
        }
        if !secrets.verify(LABEL, &[cluster.as_str().as_bytes(), fields.as_bytes()], &code) {
            return Err(BadRecord::Forged);
        }
        Self::parse(fields).ok_or(BadRecord::OtherRelease)
    }

    fn fields(&self) -> String {
        let Self { tag, instance, address, versions, settings, draining } = self;
        let draining = u8::from(*draining);
        format!(
            "{FORMAT} tag={tag} id={instance} at={address} versions={versions} settings={settings} \
             draining={draining}"
        )
    }

    /// Parses the fields. Fields of later releases are skipped.
    fn parse(fields: &str) -> Option<Self> {
        let mut words = fields.split(' ');
        if words.next() != Some(FORMAT) {
            return None;
        }
        let pairs: Vec<(&str, &str)> = words.map(|word| word.split_once('=')).collect::<Option<_>>()?;
        let field = |name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        Some(Self {
            tag: field("tag")?.parse().ok()?,
            instance: Instance(hex::decode(field("id")?)?),
            address: field("at")?.parse().ok()?,
            versions: Versions::parse(field("versions")?)?,
            settings: SettingsDigest(hex::decode(field("settings")?)?),
            draining: match field("draining")? {
                "0" => false,
                "1" => true,
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    pub(crate) fn secrets() -> Secrets {
        Secrets::parse(SECRET).unwrap()
    }

    pub(crate) fn cluster() -> ClusterName {
        "test".parse().unwrap()
    }

    /// A record of a node at this port of loopback.
    pub(crate) fn record(tag: [u8; 4], port: u16) -> Record {
        Record {
            tag: Tag::from(tag),
            instance: Instance::draw(),
            address: format!("127.0.0.1:{port}").parse().unwrap(),
            versions: Versions::new(1, 1).unwrap(),
            settings: SettingsDigest::of(&[("ttl", "60s")]),
            draining: false,
        }
    }

    fn sealed(fields: &str) -> String {
        let code = secrets().sign(LABEL, &[b"test", fields.as_bytes()]);
        format!("{fields} mac={}", hex::encode(&code))
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_sealed(
            tag: [u8; 4], instance: [u8; 16], port in 1..=u16::MAX, low: u16, more in 0..9_u16, settings: [u8; 8],
            draining: bool,
        ) {
            let versions = Versions::new(low, low.saturating_add(more)).unwrap();
            let record = Record {
                tag: Tag::from(tag),
                instance: Instance(instance),
                address: format!("node-1.example:{port}").parse().unwrap(),
                versions,
                settings: SettingsDigest(settings),
                draining,
            };
            let line = record.seal(&cluster(), &secrets());
            prop_assert!(line.len() <= Record::MAX_BYTES);
            prop_assert_eq!(Record::open(&line, &cluster(), &secrets()), Ok(record));
        }

        #[test]
        fn a_record_with_any_byte_changed_is_ignored(at in 0..240_usize, to in b' '..b'~') {
            let line = record([1, 2, 3, 4], 7780).seal(&cluster(), &secrets());
            let mut bytes = line.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = to;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert_eq!(Record::open(&changed, &cluster(), &secrets()).is_ok(), changed == line);
        }

        #[test]
        fn no_line_makes_reading_panic(line in ".{0,300}") {
            let with_format = format!("rv1 {line}");
            for line in [&line, &with_format] {
                let opened = Record::open(line, &cluster(), &secrets());
                prop_assert!(opened.is_err());
            }
            let _ = Record::open(&sealed(&line), &cluster(), &secrets());
        }
    }

    #[test]
    fn a_record_of_another_cluster_or_secret_is_forged() {
        let line = record([1, 2, 3, 4], 7780).seal(&cluster(), &secrets());
        let other_cluster = "other".parse().unwrap();
        let other_secret = Secrets::parse("another secret of 32 characters or more").unwrap();
        assert_eq!(Record::open(&line, &other_cluster, &secrets()), Err(BadRecord::Forged));
        assert_eq!(Record::open(&line, &cluster(), &other_secret), Err(BadRecord::Forged));
    }

    #[test]
    fn later_releases_may_add_fields_and_not_change_them() {
        let fields = record([1, 2, 3, 4], 7780).fields();
        assert!(Record::open(&sealed(&format!("{fields} zone=a")), &cluster(), &secrets()).is_ok());
        let others = [
            fields.replace("rv1", "rv2"),
            fields.replace("at=", "on="),
            fields.replace("draining=0", "draining=soon"),
            String::new(),
        ];
        for other in others {
            assert_eq!(
                Record::open(&sealed(&other), &cluster(), &secrets()),
                Err(BadRecord::OtherRelease),
                "{other}"
            );
        }
    }

    #[test]
    fn a_line_without_a_code_or_too_long_is_not_a_record() {
        let long =
            sealed(&format!("{} x={}", record([1, 2, 3, 4], 7780).fields(), "x".repeat(Record::MAX_BYTES)));
        for line in ["", "rv1", "rv1 mac=", "rv1 mac=00", &long] {
            assert_eq!(Record::open(line, &cluster(), &secrets()), Err(BadRecord::NotOne), "{line:.40}");
        }
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        let versions = |low, high| Versions::new(low, high).unwrap();
        for (one, other, common) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (2, 3), Some(2)),
            ((1, 9), (2, 3), Some(3)),
            ((1, 2), (3, 4), None),
        ] {
            let (one, other) = (versions(one.0, one.1), versions(other.0, other.1));
            assert_eq!((one.common(other), other.common(one)), (common, common));
        }
        assert_eq!(Versions::new(2, 1), None);
    }

    #[test]
    fn the_digest_tells_names_and_values_apart() {
        let digest = SettingsDigest::of(&[("ttl", "60s"), ("paths", "on")]);
        assert_eq!(digest, SettingsDigest::of(&[("ttl", "60s"), ("paths", "on")]));
        for other in
            [&[("ttl", "60s")][..], &[("ttl", "60spaths"), ("", "on")], &[("ttl6", "0s"), ("paths", "on")]]
        {
            assert_ne!(digest, SettingsDigest::of(other));
        }
    }
}
