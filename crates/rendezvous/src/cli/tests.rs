//! The command line, and what is generated from it: parts of pages, completions, and pages for man(1).

use std::fs;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory, Parser};

use super::exit::Exit;
use super::generate::{Shell, completions, man};
use super::{Arguments, variables_of_flags};

const END: &str = "<!-- The end of the generated part. -->\n";
/// The commands whose flags are in docs/send-and-receive.md.
const CLIENTS: [&str; 3] = ["send", "recv", "doctor"];
/// The maximum length of a line of the short help.
const WIDTH: usize = 120;

fn command(name: &str) -> Command {
    let mut command = Arguments::command();
    command.build();
    command.find_subcommand(name).unwrap().clone()
}

fn serve() -> Command {
    command("serve")
}

fn flags() -> Vec<Arg> {
    flags_of(&serve())
}

fn flags_of(command: &Command) -> Vec<Arg> {
    command.get_arguments().filter(|flag| flag.get_id() != "help").cloned().collect()
}

/// The flags of a command as Markdown: a table for each group.
fn tables(command: &Command) -> String {
    let mut tables = String::new();
    let mut group = None;
    for (index, flag) in flags_of(command).iter().enumerate() {
        let heading = flag.get_help_heading().map(str::to_owned);
        if heading != group {
            tables.extend(["\n**", heading.as_deref().unwrap(), "**\n"]);
        }
        if heading != group || index == 0 {
            tables += "\n| flag | environment variable | value | default | |\n|---|---|---|---|---|\n";
            group = heading;
        }
        tables += &row(flag);
    }
    tables
}

fn row(flag: &Arg) -> String {
    let name = flag
        .get_long()
        .map_or_else(|| flag.get_value_names().unwrap()[0].to_string(), |long| format!("--{long}"));
    let variable =
        flag.get_env().map_or_else(|| "–".to_owned(), |name| format!("`{}`", name.to_str().unwrap()));
    let help = flag.get_help().unwrap().to_string();
    // The end of the first line names a default that clap does not know.
    let (line, computed) = help.split_once(" [default: ").unwrap_or((&help, "none]"));
    let given: Vec<_> = flag.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
    let default = match (flag.get_action().takes_values(), given.as_slice()) {
        (false, _) => "off".to_owned(),
        (true, []) => computed.strip_suffix(']').unwrap().to_owned(),
        (true, values) => format!("`{}`", values.join(",")),
    };
    let long = flag.get_long_help().map(ToString::to_string).unwrap_or_default();
    let rest = long.split_once("\n\n").map(|(_, rest)| format!(". {}", rest.replace('\n', " ")));
    let text = format!("{line}{}", rest.unwrap_or_default()).replace('|', "\\|");
    let value = value(flag);
    format!("| `{name}` | {variable} | {value} | {default} | {text} |\n")
}

/// The possible values of a flag, or the name of their kind.
fn value(flag: &Arg) -> String {
    let words = flag.get_possible_values();
    match (flag.get_action().takes_values(), words.as_slice()) {
        (false, _) if flag.get_env().is_none() => "none".to_owned(),
        (false, _) => "none; as a variable `true` or `false`".to_owned(),
        (true, []) => format!("`{}`", flag.get_value_names().unwrap_or_default().join(" ")),
        (true, words) => {
            words.iter().map(|word| format!("`{}`", word.get_name())).collect::<Vec<_>>().join(", ")
        }
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Asserts that a file of the repository has this content, or writes it.
fn assert_or_update(path: &str, expected: &str) {
    let file = repository().join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, expected).unwrap();
    }
    let is_equal = fs::read_to_string(&file).is_ok_and(|found| found == expected);
    assert!(
        is_equal,
        "{path} is out of date: `UPDATE_DOCS=1 cargo test --bin rendezvous` updates it\n{expected}"
    );
}

/// Asserts that a page has this part behind a comment that names it, or writes it there.
fn assert_or_update_part(path: &str, name: &str, part: &str) {
    let page = fs::read_to_string(repository().join(path)).unwrap();
    let begin = format!("<!-- {name}, made by `UPDATE_DOCS=1 cargo test --bin rendezvous`: -->\n");
    let (before, rest) = page.split_once(&begin).unwrap_or_else(|| panic!("{path} has no {begin}"));
    let (_, after) = rest.split_once(END).unwrap();
    assert_or_update(path, &[before, &begin, part, "\n", END, after].concat());
}

#[test]
fn the_page_for_operators_has_every_flag() {
    assert_or_update_part("docs/operations.md", "The flags", &tables(&serve()));
}

/// One test, because two of them would write the page at the same time.
#[test]
fn the_page_for_clients_has_every_flag_and_exit_code() {
    let page = "docs/send-and-receive.md";
    for name in CLIENTS {
        assert_or_update_part(page, &format!("The flags of `{name}`"), &tables(&command(name)));
    }
    let mut codes = "\n| code | in JSON | meaning |\n|---:|---|---|\n".to_owned();
    for exit in Exit::ALL {
        codes.extend(["| ", &exit.code().to_string(), " | `", exit.name(), "` | ", exit.meaning(), " |\n"]);
    }
    assert_or_update_part(page, "The exit codes", &codes);
}

