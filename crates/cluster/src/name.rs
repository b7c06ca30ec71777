//! [`ClusterName`]: which nodes belong together.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a cluster: 1 to 64 of `A-Z a-z 0-9 . _ -`. Several clusters can use one engine, each under its own name. Cloning copies a
/// reference.
///
/// ```
/// use rendezvous_cluster::ClusterName;
///
/// assert_eq!("eu-1".parse::<ClusterName>()?.to_string(), "eu-1");
/// assert!("{eu}".parse::<ClusterName>().is_err());
/// # Ok::<_, rendezvous_cluster::BadClusterName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClusterName(Arc<str>);

/// The text is not a [`ClusterName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not the name of a cluster: give 1 to 64 of A-Z a-z 0-9 . _ -, such as \"rendezvous\" or \
    \"eu-1\""
)]
pub struct BadClusterName(String);

impl ClusterName {
    const MAX_BYTES: usize = 64;

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the key of the directory in the engine. The braces are the hash tag of Redis Cluster: all keys of a cluster are in one slot,
    /// and one ACL pattern covers them.
    #[must_use]
    pub fn nodes_key(&self) -> String {
        format!("rv:{{{self}}}:nodes")
    }
}

impl FromStr for ClusterName {
    type Err = BadClusterName;

    fn from_str(text: &str) -> Result<Self, BadClusterName> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let is_name = (1..=Self::MAX_BYTES).contains(&text.len()) && text.bytes().all(legal);
        if is_name { Ok(Self(text.into())) } else { Err(BadClusterName(text.to_owned())) }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_hash_tag() {
        let longest = "n".repeat(64);
        for good in ["a", "eu-1.prod_B", &longest] {
            assert_eq!(good.parse::<ClusterName>().unwrap().nodes_key(), format!("rv:{{{good}}}:nodes"));
        }
        for bad in ["", "a b", "{a}", "a:b", "é", "a\n", &format!("{longest}n")] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad:?}");
        }
    }
}
