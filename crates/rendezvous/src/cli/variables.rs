//! Rejects environment variables that have the prefix of the flags' variables but belong to no flag. Pure.
//!
//! A misspelled variable would otherwise be ignored, and a server without its token file is open to everybody.

use std::fmt;

/// The prefix of all variables of the program.
const PREFIX: &str = "RENDEZVOUS_";
/// The similarity, from 0 to 1, above which one name is suggested for another; the same as that of clap.
const SIMILAR: f64 = 0.7;
/// The maximum number of unknown variables that a message names.
const MAX_NAMED: usize = 10;

/// The variables that have the prefix and belong to no flag; never empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownVariables {
    /// In alphabetical order, each with the known variable that was probably meant.
    unknown: Vec<(String, Option<String>)>,
}

impl UnknownVariables {
    /// Finds them among the names of the `environment`; `None` if there are none. `known` are the variables of the flags.
    pub(super) fn find(environment: impl Iterator<Item = String>, known: &[String]) -> Option<Self> {
        let is_unknown = |name: &String| name.starts_with(PREFIX) && !known.contains(name);
        let mut unknown: Vec<_> =
            environment.filter(is_unknown).map(|name| (nearest(&name, known), name)).collect();
        unknown.sort_by(|(_, one), (_, other)| one.cmp(other));
        let unknown: Vec<_> = unknown.into_iter().map(|(nearest, name)| (name, nearest)).collect();
        (!unknown.is_empty()).then_some(Self { unknown })
    }

    /// Whether Kubernetes has set them: it does so for every Service in the namespace, with the name of the Service as prefix.
    fn are_service_links(&self) -> bool {
        self.unknown.iter().any(|(name, _)| name.ends_with("_SERVICE_HOST"))
    }
}

/// The known variable that is most similar to `name`.
fn nearest(name: &str, known: &[String]) -> Option<String> {
    let rest = |name: &str| name.trim_start_matches(PREFIX).to_ascii_uppercase();
    let similarity = |known: &String| strsim::jaro_winkler(&rest(name), &rest(known));
    let scored = known.iter().map(|known| (similarity(known), known));
    let nearest = scored.max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest.filter(|(similarity, _)| *similarity > SIMILAR).map(|(_, known)| known.clone())
}

impl fmt::Display for UnknownVariables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_service_links() {
            let (first, _) = self.unknown.first().ok_or(fmt::Error)?;
            return write!(
                f,
                "{first} and others are variables that Kubernetes sets for a Service whose name begins with \"rendezvous\": set \
                 `enableServiceLinks: false` in the pod's spec, because they would be taken for flags"
            );
        }
        for (index, (name, nearest)) in self.unknown.iter().take(MAX_NAMED).enumerate() {
            let separator = if index == 0 { "" } else { "\n       " };
            write!(f, "{separator}the environment variable {name} belongs to no flag")?;
            if let Some(nearest) = nearest {
                write!(f, ": did you mean {nearest}?")?;
            }
        }
        match self.unknown.len().saturating_sub(MAX_NAMED) {
            0 => Ok(()),
            more => write!(f, "\n       and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 6] = [
        "RENDEZVOUS_ADMIN_LISTEN",
        "RENDEZVOUS_CREATE_TOKEN_FILE",
        "RENDEZVOUS_HOST",
        "RENDEZVOUS_LOG",
        "RENDEZVOUS_LOG_LEVEL",
        "RENDEZVOUS_PORT",
    ];

    fn find(names: &[&str]) -> Option<UnknownVariables> {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        UnknownVariables::find(owned(names).into_iter(), &owned(&KNOWN))
    }

    #[test]
    fn variables_of_flags_and_of_other_programs_are_accepted() {
        assert_eq!(find(&KNOWN), None);
        assert_eq!(find(&["PATH", "RENDEZVOUS", "MY_RENDEZVOUS_PORT", "rendezvous_port"]), None);
    }

    #[test]
    fn the_nearest_variable_is_named() {
        for (name, nearest) in [
            ("RENDEZVOUS_CREATE_TOKENFILE", Some("RENDEZVOUS_CREATE_TOKEN_FILE")),
            ("RENDEZVOUS_CREATE_TOKEN", Some("RENDEZVOUS_CREATE_TOKEN_FILE")),
            ("RENDEZVOUS_CREAT_TOKEN_FILE", Some("RENDEZVOUS_CREATE_TOKEN_FILE")),
            ("RENDEZVOUS_create_token_file", Some("RENDEZVOUS_CREATE_TOKEN_FILE")),
            ("RENDEZVOUS_ADMIN_LISTENER", Some("RENDEZVOUS_ADMIN_LISTEN")),
            ("RENDEZVOUS_LOGLEVEL", Some("RENDEZVOUS_LOG_LEVEL")),
            ("RENDEZVOUS_PORTS", Some("RENDEZVOUS_PORT")),
            ("RENDEZVOUS_", None),
            ("RENDEZVOUS_ZZZ", None),
        ] {
            let message = find(&[name]).unwrap().to_string();
            let suggestion = nearest.map(|nearest| format!(": did you mean {nearest}?")).unwrap_or_default();
            assert_eq!(message, format!("the environment variable {name} belongs to no flag{suggestion}"));
        }
    }

    #[test]
    fn a_message_names_ten_variables_in_order_and_counts_the_rest() {
        let names: Vec<_> = (10..30).rev().map(|number| format!("RENDEZVOUS_ZZZ_{number}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let message = find(&names).unwrap().to_string();
        assert_eq!(message.lines().count(), MAX_NAMED + 1);
        assert!(message.starts_with("the environment variable RENDEZVOUS_ZZZ_10 "), "{message}");
        assert!(message.ends_with("and 10 more"), "{message}");
    }

    #[test]
    fn variables_that_kubernetes_sets_for_a_service_are_recognized() {
        for service in ["RENDEZVOUS", "RENDEZVOUS_ADMIN"] {
            let links = ["SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_80_TCP", "PORT_80_TCP_ADDR"]
                .map(|rest| format!("{service}_{rest}"));
            let message = find(&links.each_ref().map(String::as_str)).unwrap().to_string();
            assert!(message.contains("enableServiceLinks: false"), "{message}");
        }
    }
}