#[test]
fn the_files_for_shells_and_man_are_those_of_this_command_line() {
    for (shell, path) in [
        (Shell::Bash, "packaging/completions/rendezvous.bash"),
        (Shell::Zsh, "packaging/completions/_rendezvous"),
        (Shell::Fish, "packaging/completions/rendezvous.fish"),
    ] {
        assert_or_update(path, &String::from_utf8(completions(shell, Arguments::command())).unwrap());
    }
    for name in [None, Some("serve"), Some("send"), Some("recv"), Some("doctor")] {
        let page = man(Arguments::command(), name).unwrap().unwrap();
        let suffix = name.map(|name| format!("-{name}")).unwrap_or_default();
        assert_or_update(&format!("packaging/man/rendezvous{suffix}.1"), &String::from_utf8(page).unwrap());
    }
    assert!(man(Arguments::command(), Some("other")).unwrap().is_none());
}

#[test]
fn the_help_of_the_client_commands_has_the_exit_codes_and_never_the_link() {
    for name in ["send", "recv"] {
        let help = command(name).render_long_help().to_string();
        for exit in Exit::ALL {
            assert!(help.contains(exit.meaning()), "{name} {exit:?}: {help}");
        }
    }
    let link = command("recv").get_arguments().find(|flag| flag.get_id() == "link").unwrap().clone();
    assert!(link.is_hide_env_values_set());
    for name in ["RENDEZVOUS_TO", "RENDEZVOUS_TOKEN_FILE", "RENDEZVOUS_LINK"] {
        assert!(variables_of_flags().contains(&name.to_owned()), "{name}");
    }
}

#[test]
fn the_page_for_operators_explains_every_kind_of_value() {
    let page = include_str!("../../../../docs/operations.md");
    for name in flags().iter().map(value).filter(|name| name.starts_with('`') && !name.contains(", ")) {
        assert!(page.contains(&format!("\n| {name} | ")), "{name} is not explained");
    }
}

#[test]
fn the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn a_variable_has_the_name_of_its_flag() {
    for flag in flags() {
        let name = flag.get_long().unwrap().to_uppercase().replace('-', "_");
        assert_eq!(flag.get_env().unwrap().to_str().unwrap(), format!("RENDEZVOUS_{name}"));
    }
}

#[test]
fn the_short_help_has_a_line_for_each_flag_below_the_heading_of_its_group() {
    let help = serve().render_help().to_string();
    assert!(!help.contains("Examples:"), "{help}");
    let mut rest = help.as_str();
    for flag in flags() {
        let heading = format!("\n{}:\n", flag.get_help_heading().unwrap());
        if let Some((_, below)) = rest.split_once(&heading) {
            rest = below;
        }
        let (before, below) = rest.split_once(&format!("--{} ", flag.get_long().unwrap())).unwrap();
        assert!(!before.contains(":\n"), "--{} is not below {heading}", flag.get_long().unwrap());
        rest = below;
    }
    for line in help.lines() {
        assert!(line.len() <= WIDTH, "{line}");
    }
    assert!(help.lines().count() < flags().len() + 40, "{help}");
}

#[test]
fn only_the_long_help_has_examples() {
    for mut command in [Arguments::command(), serve()] {
        let [short, long] = [command.render_help(), command.render_long_help()].map(|help| help.to_string());
        assert!(long.contains("\nExamples:\n") && !short.contains("Examples:"), "{long}");
        assert!(short.contains("--help"), "{short}");
    }
}

#[test]
fn the_examples_are_valid_command_lines() {
    let help = serve().render_long_help().to_string();
    let (_, examples) = help.split_once("\nExamples:\n").unwrap();
    let examples = examples.replace("\\\n", " ");
    let commands: Vec<_> =
        examples.lines().map(str::trim).filter(|line| line.starts_with("rendezvous ")).collect();
    assert_eq!(commands.len(), 4, "{examples}");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "0123456789abcdef").unwrap();
    let path = file.path().to_str().unwrap();
    for command in commands {
        let command = command.replace("/etc/rendezvous/create-token", path);
        let parsed = Arguments::try_parse_from(command.split_whitespace());
        assert!(parsed.is_ok(), "{command}: {}", parsed.unwrap_err());
    }
}

#[test]
fn the_version_has_the_commit_if_there_is_one() {
    for flag in ["-V", "--version"] {
        let error = Arguments::try_parse_from(["rendezvous", flag]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DisplayVersion);
        let text = error.to_string();
        let version =
            text.strip_prefix(concat!("rendezvous ", env!("CARGO_PKG_VERSION"))).unwrap().trim_end();
        let commit = version.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
        let is_commit = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(version.is_empty() || commit.is_some_and(is_commit), "{text}");
    }
}
