//! Transfers with the real `curl` on both sides.

use std::io::{Read, Write};

use rustix::process::Signal;

use crate::{Program, curl, spawn, until, until_state};

/// Creates a file of 8 MiB that cannot be compressed and has no repetitions.
pub(crate) fn file() -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut state = 1_u64;
    let mut noise = Vec::with_capacity(8 << 20);
    while noise.len() < 8 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend((state >> 16).to_be_bytes());
    }
    file.write_all(&noise).unwrap();
    file
}

#[test]
fn curl_transfers_a_file_in_every_way() {
    let program = Program::start(&[]);
    let file = file();
    let path = file.path().to_str().unwrap();
    let content = std::fs::read(path).unwrap();
    for from_stdin in [false, true] {
        for get_first in [false, true] {
            for version in ["--http1.1", "-0"] {
                let stream = program.create();
                let upload = || {
                    let mut upload = curl(&["-T", if from_stdin { "-" } else { path }, &stream]);
                    spawn(upload.stdin(std::fs::File::open(path).unwrap()))
                };
                let download = || spawn(&mut curl(&[version, &stream]));
                let (mut upload, mut download) = if get_first {
                    let download = download();
                    until_state(&stream, "DST_CONNECTED");
                    (upload(), download)
                } else {
                    let upload = upload();
                    until_state(&stream, "SRC_CONNECTED");
                    (upload, download())
                };
                let mut received = Vec::new();
                download.0.stdout.take().unwrap().read_to_end(&mut received).unwrap();
                assert!(received == content, "stdin {from_stdin}, GET first {get_first}, {version}");
                assert!(download.wait().success() && upload.wait().success());
            }
        }
    }
}

#[test]
fn curl_uses_one_connection_for_consecutive_streams() {
    let program = Program::start(&[]);
    let file = file();
    let path = file.path().to_str().unwrap();
    let streams = [program.create(), program.create(), program.create()];
    let connects = ["-w", "%{http_code} %{num_connects}\n"];
    let downloads = streams.iter().flat_map(|stream| ["-o", "/dev/null", stream]);
    let download = spawn(curl(&connects).args(downloads));
    let uploads = streams.iter().flat_map(|stream| ["-T", path, stream]);
    let upload = spawn(curl(&connects).args(uploads));
    for mut side in [upload, download] {
        assert!(side.wait().success());
        let mut output = String::new();
        side.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        assert_eq!(output, "200 1\n200 0\n200 0\n");
    }
}

#[test]
fn curl_sees_a_cut_on_either_side() {
    let program = Program::start(&[]);
    let file = file();
    let path = file.path().to_str().unwrap();
    for from_stdin in [false, true] {
        for kill_upload in [false, true] {
            let stream = program.create();
            let mut download = spawn(&mut curl(&["--limit-rate", "2M", "-o", "/dev/null", &stream]));
            until_state(&stream, "DST_CONNECTED");
            let mut upload =
                curl(&["-T", if from_stdin { "-" } else { path }, "-w", "%{http_code}", &stream]);
            let mut upload =
                spawn(upload.args(["--limit-rate", "2M"]).stdin(std::fs::File::open(path).unwrap()));
            until(&stream, |status| status["bytes_transferred"].as_u64().unwrap() > 0);
            if kill_upload {
                upload.signal(Signal::KILL);
                assert_eq!(download.wait().code(), Some(56), "curl: the connection was reset");
                until_state(&stream, "SRC_DISCONNECTED");
            } else {
                download.signal(Signal::KILL);
                assert_eq!(upload.wait().code(), Some(22), "curl: the status is an error");
                let mut output = String::new();
                upload.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
                assert!(output.ends_with("502"), "{output}");
                until_state(&stream, "DST_DISCONNECTED");
            }
        }
    }
}
