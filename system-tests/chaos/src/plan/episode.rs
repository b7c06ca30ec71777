//! The episodes: which trouble, rate limit and proxy each server has.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{KIB, Mix, Proxy, rng};

/// Transfers per server, unless it is restarted between them.
pub(crate) const EPISODE: u64 = 50;
/// The rates of servers with a rate limit, in bytes per second.
const PACES: [u64; 3] = [64 * KIB, 256 * KIB, 1024 * KIB];
/// The short idle limit.
const HASTY_IDLE: Duration = Duration::from_secs(1);

/// One server and the transfers that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Episode {
    /// Its number in the run.
    pub(crate) number: u64,
    /// All bodies are copied.
    pub(crate) copies: bool,
    /// The trouble of its server.
    pub(crate) trouble: Trouble,
    /// The rate limit of each stream, if any, in bytes per second.
    pub(crate) pace: Option<u64>,
    /// The proxy in front of it, which some of the clients use.
    pub(crate) proxy: Option<Proxy>,
}

/// The trouble of an episode's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// None.
    None,
    /// A short idle limit.
    Hasty,
    /// Few descriptors, and a flood of silent connections.
    FewDescriptors,
    /// The server's user has only this number of pipes left.
    FewPipes(u32),
    /// SIGTERM after this number of transfers have begun, then a restart.
    Stopped(u64),
    /// SIGKILL after this number of transfers have begun, then a restart.
    Killed(u64),
}

impl Episode {
    /// The episode of this number. Twelve in a row have every trouble on each data path. Sixty have each of these with and without a rate
    /// limit. One in four has a proxy.
    #[must_use]
    pub(crate) fn new(mix: &Mix, number: u64) -> Self {
        let mut rng = rng(mix.seed, number, 1);
        let trouble = match number % 6 {
            1 if mix.rate.is_none() => Trouble::Hasty,
            0 | 1 => Trouble::None,
            2 => Trouble::Stopped(rng.random_range(1..EPISODE)),
            3 => Trouble::FewDescriptors,
            4 => Trouble::Killed(rng.random_range(1..EPISODE)),
            _ => Trouble::FewPipes(rng.random_range(0..4)),
        };
        let pace = PACES.choose(&mut rng).copied().filter(|_| number % 5 < 2);
        // So twelve episodes later the same trouble has another proxy, or none.
        let turn = number + number / 12;
        let proxy = mix.proxies.iter().cycle().nth(usize::from(turn % 8 > 3)).filter(|_| turn % 4 == 3);
        Self {
            number,
            copies: (number + number / 6) % 2 == 1,
            trouble,
            pace: mix.rate.or(pace),
            proxy: proxy.copied(),
        }
    }

    /// The idle limit, if it is short.
    #[must_use]
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.trouble == Trouble::Hasty).then_some(HASTY_IDLE)
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.copies { "copy" } else { "splice" };
        let Self { number, trouble, pace, proxy, .. } = self;
        write!(
            f,
            "episode {number}, data path {path}, trouble: {trouble:?}, pace: {pace:?}, proxy: {proxy:?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn twelve_episodes_have_every_trouble_on_each_data_path() {
        let seen: HashSet<_> = (0..12)
            .map(|number| Episode::new(&Mix::whole(1), number))
            .map(|episode| (episode.copies, std::mem::discriminant(&episode.trouble)))
            .collect();
        assert_eq!(seen.len(), 12);
    }

    #[test]
    fn one_server_in_four_has_a_proxy_and_every_trouble_has_each() {
        let episodes: Vec<_> = (0..96).map(|number| Episode::new(&Mix::whole(1), number)).collect();
        assert_eq!(episodes.iter().filter(|episode| episode.proxy.is_some()).count(), 24);
        let first: Vec<_> = episodes.iter().take(10).filter_map(|episode| episode.proxy).collect();
        assert_eq!(first, [Proxy::Nginx, Proxy::Haproxy], "a short run has both");
        for trouble in 0..6 {
            let proxies: HashSet<_> = episodes
                .iter()
                .filter(|episode| episode.number % 6 == trouble)
                .map(|episode| format!("{:?}", episode.proxy))
                .collect();
            assert_eq!(proxies.len(), 3, "trouble {trouble}: {proxies:?}");
        }
        for number in 0..96 {
            assert_eq!(Episode::new(&Mix { proxies: Vec::new(), ..Mix::whole(1) }, number).proxy, None);
            let only = Mix { proxies: vec![Proxy::Haproxy], ..Mix::whole(1) };
            assert_ne!(Episode::new(&only, number).proxy, Some(Proxy::Nginx));
        }
    }

    #[test]
    fn a_rate_for_all_servers_leaves_them_the_default_idle_limit() {
        let mix = Mix { rate: Some(1 << 20), ..Mix::whole(1) };
        for number in 0..60 {
            let episode = Episode::new(&mix, number);
            assert_eq!((episode.pace, episode.idle()), (Some(1 << 20), None));
        }
    }
}
