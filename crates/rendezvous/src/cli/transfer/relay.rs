//! Which relay a command uses: a flag, a variable, or the configuration file. None is built in.
//!
//! *Invariant.* The token of the configuration file is sent only to the relay of the configuration file.

#![allow(clippy::doc_markdown, reason = "the help is plain text")]

use std::env::VarError;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use rendezvous_client::relay::{Relay, Token};
use reqwest::Url;
use serde::Deserialize;

use crate::cli::exit::{Exit, Failure};

/// The maximum size of the configuration file and of a token file, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The flags that say which relay is used.
#[derive(Debug, Args)]
pub(crate) struct RelayFlags {
    /// URL of the relay, such as `https://relay.example`
    ///
    /// Without this flag and its variable, `to = "URL"` in ~/.config/rendezvous/config.toml counts. No
    /// relay is built in.
    #[arg(long, env = "RENDEZVOUS_TO", value_name = "URL", verbatim_doc_comment)]
    pub(crate) to: Option<String>,
    #[command(flatten)]
    pub(crate) token: TokenFlag,
}

/// The flag for relays that need a token.
#[derive(Debug, Args)]
pub(crate) struct TokenFlag {
    /// File with the create token of the relay, if it needs one
    ///
    /// The same file as that of `rendezvous serve --create-token-file`. In the configuration file it is
    /// `token-file = "FILE"`, which counts only for the relay of that file.
    #[arg(long, env = "RENDEZVOUS_TOKEN_FILE", value_name = "FILE", verbatim_doc_comment)]
    token_file: Option<PathBuf>,
}

/// The configuration file.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    /// The URL of the relay.
    to: Option<String>,
    /// The file of its create token; relative to the folder of the configuration file.
    token_file: Option<PathBuf>,
}

