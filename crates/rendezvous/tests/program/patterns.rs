//! The recipes of docs/patterns.md, each run as it stands by the real `curl`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::{PATIENCE, Program, Running, curl};

const PAGE: &str = include_str!("../../../../docs/patterns.md");

/// The script of the stand-in for `pg_dump`.
const DUMP: &str = "echo 'CREATE TABLE goods (name text);'";

/// A block of commands, and what they print.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    commands: String,
    output: String,
}

/// A recipe: the blocks below a heading.
struct Recipe {
    heading: &'static str,
    blocks: Vec<Block>,
}

/// Returns the recipes of the page. The block before the first heading sets the address, for which the test has a variable.
fn recipes() -> Vec<Recipe> {
    PAGE.split("\n## ").skip(1).map(Recipe::parse).collect()
}

fn recipe(heading: &str) -> Recipe {
    recipes().into_iter().find(|recipe| recipe.heading == heading).unwrap()
}

impl Recipe {
    fn parse(section: &'static str) -> Self {
        let (heading, text) = section.split_once('\n').unwrap();
        let mut blocks: Vec<Block> = Vec::new();
        for fenced in text.split("```").skip(1).step_by(2) {
            let (language, content) = fenced.split_once('\n').unwrap();
            match language {
                "sh" => blocks.push(Block { commands: content.to_owned(), output: String::new() }),
                "text" => content.clone_into(&mut blocks.last_mut().unwrap().output),
                other => panic!("{heading}: a block of {other:?}"),
            }
        }
        Self { heading, blocks }
    }

    /// Runs the blocks at the same time, started in this order. Each must succeed and print what the page says.
    fn run(self, program: &Program, stand_ins: &Path) {
        let mut shells: Vec<_> =
            self.blocks.into_iter().map(|block| Shell::start(block, program, stand_ins)).collect();
        for shell in &mut shells {
            shell.finish();
        }
    }
}

/// A shell that runs a block in a directory of its own. It does not outlive its test, nor do its children.
struct Shell {
    block: Block,
    directory: TempDir,
    process: Running,
}

impl Shell {
    fn start(block: Block, program: &Program, stand_ins: &Path) -> Self {
        let directory = TempDir::new().unwrap();
        let output = |name| Stdio::from(fs::File::create(directory.path().join(name)).unwrap());
        let path = format!("{}:{}", stand_ins.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("bash");
        command.args(["-c", &block.commands]).env("relay", &program.base).env("PATH", path);
        // Neither a .curlrc nor a proxy variable of the caller may interfere.
        command.env("CURL_HOME", directory.path()).env("no_proxy", "*");
        command.current_dir(directory.path()).process_group(0);
        command.stdin(Stdio::null()).stdout(output(".stdout")).stderr(output(".stderr"));
        let process = Running(command.spawn().expect("bash is installed"));
        Self { block, directory, process }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    fn finish(&mut self) {
        let status = self.process.wait();
        let (output, errors) = (self.read(".stdout"), self.read(".stderr"));
        assert!(status.success(), "{status}:\n{}{output}{errors}", self.block.commands);
        assert_eq!(output, self.block.output, "{}{errors}", self.block.commands);
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.process.0), Signal::KILL);
    }
}

/// Creates stand-ins for `pg_dump` and for `psql`, which keeps what it reads, and prints what it would select.
fn stand_ins(pg_dump: &str) -> TempDir {
    let directory = TempDir::new().unwrap();
    for (name, script) in
        [("pg_dump", pg_dump), ("psql", r#"tee psql-input | sed -n "s/.*SELECT '\(.*\)';$/\1/p""#)]
    {
        let file = directory.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    directory
}

/// Waits until sides have got 503 so often, because nobody came.
fn until_waits_have_ended(program: &Program, count: u32) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = curl(&[&format!("{}/metrics", program.base)]).output().unwrap();
        let metrics = String::from_utf8(metrics.stdout).unwrap();
        let name = "rendezvous_refusals_total{error=\"PeerNotConnectedError\"} ";
        let ended: u32 = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap();
        if ended >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{ended}");
    }
}

#[test]
fn every_recipe_does_what_the_page_says_whichever_side_is_first() {
    let stand_ins = stand_ins(DUMP);
    let recipes = recipes();
    assert!(recipes.len() >= 9);
    for Recipe { heading, blocks } in recipes {
        assert!(!blocks.is_empty(), "{heading}");
        let program = Program::start(&[]);
        let reversed = blocks.iter().rev().cloned().collect();
        for blocks in [blocks, reversed] {
            Recipe { heading, blocks }.run(&program, stand_ins.path());
        }
    }
}

/// The time is the only thing that the test changes.
#[test]
fn a_side_that_waits_for_longer_than_its_wait_meets_the_other_in_a_later_one() {
    let stand_ins = stand_ins(DUMP);
    let mut blocks = recipe("Wait for hours").blocks;
    for block in &mut blocks {
        assert!(block.commands.contains("wait=25"));
        block.commands = block.commands.replace("wait=25", "wait=1");
    }
    let program = Program::start(&[]);
    for waits in [2, 4] {
        let mut first = Shell::start(blocks[0].clone(), &program, stand_ins.path());
        until_waits_have_ended(&program, waits);
        let mut second = Shell::start(blocks[1].clone(), &program, stand_ins.path());
        first.finish();
        second.finish();
        blocks.reverse();
    }
}

#[test]
fn a_database_is_committed_only_behind_a_whole_dump() {
    for (pg_dump, is_whole) in [(DUMP, true), ("echo 'CREATE TABLE'; exit 1", false)] {
        let program = Program::start(&[]);
        let stand_ins = stand_ins(pg_dump);
        let blocks = recipe("pg_dump through a pipe").blocks;
        let start = |block: &Block| Shell::start(block.clone(), &program, stand_ins.path());
        let [mut new, mut old] = [start(&blocks[0]), start(&blocks[1])];
        assert_eq!(new.process.wait().success(), is_whole, "the receiver learns of it");
        assert_eq!(old.process.wait().success(), is_whole);
        let read = new.read("psql-input");
        assert_eq!(read.contains("COMMIT;"), is_whole, "{read}");
        assert!(read.starts_with("BEGIN;\nCREATE TABLE"), "{read}");
    }
}

/// The rules of the page for loops.
#[test]
fn no_recipe_repeats_what_cannot_be_repeated() {
    for Recipe { heading, blocks } in recipes() {
        let commands = blocks.iter().flat_map(|block| block.commands.lines());
        for command in commands.flat_map(|line| line.split("curl ").skip(1)) {
            let has = |option: &str| command.contains(option);
            assert!(!has("--retry-all-errors"), "{heading}: {command}");
            assert!(!has("--retry") || !has("-T -") && has("--retry-delay 1"), "{heading}: {command}");
            assert!(command.split_once(' ').unwrap().0.contains('f'), "{heading}: {command} needs -f");
        }
    }
}
