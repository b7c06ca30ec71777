//! Which [`Warning`]s a node has. Pure.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::members::Node;
use crate::record::Record;
use crate::view::Warning;

/// Returns the warnings of this node about the others, the lines that were ignored, and the engine's policy. A node that restarts at its
/// address shares it with its own old record for a while, so only nodes that are listed since before `settled` are compared.
pub(crate) fn of<'a>(
    own: &Record,
    others: impl Iterator<Item = &'a Node>,
    ignored: usize,
    eviction: Option<&str>,
    settled: Option<Instant>,
) -> Vec<Warning> {
    let listed: Vec<&Node> = others.filter(|node| node.listed.is_some()).collect();
    let tags_of = |differs: &dyn Fn(&Record) -> bool| -> Vec<_> {
        listed.iter().filter(|node| differs(&node.record)).map(|node| node.record.tag).collect()
    };
    let other_settings = tags_of(&|record| record.settings != own.settings);
    let other_versions = tags_of(&|record| record.versions.common(own.versions).is_none());
    let settled = listed.iter().filter(|node| node.listed <= settled).map(|node| &*node.record);

    let evicts = |policy: &&str| *policy != "noeviction" && !policy.starts_with("volatile-");
    let mut warnings: Vec<Warning> =
        eviction.filter(evicts).map(|policy| Warning::Eviction(policy.to_owned())).into_iter().collect();
    warnings.extend((ignored > 0).then_some(Warning::RecordsIgnored(ignored)));
    warnings.extend(shared_addresses(settled.chain([own])));
    warnings.extend((!other_settings.is_empty()).then_some(Warning::OtherSettings(other_settings)));
    warnings.extend((!other_versions.is_empty()).then_some(Warning::OtherVersions(other_versions)));
    warnings
}

fn shared_addresses<'a>(records: impl Iterator<Item = &'a Record>) -> impl Iterator<Item = Warning> {
    let mut nodes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for record in records {
        nodes.entry(&record.address).or_default().push(record.tag);
    }
    nodes.into_iter().filter(|(_, nodes)| nodes.len() > 1).map(|(address, mut nodes)| {
        nodes.sort_unstable();
        Warning::SharedAddress { address: address.clone(), nodes }
    })
}