/// Returns the relay to use, with the token that is meant for it, also as text. `to` is the value of the flag or variable.
///
/// # Errors
/// If there is none, or if a value or file cannot be used: each says what to do.
pub(crate) fn choose(to: Option<&str>, token: &TokenFlag) -> Result<(Relay, Option<String>), Failure> {
    let path = settings_path(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"));
    let settings = match &path {
        Some(path) => read_settings(path)?,
        None => Settings::default(),
    };
    let (url, token_file) = decide(to, token.token_file.as_deref(), &settings, path.as_deref())?;
    let token = token_file.map(|path| read_token(&path)).transpose()?;
    let (token, text) = token.unzip();
    Ok((Relay { url, token }, text))
}

/// Where the configuration file would be, by the XDG Base Directory Specification: a relative `XDG_CONFIG_HOME` is ignored.
fn settings_path(config_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let given = config_home.map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = given.or_else(|| {
        let home = home.map(PathBuf::from).filter(|path| path.is_absolute());
        home.map(|home| home.join(".config"))
    });
    folder.map(|folder| folder.join("rendezvous/config.toml"))
}

/// Reads the configuration file; the default settings if there is none.
fn read_settings(path: &Path) -> Result<Settings, Failure> {
    match read(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|error| Failure::usage(format!("{}: {}", path.display(), error.to_string().trim_end()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// Decides between the flags and the settings. Pure.
fn decide(
    to: Option<&str>,
    token_file: Option<&Path>,
    settings: &Settings,
    path: Option<&Path>,
) -> Result<(Url, Option<PathBuf>), Failure> {
    let Some(chosen) = to.or(settings.to.as_deref()) else { return Err(no_relay(path)) };
    let url = parse_url(chosen).map_err(Failure::usage)?;
    if let Some(file) = token_file {
        return Ok((url, Some(file.to_owned())));
    }
    let configured = settings.to.as_deref().and_then(|configured| parse_url(configured).ok());
    let is_configured = configured.is_some_and(|configured| configured == url);
    let file = settings.token_file.as_ref().filter(|_| is_configured);
    let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
    Ok((url, file.map(|file| folder.join(file))))
}

/// Reads the URL of a relay.
fn parse_url(text: &str) -> Result<Url, String> {
    let advice = "give the URL of a relay, such as https://relay.example";
    let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL ({error}): {advice}"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(format!("{text:?} is not a URL of http or https: {advice}")),
    }
}

fn no_relay(path: Option<&Path>) -> Failure {
    let path = path.map_or_else(|| "the configuration file".to_owned(), |path| path.display().to_string());
    Failure::usage(format!(
        "no relay is given, and none is built in\n\
         Name one by --to URL, by RENDEZVOUS_TO, or by a line in {path}:\n    \
             to = \"https://relay.example\"\n\
         To start one, on a machine that both sides reach:\n    \
             rendezvous serve --host 0.0.0.0"
    ))
}

fn read_token(path: &Path) -> Result<(Token, String), Failure> {
    let text = read(path).map_err(|error| {
        Failure::usage(format!("the token file {} cannot be read: {error}", path.display()))
    })?;
    let token = Token::parse(&text)
        .map_err(|error| Failure::usage(format!("the file {} holds no token: {error}", path.display())))?;
    Ok((token, text.trim().to_owned()))
}

/// Returns a variable that is set and not empty.
///
/// # Errors
/// If it is not UTF-8.
pub(crate) fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(Failure::new(Exit::Usage, format!("{name} is not UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/home/me/.config/rendezvous/config.toml";

    fn settings(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    fn decided(to: Option<&str>, token: Option<&str>, settings: &Settings) -> (String, Option<PathBuf>) {
        let (url, token) = decide(to, token.map(Path::new), settings, Some(Path::new(FILE))).unwrap();
        (url.to_string(), token)
    }

    #[test]
    fn the_flag_precedes_the_configuration_file() {
        let configured = settings("to = 'https://a.example'");
        assert_eq!(decided(None, None, &configured).0, "https://a.example/");
        assert_eq!(decided(Some("http://b.example:1"), None, &configured).0, "http://b.example:1/");
    }

    #[test]
    fn a_token_of_the_configuration_file_is_for_its_relay_only() {
        let configured = settings("to = 'https://a.example'\ntoken-file = 'token'");
        let beside = Some(PathBuf::from("/home/me/.config/rendezvous/token"));
        assert_eq!(decided(None, None, &configured).1, beside);
        assert_eq!(decided(Some("https://A.example/"), None, &configured).1, beside);
        for other in ["https://b.example", "http://a.example", "https://a.example:8443"] {
            assert_eq!(decided(Some(other), None, &configured).1, None, "{other}");
        }
        assert_eq!(decided(Some("https://b.example"), Some("mine"), &configured).1, Some("mine".into()));
    }

    #[test]
    fn without_a_relay_the_error_says_how_to_name_one_and_how_to_start_one() {
        let failure = decide(None, None, &Settings::default(), Some(Path::new(FILE))).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        for part in ["--to URL", "RENDEZVOUS_TO", FILE, "to = \"https://", "rendezvous serve --host 0.0.0.0"]
        {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
    }

    #[test]
    fn only_a_url_of_http_or_https_is_a_relay() {
        for bad in ["relay.example", "ftp://relay.example", "", "mailto:me@relay.example"] {
            let failure = decide(Some(bad), None, &Settings::default(), None).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.message.contains("such as https://relay.example"), "{}", failure.message);
        }
    }

    #[test]
    fn the_file_is_where_xdg_says() {
        let path = |config: Option<&str>, home: Option<&str>| {
            settings_path(config.map(OsString::from), home.map(OsString::from))
        };
        assert_eq!(path(None, Some("/home/me")), Some(FILE.into()));
        assert_eq!(path(Some("relative"), Some("/home/me")), Some(FILE.into()));
        assert_eq!(path(Some("/etc/xdg"), None), Some("/etc/xdg/rendezvous/config.toml".into()));
        assert_eq!(path(None, None), None);
    }
}
